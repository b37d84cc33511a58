// Command draw makes a picture of a Grafana dashboard without Grafana: it puts
// the dashboard's expressions to a Prometheus server and draws the panels where
// the dashboard has them.
//
//	go run ./deploy/draw -prometheus http://127.0.0.1:9090 -for 2m -o replay.png deploy/grafana/lmcache-storage.json
//
// It is for docs/observability.md: it knows the two kinds of panels, the units
// and the variables that our dashboard has.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	server := flag.String("prometheus", "http://127.0.0.1:9090", "`URL` of the server")
	span := flag.Duration("for", 2*time.Minute, "how much time to show")
	end := flag.String("until", "", "end of that `TIME`, RFC 3339 (default now)")
	out := flag.String("o", "dashboard.png", "PNG `FILE` to write")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: draw [flags] DASHBOARD.json")
		os.Exit(2)
	}
	if err := run(flag.Arg(0), *server, *end, *span, *out); err != nil {
		fmt.Fprintln(os.Stderr, "draw:", err)
		os.Exit(1)
	}
}

func run(path, server, end string, span time.Duration, out string) error {
	until := time.Now()
	if end != "" {
		var err error
		if until, err = time.Parse(time.RFC3339, end); err != nil {
			return err
		}
	}
	b, err := readBoard(path)
	if err != nil {
		return err
	}
	w := window{until.Add(-span), until}
	for i := range b.Panels {
		for j := range b.Panels[i].Targets {
			t := &b.Panels[i].Targets[j]
			if t.series, err = query(server, t.Expr, t.LegendFormat, w); err != nil {
				return fmt.Errorf("panel %q: %w", b.Panels[i].Title, err)
			}
		}
	}
	var picture bytes.Buffer
	if err := drawBoard(&picture, b, w); err != nil {
		return err
	}
	return os.WriteFile(out, picture.Bytes(), 0o644)
}
