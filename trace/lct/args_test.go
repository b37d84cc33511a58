package lct_test

import (
	"path/filepath"
	"testing"

	"github.com/lmcache/lmcache-go/trace"
	"github.com/lmcache/lmcache-go/trace/lct"
)

var replayable = []string{
	"real-0.4.6.lct", "real-0.4.7.lct", "real-0.5.0.lct", "real-0.5.2.lct", "real-0.5.3rc1.lct", "real-0.5.3.lct",
	"real-0.5.5.lct", "real-0.5.6.lct", "real-0.5.7rc2.lct", "tiny.lct", "tiny-newest.lct", "tiny-schema2.lct",
	"../lct-v1-server/bench.lct",
}

// TestArgsComplete decodes every record of every era.
func TestArgsComplete(t *testing.T) {
	for _, name := range replayable {
		r, err := lct.Open(filepath.Join(vectors, name), func(w string) { t.Errorf("%s: warning %s", name, w) })
		if err != nil {
			t.Fatal(err)
		}
		var a trace.Args
		for r.Next() {
			if err := r.Args(&a); err != nil {
				t.Errorf("%s: record %d %s: %v", name, r.Record().Seq, r.Record().Qualname, err)
			}
			if r.Record().Op == trace.OpSubmitPrefetchTask {
				if err := a.Spec.Validate(); err != nil {
					t.Errorf("%s: record %d: %v", name, r.Record().Seq, err)
				}
			} else if a.Spec != nil || len(a.Keys) == 0 {
				t.Errorf("%s: record %d: %d keys, spec %v", name, r.Record().Seq, len(a.Keys), a.Spec)
			}
		}
		if err := r.Err(); err != nil {
			t.Error(err)
		}
		r.Close()
	}
}
