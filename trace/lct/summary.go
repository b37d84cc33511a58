package lct

import (
	"cmp"
	"slices"

	"github.com/lmcache/lmcache-go/mmapio"
	"github.com/lmcache/lmcache-go/trace"
)

// Summarize reads the file at path to its end and says what is in it. Frames
// that are no records are passed over, with the warnings of [Reader.Next], and
// not counted. It decodes no codecs.
//
// Source: reference lct-v1.md, section 5.2.
func Summarize(path string, warn func(string)) (*trace.Summary, error) {
	r, err := Open(path, warn)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.Summarize()
}

// Summarize reads the rest of the records and counts them.
func (r *Reader) Summarize() (*trace.Summary, error) {
	s := &trace.Summary{Header: r.header}
	var events eventCounter
	count := func() {
		for r.advance(); r.ok; r.advance() {
			s.Records++
			r.name.count++
			if r.monoS > s.DurationS {
				s.DurationS = r.monoS
			}
			if r.header.Level == trace.LevelEvents {
				events.add(r.name.text, r.raw)
			}
		}
	}
	if err := mmapio.Guard(count); err != nil {
		return nil, err
	}
	for _, n := range r.names.byText {
		if n.count > 0 {
			s.Ops = append(s.Ops, trace.OpCount{Qualname: n.text, Count: n.count})
		}
	}
	slices.SortFunc(s.Ops, func(a, b trace.OpCount) int { return cmp.Compare(a.Qualname, b.Qualname) })
	if r.header.Level == trace.LevelEvents {
		s.Events = events.summary()
	}
	return s, nil
}
