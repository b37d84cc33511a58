package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"
)

// adminTimeout bounds a request to the HTTP front-end, as LMCache's commands do.
const adminTimeout = 10 * time.Second

// maxAdminBody bounds what a server may answer to one of these requests.
const maxAdminBody = 64 << 20

// StatusError is an answer of the HTTP front-end other than success.
type StatusError struct {
	URL    string
	Code   int
	Reason string // as the status line gives it
}

func (e *StatusError) Error() string { return fmt.Sprintf("HTTP %d: %s", e.Code, e.Reason) }

// ConnectError says that the HTTP front-end was not reached.
type ConnectError struct {
	URL string
	Err error
}

func (e *ConnectError) Unwrap() error { return e.Err }
func (e *ConnectError) Error() string {
	return fmt.Sprintf("Cannot connect to %s: %s", e.URL, e.Cause())
}

// Cause is what kept us from it, as Python puts it.
func (e *ConnectError) Cause() string {
	var number syscall.Errno
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(e.Err, &number):
		text := number.Error()
		first, size := utf8.DecodeRuneInString(text)
		return fmt.Sprintf("[Errno %d] %c%s", int(number), unicode.ToUpper(first), text[size:])
	case errors.As(e.Err, &timeout) && timeout.Timeout():
		return "timed out"
	}
	return e.Err.Error()
}

// Admin is a server's HTTP front-end. The zero value of its fields is no
// server.
type Admin struct {
	URL string // without a slash at its end
}

// NewAdmin returns the front-end at url; without a scheme that is http.
func NewAdmin(url string) Admin {
	if !strings.Contains(url, "://") {
		url = "http://" + url
	}
	return Admin{strings.TrimRight(url, "/")}
}

// Get asks for path, and returns the body of the answer and how long it took.
func (a Admin) Get(ctx context.Context, path string) ([]byte, time.Duration, error) {
	return a.do(ctx, http.MethodGet, path, "")
}

// Status returns what /status says.
func (a Admin) Status(ctx context.Context) (*Status, error) {
	body, _, err := a.Get(ctx, "/status")
	if err != nil {
		return nil, err
	}
	s := new(Status)
	if err := json.Unmarshal(body, s); err != nil {
		return nil, fmt.Errorf("%s/status: %w", a.URL, err)
	}
	return s, nil
}

// Clear drops what is in L1 and not in use.
func (a Admin) Clear(ctx context.Context) error {
	_, _, err := a.do(ctx, http.MethodPost, "/cache/clear", `{"tier":"l1"}`)
	return err
}

func (a Admin) do(ctx context.Context, method, path, body string) ([]byte, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	url := a.URL + path
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, 0, err
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	// No connection outlives its command, and none is shared: the time is that of
	// a first request.
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	start := time.Now()
	answer, err := transport.RoundTrip(r)
	if err != nil {
		return nil, time.Since(start), &ConnectError{url, err}
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAdminBody))
	took := time.Since(start)
	if err != nil {
		return nil, took, &ConnectError{url, err}
	}
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		_, reason, _ := strings.Cut(answer.Status, " ")
		return nil, took, &StatusError{url, answer.StatusCode, reason}
	}
	return text, took, nil
}
