package workload_test

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/bench/workload"
	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/sm"
)

// patternOf opens a generated workload with 8192 tokens a GB, which are 32
// chunks.
func patternOf(t testing.TB, k workload.Kind, change func(*workload.PatternOptions)) workload.Workload {
	t.Helper()
	o := workload.DefaultPatternOptions()
	o.TokensPerGB, o.L1GB = 8192, 20
	if change != nil {
		change(&o)
	}
	return open(t, string(k), workload.SourceOptions{Pattern: &o})
}

// sharedPrefix returns how many leading chunks two requests share.
func sharedPrefix(a, b [][32]byte) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// split returns copies of the requests of the warm-up and of the others. The
// first of the others must have the fence, and nobody else.
func split(t *testing.T, w workload.Workload) (warm, measured []workload.Request) {
	t.Helper()
	ids := map[string]bool{}
	for w.Next() {
		r := *w.Request()
		r.Hashes, r.Generated = slices.Clone(r.Hashes), slices.Clone(r.Generated)
		if r.Warmup && len(measured) > 0 || r.Fence != (!r.Warmup && len(measured) == 0 && len(warm) > 0) {
			t.Errorf("request %s: warm-up %v, fence %v behind %d and %d requests", r.ID, r.Warmup, r.Fence, len(warm), len(measured))
		}
		if ids[r.ID] || len(r.Hashes) != r.InputTokens/w.ChunkTokens() {
			t.Errorf("request %s: given twice, or %d hashes for %d tokens", r.ID, len(r.Hashes), r.InputTokens)
		}
		ids[r.ID] = true
		if r.Warmup {
			warm = append(warm, r)
		} else {
			measured = append(measured, r)
		}
	}
	if err := w.Err(); err != nil {
		t.Fatal(err)
	}
	return warm, measured
}

func TestMultiRoundChat(t *testing.T) {
	warm, rounds := split(t, patternOf(t, workload.MultiRoundChat, func(o *workload.PatternOptions) { o.VolumeGB = 10 }))
	const users = 6 // 10 × 8192 / 12000
	if len(warm) != users || len(rounds) != 60 {
		t.Fatalf("%d warm-ups and %d rounds; want %d and 60", len(warm), len(rounds), users)
	}
	for i, r := range rounds {
		round := i / users
		if want := 12000 + 50 + round*250; r.InputTokens != want || r.OutputTokens != 200 || r.ArrivalNS != int64(i)*1e9 || r.Stream != i%users+1 {
			t.Errorf("request %d: %+v; want %d tokens", i, r, want)
		}
		before, said := warm[i%users].Hashes, 12000/256
		if round > 0 {
			last := rounds[i-users]
			before, said = slices.Concat(last.Hashes, last.Generated), (last.InputTokens+last.OutputTokens-1)/256
		}
		if len(before) != said || sharedPrefix(before, r.Hashes) != said {
			t.Errorf("request %d: has %d of the %d chunks of before, %d said", i, sharedPrefix(before, r.Hashes), len(before), said)
		}
		if other := rounds[(i+1)%users]; sharedPrefix(other.Hashes, r.Hashes) != 0 && other.Stream != r.Stream {
			t.Errorf("request %d: shares a prefix with another user", i)
		}
	}
	if _, rounds := split(t, patternOf(t, workload.MultiRoundChat, func(o *workload.PatternOptions) {
		o.VolumeGB, o.MultiRoundChat.QPS, o.MultiRoundChat.DurationS = 0.1, 2.5, 3
	})); len(rounds) != 8 || rounds[7].Stream != 1 || rounds[7].ArrivalNS != 2.8e9 {
		t.Errorf("2.5 a second for 3 s, one user: %d rounds, the last %+v", len(rounds), rounds[len(rounds)-1])
	}
}

