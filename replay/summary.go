package replay

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/lmcache/lmcache-go/internal/pyfmt"
)

// The files that a replay writes into its output folder.
const (
	CSVName    = "trace_replay_ops.csv"
	JSONName   = "trace_replay_summary.json"
	ResultName = "trace_replay_result.json" // ours
)

// writeSummaries writes the files and the table that were asked for, and goes
// on when one fails.
func (d *driver) writeSummaries(r *Result) error {
	var errs []error
	write := func(kind, name string, data []byte, err error) {
		path := filepath.Join(d.OutputDir, name)
		if err == nil {
			err = os.WriteFile(path, data, 0o666)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("write %s summary: %w", kind, err))
			return
		}
		d.log.Info(kind + " written to " + path)
	}
	if d.CSV {
		data, err := r.AppendCSV(nil)
		write("CSV", CSVName, data, err)
	}
	if d.JSON {
		write("JSON", JSONName, r.AppendJSON(nil), nil)
		data, err := json.MarshalIndent(r, "", "  ")
		write("Result", ResultName, append(data, '\n'), err)
	}
	if d.Table != nil {
		if _, err := d.Table.Write(r.AppendTable(nil)); err != nil {
			errs = append(errs, fmt.Errorf("write table: %w", err))
		}
	}
	return errors.Join(errs...)
}

// AppendCSV appends the CSV summary: a row an operation, CR LF at line ends.
//
// Source: reference lct-v1.md, section 5.5.
func (r *Result) AppendCSV(dst []byte) ([]byte, error) {
	buf := bytes.NewBuffer(dst)
	w := csv.NewWriter(buf)
	w.UseCRLF = true
	ms := func(v float64) string { return strconv.FormatFloat(v, 'f', 6, 64) }
	rows := [][]string{{"qualname", "count", "errors", "mean_ms", "p50_ms", "p90_ms", "p99_ms", "min_ms", "max_ms"}}
	for _, op := range r.Ops {
		rows = append(rows, []string{op.Qualname, strconv.FormatInt(op.Count, 10), strconv.FormatInt(op.Errors, 10),
			ms(op.MeanMS), ms(op.P50MS), ms(op.P90MS), ms(op.P99MS), ms(op.MinMS), ms(op.MaxMS)})
	}
	err := w.WriteAll(rows)
	return buf.Bytes(), err
}

// AppendJSON appends LMCache's JSON summary: keys sorted, two spaces of
// indent, floats as Python prints them.
//
// Source: reference lct-v1.md, section 5.5.
func (r *Result) AppendJSON(dst []byte) []byte {
	dst = append(dst, "{\n  \"duration_s\": "...)
	dst = pyfmt.AppendFloat(dst, r.DurationS)
	dst = append(dst, ",\n  \"ops\": {"...)
	for i := range r.Ops {
		op := &r.Ops[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, "\n    "...)
		dst = pyfmt.AppendJSONString(dst, op.Qualname)
		dst = fmt.Appendf(dst, ": {\n      \"count\": %d,\n      \"errors\": %d", op.Count, op.Errors)
		for _, f := range []struct {
			key string
			ms  float64
		}{{"max_ms", op.MaxMS}, {"mean_ms", op.MeanMS}, {"min_ms", op.MinMS}, {"p50_ms", op.P50MS}, {"p90_ms", op.P90MS}, {"p99_ms", op.P99MS}} {
			dst = fmt.Appendf(dst, ",\n      %q: ", f.key)
			dst = pyfmt.AppendFloat(dst, f.ms)
		}
		dst = append(dst, "\n    }"...)
	}
	if len(r.Ops) > 0 {
		dst = append(dst, "\n  "...)
	}
	return append(dst, "}\n}\n"...)
}
