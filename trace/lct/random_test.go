package lct_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/trace"
	"github.com/lmcache/lmcache-go/trace/lct"
)

// TestRandomArgs writes random calls in the shapes of every era and reads them
// back: what comes back is what was written, but for the losses that AppendRecord
// named.
func TestRandomArgs(t *testing.T) {
	for era := lct.E1; era <= lct.S2; era++ {
		rng := rand.New(rand.NewPCG(uint64(era), 7))
		h := &trace.Header{SchemaVersion: era.SchemaVersion(), Level: trace.LevelStorage, MonoStartNS: 86_400_500_000_000}
		head, err := lct.AppendHeaderOf(nil, era, h)
		if err != nil {
			t.Fatal(err)
		}
		var seen lct.Loss
		for i := range 3000 {
			ops := slices.DeleteFunc(slices.Clone(trace.Schema()), func(r trace.Row) bool { return r.Ours })
			op := ops[rng.IntN(len(ops))].Op
			a := randomArgs(t, rng, op)
			rec := trace.Record{Op: op, Qualname: op.String(), MonoNS: rng.Int64N(1e15), WallNS: 1_760_000_000_000_000_000 + rng.Int64N(1e15)}
			file, loss, err := lct.AppendRecord(head[:len(head):len(head)], era, h, &rec, &a)
			if err != nil {
				t.Fatalf("era %d, call %d: %v", era, i, err)
			}
			seen |= loss
			r, err := lct.NewReader(file, "random.lct", func(w string) { t.Error(w) })
			if err != nil || !r.Next() {
				t.Fatalf("era %d, call %d: no record, %v", era, i, err)
			}
			if got := r.Record(); loss&lct.LossTime == 0 && (got.MonoNS != rec.MonoNS || got.WallNS != rec.WallNS) {
				t.Errorf("era %d, call %d: got times %d, %d; want %d, %d, not named as lost", era, i, got.MonoNS, got.WallNS, rec.MonoNS, rec.WallNS)
			}
			var got trace.Args
			if err := r.Args(&got); err != nil {
				t.Fatalf("era %d, call %d, %s: reading back %s: %v", era, i, op, describe(&a), err)
			}
			want, have := normal(t, &a, loss), normal(t, &got, loss)
			if !reflect.DeepEqual(have, want) {
				t.Fatalf("era %d, call %d, %s, lost %q: got\n%s\nwant\n%s\nwas\n%s", era, i, op, loss, describe(&have), describe(&want), describe(&a))
			}
		}
		if seen == 0 {
			t.Errorf("era %d: nothing was ever lost", era)
		}
	}
}

// randomArgs returns arguments such as a native file may hold, often odd ones.
func randomArgs(t *testing.T, rng *rand.Rand, op trace.Op) (a trace.Args) {
	salt := func() string {
		if rng.IntN(8) == 0 {
			return "tenant"
		}
		return ""
	}
	list := func(n, contexts int, withSalt string) (keys []kv.ObjectKey) {
		for i := range n {
			keys = append(keys, key(t, i, uint64(1+rng.IntN(contexts)), uint32(rng.IntN(contexts)), withSalt))
		}
		return keys
	}
	layouts := []kv.Layout{layoutOf(t, 2, 16), layoutOf(t, 2, 32), 0}
	for _, arg := range op.Row().Args {
		switch arg.Type {
		case trace.ArgKeys:
			a.Keys = list(rng.IntN(5), 2, salt())
		case trace.ArgLayout:
			a.Layout = layouts[rng.IntN(len(layouts))]
		case trace.ArgMode:
			a.Mode = kv.WriteMode(rng.IntN(3))
		case trace.ArgText:
			a.Text = []string{"", "req-1", "é"}[rng.IntN(3)]
		case trace.ArgFlag:
			a.Flag = rng.IntN(2) == 0
		case trace.ArgCount:
			a.Count = int64(rng.IntN(5)) - 1
		case trace.ArgSpec:
			s := &kv.PrefetchSpec{Readers: int32(rng.IntN(4)), Policy: kv.FetchPolicy(rng.IntN(3)), Lock: kv.LockMode(rng.IntN(2))}
			if rng.IntN(4) == 0 {
				s.L1Tags = []kv.MemoryTag{{Segment: "dram", Residency: "local"}}
				s.L2Tags = []kv.MemoryTag{}
			}
			chunks, ranks, groups := rng.IntN(4), 1+rng.IntN(2), 1+rng.IntN(2)
			withSalt := salt()
			s.Flat = rng.IntN(6) == 0
			if s.Flat {
				ranks, groups = 1, 1
			}
			odd := rng.IntN(6) == 0 // not a grid
			for g := range groups {
				layout, window := layouts[rng.IntN(len(layouts))], int32(kv.FullAttention)
				if rng.IntN(3) == 0 {
					window = int32(1 + rng.IntN(4))
				}
				for rank := range ranks {
					row := kv.KeyGroup{Group: uint32(g), Layout: layout, Window: window}
					if rng.IntN(10) == 0 {
						row.Window = 9 // not that of the other ranks
					}
					for c := range chunks {
						k := key(t, c, uint64(1+rank), uint32(g), withSalt)
						if odd && rng.IntN(2) == 0 {
							k = key(t, 100+c, uint64(rng.IntN(3)), uint32(rng.IntN(3)), withSalt)
						}
						row.Keys = append(row.Keys, k)
					}
					s.Groups = append(s.Groups, row)
				}
			}
			a.Spec = s
		}
	}
	return a
}