func TestLongDocQA(t *testing.T) {
	const documents = 81 // 100 × 8192 / 10000
	order := map[bool][]string{}
	for _, tile := range []bool{false, true} {
		warm, asked := split(t, patternOf(t, workload.LongDocQA, func(o *workload.PatternOptions) { o.LongDocQA.Tile = tile }))
		if len(warm) != documents || len(asked) != 2*documents {
			t.Fatalf("%d warm-ups and %d questions", len(warm), len(asked))
		}
		for i, r := range asked {
			var document, question int
			if _, err := fmt.Sscanf(r.ID, "ldqa-%d/%d", &document, &question); err != nil || r.Limit != 3 {
				t.Fatalf("request %s: limit %d, %v", r.ID, r.Limit, err)
			}
			if shared := sharedPrefix(warm[document].Hashes, r.Hashes); shared != 10000/256 {
				t.Errorf("request %s shares %d chunks with its document", r.ID, shared)
			}
			if tile && (document != i%documents || question != i/documents) {
				t.Errorf("request %d of a tile is %s", i, r.ID)
			}
			order[tile] = append(order[tile], r.ID)
		}
	}
	if slices.Equal(order[true], order[false]) {
		t.Error("nothing was shuffled")
	}
	slices.Sort(order[true])
	slices.Sort(order[false])
	if !slices.Equal(order[true], order[false]) {
		t.Error("the shuffled questions are others")
	}
}

func TestLongDocPermutator(t *testing.T) {
	for _, c := range []struct{ contexts, want, got int }{
		{5, 10, 10}, {3, 10, 6}, {1, 10, 1}, {4, 24, 24}, {4, 2, 2}, {12, 50, 50}, {200, 3, 3},
	} {
		_, all := split(t, patternOf(t, workload.LongDocPermutator, func(o *workload.PatternOptions) {
			l := &o.LongDocPermutator
			l.Contexts, l.Permutations, l.Context, l.SystemPrompt = c.contexts, c.want, 512, 256
		}))
		if len(all) != c.got {
			t.Errorf("%d contexts, %d orders: got %d", c.contexts, c.want, len(all))
		}
		distinct := map[string]bool{}
		for _, r := range all {
			distinct[fmt.Sprint(r.Hashes)] = true
			if r.InputTokens != 256+c.contexts*512 || r.Hashes[0] != all[0].Hashes[0] {
				t.Errorf("%d contexts: %d tokens, or another system prompt", c.contexts, r.InputTokens)
			}
		}
		if len(distinct) != len(all) {
			t.Errorf("%d contexts: %d different orders of %d", c.contexts, len(distinct), len(all))
		}
	}
	// The first orders in lexicographic order share all but the last two contexts.
	_, all := split(t, patternOf(t, workload.LongDocPermutator, func(o *workload.PatternOptions) { o.LongDocPermutator.Permutations = 100 }))
	if got, want := sharedPrefix(all[0].Hashes, all[1].Hashes), (1000+3*5000)/256; got != want {
		t.Errorf("the first two orders share %d chunks, want %d", got, want)
	}
}

func TestPrefixSuffixTuner(t *testing.T) {
	first, second := split(t, patternOf(t, workload.PrefixSuffixTuner, nil))
	if len(first) != 26 || len(second) != 26 { // 20 × 1.05 × 8192 / 6400
		t.Fatalf("passes of %d and %d", len(first), len(second))
	}
	for i := range first {
		if shared := sharedPrefix(first[i].Hashes, second[i].Hashes); shared != 6400/256 {
			t.Errorf("prefix %d: the passes share %d chunks", i, shared)
		}
		if first[i].InputTokens != 8000 || second[i].Limit != 1 || first[i].Limit != 1 {
			t.Errorf("prefix %d: %+v", i, second[i])
		}
	}
}

func TestRandomPrefill(t *testing.T) {
	warm, all := split(t, patternOf(t, workload.RandomPrefill, nil))
	seen := map[[32]byte]bool{}
	for _, r := range all {
		for _, h := range r.Hashes {
			seen[h] = true
		}
	}
	if len(warm) != 0 || len(all) != 50 || len(seen) != 50*39 {
		t.Errorf("%d warm-ups, %d requests, %d chunks", len(warm), len(all), len(seen))
	}
}

