package main

import (
	"bytes"
	"fmt"
	"image/png"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// TestDraw draws the dashboard from a server that has one line for everything,
// and from one that has none.
func TestDraw(t *testing.T) {
	const board = "../grafana/lmcache-storage.json"
	var asked atomic.Int64
	empty := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		q := r.URL.Query()
		switch {
		case strings.Contains(q.Get("query"), "$"):
			fmt.Fprintf(w, `{"status":"error","error":"a variable is left in %s"}`, q.Get("query"))
		case empty:
			fmt.Fprint(w, `{"status":"success","data":{"result":[]}}`)
		default:
			fmt.Fprintf(w, `{"status":"success","data":{"result":[{"metric":{"instance":"a:1","op":"finish_write"},"values":[[%[1]s,"0.25"],[%[2]s,"0.75"],[%[2]s,"NaN"]]}]}}`, q.Get("start"), q.Get("end"))
		}
	}))
	defer server.Close()
	sizes := map[bool]int{}
	for _, empty = range []bool{false, true} {
		out := filepath.Join(t.TempDir(), "board.png")
		if err := run(board, server.URL, "2026-11-24T03:41:37Z", 100e9, out); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		m, err := png.Decode(bytes.NewReader(b))
		if err != nil || m.Bounds().Dx() < 1000 || m.Bounds().Dy() < 1500 {
			t.Fatalf("%v: %v", err, m)
		}
		if len(b) > 300_000 {
			t.Errorf("the picture has %d bytes", len(b))
		}
		sizes[empty] = len(b)
	}
	if n := asked.Load(); n < 80 || sizes[false] == sizes[true] {
		t.Errorf("%d questions, pictures of %v bytes", n, sizes)
	}
	server.Close()
	if err := run(board, server.URL, "", 100e9, filepath.Join(t.TempDir(), "board.png")); err == nil {
		t.Error("no error without a server")
	}
}

func TestFormat(t *testing.T) {
	for _, tc := range []struct {
		unit string
		v    float64
		want string
	}{
		{"percentunit", .125, "12.5%"}, {"bytes", 1536, "1.5 KiB"}, {"bytes", 0, "0 B"}, {"Bps", 2e9, "2 GB/s"}, {"GBs", .5, "500 MB/s"},
		{"s", 0, "0"}, {"s", 2e-6, "2 µs"}, {"s", .001, "1 ms"}, {"s", 1, "1 s"}, {"ops", 1500, "1.5k/s"}, {"short", 21718, "21718"}, {"short", 1234567, "1.23M"},
	} {
		if got := format(tc.unit, tc.v); got != tc.want {
			t.Errorf("%v %s: %q, want %q", tc.v, tc.unit, got, tc.want)
		}
	}
}
