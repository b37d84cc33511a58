package main

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/lmcache/lmcache-go/trace"
	"github.com/lmcache/lmcache-go/trace/tracefile"
)

func newTraceVerify(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check every frame of a trace and say what is whole and what is lost",
		Long: `Check every frame of a trace: checksums, definitions, arguments, sequence numbers
and the counts in header and footer; of LMCache's files that every record and
argument decodes. Answers with the number of records and of those that are lost,
then says which parts are whole and which are damaged, and where calls are missing.

Exit status 0: every frame is valid and nothing is missing, sealed or not.
1: a bad frame, a record missing, or calls that the recorder dropped.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := oneFile(args)
			if err != nil {
				return err
			}
			return a.traceVerify(cmd.Context(), path, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object instead")
	return cmd
}

func (a *app) traceVerify(ctx context.Context, path string, asJSON bool) error {
	v, err := tracefile.Verify(ctx, path)
	if err != nil {
		return about(path, err)
	}
	if asJSON {
		err = a.printJSON(verifyJSON(path, v))
	} else {
		w := bufio.NewWriter(a.stdout)
		writeVerification(w, path, v)
		err = w.Flush()
	}
	if err == nil && !v.OK() {
		err = errReported
	}
	return err
}

// listedFindings bounds the lines of one kind; --json has all.
const listedFindings = 20

func writeVerification(w io.Writer, path string, v *trace.Verification) {
	fmt.Fprintf(w, "%s: %v\n", path, v)
	line := func(label, format string, args ...any) {
		fmt.Fprintf(w, "  %-9s %s\n", label, fmt.Sprintf(format, args...))
	}
	switch {
	case !v.Header.Native:
		line("format", "LMCache's, which has no checksums and no counts")
	case v.Sealed:
		line("format", "native, sealed")
	default:
		line("format", "native, not sealed")
	}
	if v.Outcomes > 0 || v.LostOutcomes > 0 {
		line("outcomes", "%d, %d lost", v.Outcomes, v.LostOutcomes)
	}
	capped(w, len(v.Parts), func(i int) {
		p := &v.Parts[i]
		switch {
		case p.Damage != nil:
			line("damaged", "bytes %d to %d: %s: %v", p.Offset, p.End, p.Damage.Field, p.Damage.Err)
		case p.Records == 0:
			line("whole", "bytes %d to %d, no records", p.Offset, p.End)
		default:
			line("whole", "bytes %d to %d: %d records, calls %d to %d, %.6f s to %.6f s",
				p.Offset, p.End, p.Records, p.FirstSeq, p.LastSeq, seconds(p.FirstNS), seconds(p.LastNS))
		}
	})
	capped(w, len(v.Gaps), func(i int) {
		g := &v.Gaps[i]
		why := "lost from the file"
		if g.Dropped {
			why = "dropped by the recorder"
		}
		when := fmt.Sprintf("after %.6f s", seconds(g.AfterNS))
		if g.BeforeNS >= 0 {
			when = fmt.Sprintf("between %.6f s and %.6f s", seconds(g.AfterNS), seconds(g.BeforeNS))
		}
		line("missing", "%d calls from call %d on, before byte %d, %s: %s", g.Count, g.FirstSeq, g.Offset, when, why)
	})
	capped(w, len(v.Problems), func(i int) {
		p := v.Problems[i]
		line("wrong", "byte %d: %s: %v", p.Offset, p.Field, p.Err)
	})
	if v.More > 0 {
		line("more", "%d findings that are not listed", v.More)
	}
	for _, n := range v.Notes {
		line("note", "%s", n)
	}
}

// capped calls print for the first of n things, and says how many more there are.
func capped(w io.Writer, n int, print func(i int)) {
	for i := range min(n, listedFindings) {
		print(i)
	}
	if n > listedFindings {
		fmt.Fprintf(w, "  %-9s … and %d more (see --json)\n", "", n-listedFindings)
	}
}

func seconds(ns int64) float64 { return float64(ns) / 1e9 }

type verificationJSON struct {
	Path         string        `json:"path"`
	OK           bool          `json:"ok"`
	Verdict      string        `json:"verdict"`
	Native       bool          `json:"native"`
	Sealed       bool          `json:"sealed"`
	SizeBytes    int64         `json:"size_bytes"`
	Records      int64         `json:"records"`
	Lost         int64         `json:"lost_records"`
	AtLeast      bool          `json:"lost_records_is_lower_bound"`
	Dropped      int64         `json:"dropped_records"`
	Unreadable   int64         `json:"unreadable_records"`
	Outcomes     int64         `json:"outcomes"`
	LostOutcomes int64         `json:"lost_outcomes"`
	Parts        []partJSON    `json:"parts"`
	Gaps         []gapJSON     `json:"gaps"`
	Problems     []problemJSON `json:"problems"`
	More         int64         `json:"more_findings"`
	Notes        []string      `json:"notes"`
}

type partJSON struct {
	Whole    bool         `json:"whole"`
	Offset   int64        `json:"offset_bytes"`
	End      int64        `json:"end_bytes"`
	Records  int64        `json:"records"`
	FirstSeq *uint64      `json:"first_seq,omitempty"`
	LastSeq  *uint64      `json:"last_seq,omitempty"`
	FirstNS  *int64       `json:"first_t_mono_ns,omitempty"`
	LastNS   *int64       `json:"last_t_mono_ns,omitempty"`
	Damage   *problemJSON `json:"damage,omitempty"`
}

type gapJSON struct {
	FirstSeq uint64 `json:"first_seq"`
	Count    int64  `json:"lost_records"`
	Dropped  bool   `json:"dropped"`
	Offset   int64  `json:"offset_bytes"`
	AfterNS  int64  `json:"after_t_mono_ns"`
	BeforeNS *int64 `json:"before_t_mono_ns"` // null at the end
}

type problemJSON struct {
	Offset int64  `json:"offset_bytes"`
	Field  string `json:"field"`
	Error  string `json:"error"`
}

func verifyJSON(path string, v *trace.Verification) *verificationJSON {
	j := &verificationJSON{
		Path: path, OK: v.OK(), Verdict: v.String(), Native: v.Header.Native, Sealed: v.Sealed, SizeBytes: v.Bytes,
		Records: v.Records, Lost: v.Lost, AtLeast: v.AtLeast && v.Lost > 0, Dropped: v.Dropped, Unreadable: v.Unreadable,
		Outcomes: v.Outcomes, LostOutcomes: v.LostOutcomes, More: v.More,
		Parts: []partJSON{}, Gaps: []gapJSON{}, Problems: []problemJSON{}, Notes: append([]string{}, v.Notes...),
	}
	problem := func(e *trace.CorruptError) problemJSON { return problemJSON{e.Offset, e.Field, e.Err.Error()} }
	for i := range v.Parts {
		p := &v.Parts[i]
		part := partJSON{Whole: p.Damage == nil, Offset: p.Offset, End: p.End, Records: p.Records}
		if p.Damage != nil {
			d := problem(p.Damage)
			part.Damage = &d
		}
		if p.Records > 0 {
			part.FirstSeq, part.LastSeq, part.FirstNS, part.LastNS = &p.FirstSeq, &p.LastSeq, &p.FirstNS, &p.LastNS
		}
		j.Parts = append(j.Parts, part)
	}
	for i := range v.Gaps {
		g := &v.Gaps[i]
		gap := gapJSON{g.FirstSeq, g.Count, g.Dropped, g.Offset, g.AfterNS, nil}
		if g.BeforeNS >= 0 {
			gap.BeforeNS = &g.BeforeNS
		}
		j.Gaps = append(j.Gaps, gap)
	}
	for _, p := range v.Problems {
		j.Problems = append(j.Problems, problem(p))
	}
	return j
}