func TestKVTierPressure(t *testing.T) {
	warm, all := split(t, patternOf(t, workload.KVTierPressure, nil))
	if len(warm) != 8 || len(all) != 200 { // 2 × 20 × 8192 / 2560 = 128 documents, 16 a request
		t.Fatalf("%d and %d requests", len(warm), len(all))
	}
	// One document a request: the first chunk behind the system prompt says which.
	for _, skew := range []float64{0, 1, 3} {
		const pool, requests = 32, 4000
		pressure := func(o *workload.PatternOptions) {
			k := &o.KVTierPressure
			k.Pool, k.PerRequest, k.Requests, k.Skew = pool, 1, requests, skew
		}
		warm, all := split(t, patternOf(t, workload.KVTierPressure, pressure))
		document := map[[32]byte]int{}
		for i, r := range warm {
			document[r.Hashes[1]] = i
		}
		got, sum := make([]float64, pool), 0.0
		for _, r := range all {
			got[document[r.Hashes[1]]]++
		}
		for i := range pool {
			sum += math.Pow(float64(i+1), -skew)
		}
		for i := range pool {
			share := math.Pow(float64(i+1), -skew) / sum
			if limit := 5 * math.Sqrt(requests*share*(1-share)); math.Abs(got[i]-requests*share) > max(limit, 3) {
				t.Errorf("skew %v: document %d drawn %v times, want %.0f", skew, i, got[i], requests*share)
			}
		}
	}
	// Several: all of them different, also where nearly the whole pool is drawn.
	for _, r := range func() []workload.Request {
		_, all := split(t, patternOf(t, workload.KVTierPressure, func(o *workload.PatternOptions) {
			k := &o.KVTierPressure
			k.Pool, k.PerRequest, k.Document, k.SystemPrompt, k.Skew = 17, 16, 256, 0, 50
		}))
		return all
	}() {
		if r.InputTokens != 16*256 {
			t.Fatalf("%d tokens", r.InputTokens)
		}
	}
}

func TestPatternsAreDeterministic(t *testing.T) {
	for _, k := range workload.PatternKinds {
		digest := func(seed uint64) string {
			warm, all := split(t, patternOf(t, k, func(o *workload.PatternOptions) { o.Seed = seed }))
			return fmt.Sprint(warm, all)
		}
		first, again, other := digest(1), digest(1), digest(2)
		if first != again || first == other {
			t.Errorf("%s: a seed is not one workload", k)
		}
	}
}

func TestPatternOptions(t *testing.T) {
	for _, c := range []struct {
		kind   workload.Kind
		change func(*workload.PatternOptions)
		want   string
	}{
		{workload.MultiRoundChat, func(o *workload.PatternOptions) { o.TokensPerGB = 0 }, "tokens a GB"},
		{workload.MultiRoundChat, func(o *workload.PatternOptions) { o.VolumeGB = math.Inf(1) }, "volume"},
		{workload.MultiRoundChat, func(o *workload.PatternOptions) { o.MultiRoundChat.QPS = math.NaN() }, "requests a second"},
		{workload.LongDocQA, func(o *workload.PatternOptions) { o.VolumeGB = 1e15 }, "at most"},
		{workload.LongDocQA, func(o *workload.PatternOptions) { o.LongDocQA.QueriesPerDocument = 1 << 40 }, "questions"},
		{workload.LongDocPermutator, func(o *workload.PatternOptions) { o.LongDocPermutator.Contexts = 0 }, "at least 1"},
		{workload.PrefixSuffixTuner, func(o *workload.PatternOptions) { o.PrefixSuffixTuner.PrefixRatio = 0.99 }, "leaves 48 behind"},
		{workload.PrefixSuffixTuner, func(o *workload.PatternOptions) { o.PrefixSuffixTuner.ThrashGB = 0.1 }, "does not hold a prefix"},
		{workload.KVTierPressure, func(o *workload.PatternOptions) { o.KVTierPressure.Pool = 15 }, "16 different"},
		{workload.KVTierPressure, func(o *workload.PatternOptions) { o.KVTierPressure.Skew = -1 }, "skew"},
	} {
		o := workload.DefaultPatternOptions()
		o.TokensPerGB, o.L1GB = 8192, 20
		c.change(&o)
		_, err := workload.Spec{Kind: c.kind}.Open(workload.SourceOptions{Pattern: &o})
		if !errors.Is(err, workload.ErrOptions) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), string(c.kind)) {
			t.Errorf("%s: got %v; want one that says %q", c.kind, err, c.want)
		}
	}
	w := patternOf(t, workload.RandomPrefill, func(o *workload.PatternOptions) { o.RandomPrefill.Length = 1 << 40 })
	if w.Next() || w.Err() == nil {
		t.Error("a request of 2^40 tokens")
	}
}

