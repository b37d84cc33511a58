// Package golden reads recorded exchanges between LMCache's own clients and
// server, for the tests of every package that speaks with either.
//
// Source: testdata/zmq/README.md.
package golden

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Kind says what a line of a session is.
type Kind int

const (
	Request Kind = iota // from client to server
	Reply               // from server to client
	Silence             // the request before it got no reply
)

// Line is one line of a session.
type Line struct {
	Kind   Kind
	Number int    // in the file, from 1
	Conn   string // the client's connection
	Frames [][]byte
	Wait   time.Duration // how long a Silence lasted
	Case   string        // what the request tries, if the file says so
	Text   string        // the decoded view, for people
}

// Control says whether the line is a stream's control message, which has an
// empty operation frame.
func (l *Line) Control() bool {
	return l.Kind == Request && len(l.Frames) > 1 && len(l.Frames[1]) == 0
}

// Parse reads a session.
func Parse(r io.Reader) ([]Line, error) {
	var lines []Line
	name := ""
	in := bufio.NewScanner(r)
	in.Buffer(nil, 16<<20)
	for n := 1; in.Scan(); n++ {
		text := in.Text()
		if c, ok := strings.CutPrefix(text, "# case: "); ok {
			name = c
		}
		if text == "" || text[0] == '#' {
			continue
		}
		l, err := parseLine(text)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if l.Kind == Request {
			l.Case, name = name, ""
		}
		l.Number = n
		lines = append(lines, l)
	}
	return lines, in.Err()
}

func parseLine(text string) (Line, error) {
	var l Line
	text, l.Text, _ = strings.Cut(text, "  # ")
	fields := strings.Fields(text)
	if len(fields) < 3 {
		return l, fmt.Errorf("%q: fewer than three fields", text)
	}
	l.Conn = fields[1]
	switch fields[0] {
	case ">":
		l.Kind = Request
	case "<":
		l.Kind = Reply
	case "-":
		l.Kind = Silence
		ms, err := strconv.Atoi(fields[2])
		l.Wait = time.Duration(ms) * time.Millisecond
		return l, err
	default:
		return l, fmt.Errorf("%q: no message", text)
	}
	for _, f := range fields[2:] {
		b := []byte{}
		if f != "." {
			var err error
			if b, err = hex.DecodeString(f); err != nil {
				return l, err
			}
		}
		l.Frames = append(l.Frames, b)
	}
	return l, nil
}

// Exchange is a request with what the server sent in answer to it: nothing, one
// message, or those of a stream.
type Exchange struct {
	Request Line
	Replies []Line
}

// Exchanges pairs requests and replies by connection and uid. Requests keep
// their order.
func Exchanges(lines []Line) ([]Exchange, error) {
	var list []Exchange
	for _, l := range lines {
		switch l.Kind {
		case Request:
			list = append(list, Exchange{Request: l})
		case Reply:
			e := find(list, l)
			if e == nil {
				return nil, fmt.Errorf("line %d: a reply to nothing", l.Number)
			}
			e.Replies = append(e.Replies, l)
		}
	}
	return list, nil
}

// find returns the last request that reply can be the answer to.
func find(list []Exchange, reply Line) *Exchange {
	for i := len(list) - 1; i >= 0; i-- {
		e := &list[i]
		if e.Request.Conn == reply.Conn && !e.Request.Control() && bytes.Equal(e.Request.Frames[0], reply.Frames[0]) {
			return e
		}
	}
	return nil
}