// normal returns a copy of a without what was lost.
func normal(t *testing.T, a *trace.Args, loss lct.Loss) trace.Args {
	has := func(l lct.Loss) bool { return loss&l != 0 }
	strip := func(keys []kv.ObjectKey) []kv.ObjectKey {
		out := []kv.ObjectKey{}
		for _, k := range keys {
			if has(lct.LossSalt) {
				scope, err := kv.InternScope(k.Scope.Model(), "")
				if err != nil {
					t.Fatal(err)
				}
				k.Scope = scope
			}
			if has(lct.LossGroup) {
				k.Group = 0
			}
			out = append(out, k)
		}
		return out
	}
	n := trace.Args{Keys: strip(a.Keys), Layout: a.Layout, Mode: a.Mode, Text: a.Text, Flag: a.Flag, Count: a.Count}
	if has(lct.LossWriteMode) {
		n.Mode = 0
	}
	if has(lct.LossSkipL2) {
		n.Flag = false
	}
	if has(lct.LossLocks) {
		n.Count = max(1, n.Count)
	}
	if a.Spec == nil {
		return n
	}
	s := *a.Spec
	s.Groups = nil
	if has(lct.LossPolicy) {
		s.Policy = 0
	}
	if has(lct.LossLock) {
		s.Lock = 0
	}
	if has(lct.LossTags) {
		s.L1Tags, s.L2Tags = nil, nil
	}
	if has(lct.LossLocks) {
		s.Readers = max(1, s.Readers)
	}
	if has(lct.LossShape) {
		var flat []kv.ObjectKey
		for c := range a.Spec.Chunks() {
			for _, g := range a.Spec.Groups {
				flat = append(flat, g.Keys[c])
			}
		}
		s.Flat, s.Groups = false, []kv.KeyGroup{{Keys: strip(flat)}}
		n.Spec = &s
		return n
	}
	for _, g := range a.Spec.Groups {
		g.Keys = strip(g.Keys)
		if has(lct.LossGroup) {
			g.Group = 0
		}
		if has(lct.LossWindow) {
			g.Window = kv.FullAttention
		}
		if has(lct.LossLayout) {
			g.Layout = 0
		}
		s.Groups = append(s.Groups, g)
	}
	n.Spec = &s
	return n
}

func describe(a *trace.Args) string {
	s := fmt.Sprintf("%d keys %v, layout %v, mode %v, text %q, flag %t, count %d", len(a.Keys), a.Keys, a.Layout.Desc(), a.Mode, a.Text, a.Flag, a.Count)
	if a.Spec != nil {
		s += fmt.Sprintf("\nspec %+v", *a.Spec)
	}
	return s
}
