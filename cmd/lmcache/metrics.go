package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/lmcache/lmcache-go/internal/pyfmt"
)

// metrics is what a client command found out, printed as LMCache prints it: a
// table, or one JSON object.
type metrics struct {
	title    string
	width    int // of the table
	sections []metricSection
}

// metricSection is a group of values; without a key they belong to the whole.
type metricSection struct {
	key, title string
	listed     bool // one of several with the key, which JSON has as an array
	rows       []metricRow
}

// metricRow is one value: text, an integer, a float64, a bool, or nil for none.
type metricRow struct {
	key, label string
	value      any
}

// add adds a value that belongs to no section; those come first.
func (m *metrics) add(key, label string, value any) {
	if len(m.sections) == 0 {
		m.sections = append(m.sections, metricSection{})
	}
	m.sections[0].rows = append(m.sections[0].rows, metricRow{key, label, value})
}

func (m *metrics) section(key, title string, rows ...metricRow) {
	m.sections = append(m.sections, metricSection{key, title, false, rows})
}

// listed adds a section that is one of several of a kind.
func (m *metrics) listed(key, title string, rows ...metricRow) {
	m.sections = append(m.sections, metricSection{key, title, true, rows})
}

// writeText writes the table.
func (m *metrics) writeText(w io.Writer) error {
	var b strings.Builder
	head := func(title string, fill string) {
		title = " " + title + " "
		n := max(m.width-len(title), 0)
		b.WriteString(strings.Repeat(fill, n/2) + title + strings.Repeat(fill, n-n/2) + "\n")
	}
	head(m.title, "=")
	for _, s := range m.sections {
		if s.title != "" {
			head(s.title, "-")
		}
		for _, r := range s.rows {
			text := fmt.Sprint(r.value)
			switch v := r.value.(type) {
			case nil:
				text = "N/A"
			case bool:
				text = "False"
				if v {
					text = "True"
				}
			case float64:
				text = strconv.FormatFloat(v, 'f', 2, 64)
			}
			fmt.Fprintf(&b, "%s:%*s\n", r.label, max(m.width-len(r.label)-1, len(text)+1), text)
		}
	}
	b.WriteString(strings.Repeat("=", m.width) + "\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// writeJSON writes one JSON object, its keys in the order of the table.
func (m *metrics) writeJSON(w io.Writer) error {
	b := pyfmt.AppendJSONString([]byte(`{"title":`), m.title)
	b = append(b, `,"metrics":{`...)
	comma := func(first bool) {
		if !first {
			b = append(b, ',')
		}
	}
	done := map[string]bool{}
	for i, s := range m.sections {
		switch {
		case s.key == "":
			b = s.appendRows(b)
			continue
		case done[s.key]:
			continue
		}
		done[s.key] = true
		comma(i == 0)
		b = append(pyfmt.AppendJSONString(b, s.key), ':')
		if !s.listed {
			b = append(s.appendRows(append(b, '{')), '}')
			continue
		}
		b = append(b, '[')
		for j, entry := range m.sections[i:] {
			if entry.key == s.key {
				comma(j == 0)
				b = append(entry.appendRows(append(b, '{')), '}')
			}
		}
		b = append(b, ']')
	}
	b = append(b, "}}"...)
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		return err
	}
	out.WriteByte('\n')
	_, err := out.WriteTo(w)
	return err
}

// appendRows appends the members of the section's JSON object.
func (s *metricSection) appendRows(b []byte) []byte {
	for i, r := range s.rows {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(pyfmt.AppendJSONString(b, r.key), ':')
		switch v := r.value.(type) {
		case nil:
			b = append(b, "null"...)
		case float64:
			b = pyfmt.AppendJSONFloat(b, v)
		case string:
			b = pyfmt.AppendJSONString(b, v)
		default:
			b = fmt.Append(b, v) // an integer or a bool
		}
	}
	return b
}

// metricFlags say where metrics go.
type metricFlags struct {
	format string
	output string
	quiet  bool
}

func (f *metricFlags) define(flags *pflag.FlagSet) {
	f.format = "terminal"
	flags.Var(choiceValue{&f.format, []string{"terminal", "json"}}, "format", "terminal or json")
	flags.StringVar(&f.output, "output", "", "also write them to the file `PATH`, in that format")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "nothing on stdout; the exit status says it")
}

// emit writes m where the flags say.
func (f *metricFlags) emit(a *app, m *metrics) error {
	write := m.writeText
	if f.format == "json" {
		write = m.writeJSON
	}
	if f.output != "" {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			return err
		}
		if err := os.WriteFile(f.output, b.Bytes(), 0o666); err != nil {
			return err
		}
		a.log.Info("Results saved to " + f.output)
	}
	if f.quiet {
		return nil
	}
	return write(a.stdout)
}

// rounded gives v with as many digits behind the point as LMCache's JSON has.
func rounded(v float64, digits int) float64 {
	r, _ := strconv.ParseFloat(strconv.FormatFloat(v, 'f', digits, 64), 64)
	return r
}
