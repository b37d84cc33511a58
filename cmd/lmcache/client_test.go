package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// fakeServer answers as LMCache 0.5.6 does, with a status that its own server
// gave, and remembers what was asked.
func fakeServer(t *testing.T) (url string, asked *[]string) {
	t.Helper()
	status, err := os.ReadFile("testdata/client/status-0.5.6.json")
	if err != nil {
		t.Fatal(err)
	}
	asked = new([]string)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		*asked = append(*asked, fmt.Sprintf("%s %s %s", r.Method, r.URL.Path, body))
		switch r.URL.Path {
		case "/status":
			w.Write(status)
		case "/healthcheck":
			io.WriteString(w, `{"status":"healthy"}`)
		case "/cache/clear":
			io.WriteString(w, `{"status":"ok","cleared":{"tier":"l1"}}`)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL, asked
}

// lmcache runs a command line in this process.
func lmcache(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), args, &out, &errs)
	return status, out.String(), errs.String()
}

// The expected files are what LMCache 0.5.6's own command printed of that
// status, but for the policy, which it does not find.
func TestDescribeAsLMCache(t *testing.T) {
	const recorded = "http://localhost:27081" // as long as the address of the fake
	url, _ := fakeServer(t)
	for format, file := range map[string]string{"terminal": "describe.txt", "json": "describe.json"} {
		want, err := os.ReadFile(filepath.Join("testdata/client", file))
		if err != nil {
			t.Fatal(err)
		}
		status, got, stderr := lmcache(t, "describe", "kvcache", "--url", url, "--format", format)
		pad := strings.Repeat(" ", max(0, len(recorded)-len(url)))
		if got = strings.ReplaceAll(got, pad+url, recorded); format == "json" {
			got = strings.ReplaceAll(got, url, recorded)
		}
		if status != exitDone || got != string(want) {
			t.Errorf("describe --format %s: status %d, %s\n%s\nwant\n%s", format, status, stderr, got, want)
		}
	}
}

func TestClientCommands(t *testing.T) {
	url, asked := fakeServer(t)
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	const refused = `\[Errno 111\] Connection refused`
	for _, c := range []struct {
		args           string
		status         int
		stdout, stderr string // patterns of the whole
		asked          string
	}{
		{"ping kvcache --url " + url, 0, `=+ Ping KV Cache =+\nStatus: +OK\nRound trip time \(ms\): +\d+\.\d\d\n={30}\n`, "", "GET /healthcheck "},
		{"ping --url " + strings.TrimPrefix(url, "http://") + "/ kvcache -q", 0, "", "", "GET /healthcheck "},
		{"ping engine --url " + url, 1, `=+ Ping Engine =+\nStatus: +FAIL\n.*\n=+\n`, `HTTP 404: Not Found\n`, "GET /health "},
		{"ping kvcache --url " + dead.URL, 1, `(?s)=.*FAIL.*`, "Cannot connect to " + dead.URL + "/healthcheck: " + refused + `\n`, ""},
		{"ping", 2, "", `(?s)usage:.*: the following arguments are required: target\n`, ""},
		{"ping vllm", 2, "", `(?s).*argument target: invalid choice: 'vllm' \(choose from 'kvcache', 'engine'\)\n`, ""},
		{"describe kvcache --url " + dead.URL, 1, "", "Cannot connect to " + dead.URL + "/status: " + refused + `\n`, ""},
		{"describe kvcache -q --url " + url, 0, "", "", "GET /status "},
		{"kvcache clear --url " + url, 0, `=+ KV Cache Clear =+\nStatus: +OK\n={48}\n`, "", `POST /cache/clear {"tier":"l1"}`},
		{"kvcache --format json clear --url " + url, 0, `{\n  "title": "KV Cache Clear",\n  "metrics": {\n    "status": "OK"\n  }\n}\n`, "", `POST /cache/clear {"tier":"l1"}`},
		{"kvcache clear --url " + dead.URL, 1, "", `.* LMCache ERROR: Cannot reach ` + dead.URL + `/cache/clear — is the server running\? \(` + refused + `\) .*\n`, ""},
		{"kvcache clear", 2, "", `(?s)usage:.*the following arguments are required: --url\n`, ""},
	} {
		*asked = nil
		status, stdout, stderr := lmcache(t, strings.Fields(c.args)...)
		for _, part := range []struct{ name, got, pattern string }{{"stdout", stdout, c.stdout}, {"stderr", stderr, c.stderr}} {
			if !regexp.MustCompile(`^(?:` + part.pattern + `)$`).MatchString(part.got) {
				t.Errorf("%s: %s %q; want to match %q", c.args, part.name, part.got, part.pattern)
			}
		}
		if got := strings.Join(*asked, "; "); status != c.status || got != c.asked {
			t.Errorf("%s: status %d, asked %q; want %d, %q", c.args, status, got, c.status, c.asked)
		}
	}
}

// What --output writes is what stdout shows.
func TestMetricsToFile(t *testing.T) {
	url, _ := fakeServer(t)
	path := filepath.Join(t.TempDir(), "ping.json")
	status, stdout, stderr := lmcache(t, "ping", "kvcache", "--url", url, "--format", "json", "--output", path)
	written, err := os.ReadFile(path)
	if status != exitDone || err != nil || string(written) != stdout || !json.Valid(written) {
		t.Errorf("status %d, %s, %v: wrote %q; printed %q", status, stderr, err, written, stdout)
	}
}
