// Command table reads the output of go test -bench, passes it on, and prints a
// table of the project's speed goals: goal, measured, floor, ratio, reached.
//
//	bench/run | go run ./bench/table
//
// A benchmark that ran several times counts with its median; the spread beside
// it is (largest - smallest) / median. It exits with 1 if a benchmark failed.
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"
)

func main() {
	var failed bool
	input := io.TeeReader(os.Stdin, &watcher{os.Stdout, &failed})
	m, err := read(input)
	if err == nil {
		err = write(os.Stdout, m)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "table: %v\n", err)
		os.Exit(1)
	}
	if failed {
		fmt.Fprintln(os.Stderr, "table: a benchmark failed")
		os.Exit(1)
	}
}

// watcher passes lines on and sees those that tell of a failure.
type watcher struct {
	to     io.Writer
	failed *bool
}

func (w *watcher) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("--- FAIL")) || bytes.HasPrefix(b, []byte("FAIL")) || bytes.Contains(b, []byte("\nFAIL")) {
		*w.failed = true
	}
	return w.to.Write(b)
}

// measurements are the values of every benchmark that ran, by name and unit.
type measurements struct {
	values map[key][]float64
	config map[string]string // goos, cpu, …: the last
}

type key struct{ name, unit string }

// read collects the benchmark results in the output of go test. Lines that are
// none are passed over. Names are without "Benchmark" and the number of CPUs;
// units are as they were printed.
func read(r io.Reader) (*measurements, error) {
	m := &measurements{values: map[key][]float64{}, config: map[string]string{}}
	in := benchfmt.NewReader(r, "stdin")
	for in.Scan() {
		res, ok := in.Result().(*benchfmt.Result)
		if !ok {
			continue
		}
		for _, c := range res.Config {
			m.config[c.Key] = string(c.Value)
		}
		base, parts := res.Name.Parts()
		name := string(base)
		for _, p := range parts {
			if p[0] != '-' {
				name += string(p)
			}
		}
		for _, v := range res.Values {
			k, value := key{name, v.Unit}, v.Value
			if v.OrigUnit != "" {
				k.unit, value = v.OrigUnit, v.OrigValue
			}
			m.values[k] = append(m.values[k], value)
		}
	}
	return m, in.Err()
}

// median returns the median of a measurement and its spread; ok is false if it
// was not made.
func (m *measurements) median(k key) (median, spread float64, ok bool) {
	list := slices.Sorted(slices.Values(m.values[k]))
	if len(list) == 0 {
		return 0, 0, false
	}
	median = list[len(list)/2]
	if len(list)%2 == 0 {
		median = (median + list[len(list)/2-1]) / 2
	}
	if median != 0 {
		spread = (list[len(list)-1] - list[0]) / median
	}
	return median, spread, true
}

// write prints the tables.
func write(w io.Writer, m *measurements) error {
	out := [][]string{{"what", "goal", "measured", "floor", "ratio", "reached"}}
	for i := range rows {
		out = append(out, rows[i].cells(m))
	}
	if _, err := fmt.Fprintf(w, "\nSpeed against the goals; the floor was measured in the same run (%s, %s/%s).\n\n", m.config["cpu"], m.config["goos"], m.config["goarch"]); err != nil {
		return err
	}
	if err := writeMarkdown(w, out); err != nil {
		return err
	}
	if _, err := fmt.Fprint(w, "\nEviction policies: chunks of the conversation workload that are hits in an L1 of that size; cost of a resident object, all bookkeeping included, of a write of 16 keys and of an eviction.\n\n"); err != nil {
		return err
	}
	if err := writeMarkdown(w, policyCells(m)); err != nil {
		return err
	}
	if _, err := fmt.Fprint(w, "\nOther recorders, ns a call; the ratio is theirs to ours in the same place.\n\n"); err != nil {
		return err
	}
	if err := writeMarkdown(w, peerCells(m)); err != nil {
		return err
	}
	if _, err := fmt.Fprint(w, "\nLMCache's own figures, taken on another machine of two cores; \"faster\" is by the better of its figures.\n\n"); err != nil {
		return err
	}
	return writeMarkdown(w, releasedCells(m))
}

// writeMarkdown prints cells, of which the first row is the head, with columns
// padded to one width.
func writeMarkdown(w io.Writer, cells [][]string) error {
	width := make([]int, len(cells[0]))
	for _, row := range cells {
		for i, c := range row {
			width[i] = max(width[i], len([]rune(c)))
		}
	}
	var b strings.Builder
	for n, row := range cells {
		for i, c := range row {
			fmt.Fprintf(&b, "| %-*s ", width[i], c)
		}
		b.WriteString("|\n")
		if n == 0 {
			for i := range row {
				fmt.Fprintf(&b, "|%s", strings.Repeat("-", width[i]+2))
			}
			b.WriteString("|\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