// TestPatternsRun runs each pattern against the storage manager on virtual time
// and looks at what it is for.
func TestPatternsRun(t *testing.T) {
	run := func(k workload.Kind, l1GB float64, ratio float64, change func(*workload.PatternOptions)) *workload.Result {
		t.Helper()
		clk := clock.NewVirtual(0)
		cfg := sm.DefaultConfig()
		cfg.L1.SizeBytes = int64(l1GB * (1 << 30))
		cfg.Eviction.Policy, cfg.Eviction.Ratio = "LRU", ratio
		m, err := sm.New(cfg, sm.Options{Clock: clk})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		r, err := workload.Run(t.Context(), patternOf(t, k, change), workload.Options{Manager: workload.Storage(m), Clock: clk})
		if err != nil || r.Completed != r.Requests {
			t.Fatalf("%s: %d of %d, %v", k, r.Completed, r.Requests, err)
		}
		return r
	}
	// A tier that holds all: every round hits what was said before it.
	chat := run(workload.MultiRoundChat, 30, 0.2, func(o *workload.PatternOptions) { o.VolumeGB = 10 })
	_, rounds := split(t, patternOf(t, workload.MultiRoundChat, func(o *workload.PatternOptions) { o.VolumeGB = 10 }))
	said := int64(0)
	for _, r := range rounds {
		said += int64((r.InputTokens - 50 - min(1, r.InputTokens-12050)) / 256) // nobody has the KV of an answer's last token
	}
	if chat.HitChunks != said || chat.Warmup == nil || chat.Warmup.Requests != 6 || chat.Warmup.HitChunks != 0 {
		t.Errorf("chat: %d of %d chunks hit, %d said before, warm-up %+v", chat.HitChunks, chat.Chunks, said, chat.Warmup)
	}
	// A tile over more than the tier holds is LRU's worst case; what fits is hit.
	if qa := run(workload.LongDocQA, 20, 0.2, func(o *workload.PatternOptions) { o.LongDocQA.Tile = true }); qa.HitChunks != 0 || qa.PeakRunning != 3 {
		t.Errorf("tile over too much: %d chunks hit, %d at once", qa.HitChunks, qa.PeakRunning)
	}
	if qa := run(workload.LongDocQA, 150, 0.2, nil); qa.HitChunks != qa.Chunks {
		t.Errorf("questions over what fits: %d of %d chunks hit", qa.HitChunks, qa.Chunks)
	}
	// The tier that is exceeded by 5 % has none of the second pass; twice the
	// tier has every prefix.
	if psf := run(workload.PrefixSuffixTuner, 20, 0.99, nil); psf.HitChunks != 0 || psf.PeakRunning != 1 {
		t.Errorf("the tier that was to be exceeded hit %d chunks, %d at once", psf.HitChunks, psf.PeakRunning)
	}
	if psf := run(workload.PrefixSuffixTuner, 60, 0.2, nil); psf.HitChunks != 26*25 {
		t.Errorf("with room for all: %d chunks hit", psf.HitChunks)
	}
	if rp := run(workload.RandomPrefill, 70, 0.2, nil); rp.PeakRunning != 50 || rp.HitChunks != 0 || rp.Warmup != nil || rp.WrittenKeys != 50*39 {
		t.Errorf("prefill: %+v", rp)
	}
	uniform := run(workload.KVTierPressure, 20, 0.2, func(o *workload.PatternOptions) { o.KVTierPressure.PerRequest = 1 })
	skewed := run(workload.KVTierPressure, 20, 0.2, func(o *workload.PatternOptions) {
		o.KVTierPressure.PerRequest, o.KVTierPressure.Skew = 1, 1.5
	})
	if uniform.PeakRunning != 8 || !(skewed.ChunkHitRate() > uniform.ChunkHitRate() && uniform.ChunkHitRate() > 0.1) {
		t.Errorf("hit rates %.2f uniform, %.2f skewed", uniform.ChunkHitRate(), skewed.ChunkHitRate())
	}
	// The same options make the same run.
	again := run(workload.MultiRoundChat, 30, 0.2, func(o *workload.PatternOptions) { o.VolumeGB = 10 })
	if !reflect.DeepEqual(again.Storage, chat.Storage) || again.RunDuration != chat.RunDuration {
		t.Errorf("two runs: %+v and %+v", again.Storage, chat.Storage)
	}
}
