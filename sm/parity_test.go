package sm_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/faultinject"
	"github.com/lmcache/lmcache-go/l2/fs"
	"github.com/lmcache/lmcache-go/l2/mock"
	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/trace"
	"github.com/lmcache/lmcache-go/trace/lct"
)

// scenario is one file of parity data: what release 0.5.6 did, record by
// record. testdata/parity/README.md specifies it.
type scenario struct {
	Format string
	Name   string
	Trace  string
	Flags  []string
	Settle struct {
		Prefetch, Store string
		EvictionEvery   int `json:"eviction_every"`
		Clock           string
	}
	DistinctKeys int `json:"distinct_keys"`
	Totals       map[string]int64
	Final        struct {
		Resident, Staged, Temporary []int
		ReadLocked                  []int `json:"read_locked"`
		Used, Capacity              int64
		Order                       []int

		// Of ARC.
		T1, T2, B1, B2 []int
		Target         *float64 `json:"target_t1_size"`
		ARCCapacity    int      `json:"arc_capacity"`
	}
	Records []outcome
}

// outcome is what one record did. Fields that are zero or empty are absent.
type outcome struct {
	I        int      `json:"i"`
	Op       string   `json:"op"`
	Codes    *string  `json:"codes"`
	Rows     []string `json:"rows"`
	Found    []string `json:"found"`
	Yields   *bool    `json:"yields"`
	Freed    int64    `json:"freed"`
	L2Stored int64    `json:"l2_stored"`
	L2Loaded int64    `json:"l2_loaded"`
	Evicted  *[]int   `json:"evicted"`
	Resident int64    `json:"resident"`
	Used     int64    `json:"used"`
}

func (o outcome) String() string {
	b, _ := json.Marshal(o)
	return string(b)
}

// TestParity replays every scenario of testdata/parity, or of the folder that
// LMCACHE_PARITY_DIR names, and compares every record, the totals and the final
// state with what LMCache 0.5.6 did.
func TestParity(t *testing.T) {
	dir := os.Getenv("LMCACHE_PARITY_DIR")
	if dir == "" {
		dir = "../testdata/parity"
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios in %s (%v)", dir, err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var s scenario
		if err := json.Unmarshal(raw, &s); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if s.Format != "lmcache-parity/1" {
			continue // another kind of JSON
		}
		t.Run(s.Name, func(t *testing.T) { s.run(t, dir) })
	}
}

func (s *scenario) run(t *testing.T, dir string) {
	folder := t.TempDir()
	cfg := parityConfig(t, s.Flags, folder)
	src, err := lct.Open(filepath.Join(dir, s.Trace), func(w string) { t.Errorf("%s: %s", s.Trace, w) })
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	clk := clock.NewVirtual(0)
	m, err := sm.New(cfg, sm.Options{Clock: clk, Memory: sm.ScratchMemory, ManualEviction: true, Adapters: parityAdapters})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()

	p := player{m: m, clk: clk, numbers: map[kv.ObjectKey]int{}, totals: map[string]int64{}}
	var args trace.Args
	i := 0
	for ; src.Next(); i++ {
		rec := src.Record()
		if err := src.Args(&args); err != nil {
			t.Fatalf("record %d, %s: %v", i, rec.Qualname, err)
		}
		if i >= len(s.Records) {
			t.Fatalf("the trace has more than the %d records of the scenario", len(s.Records))
		}
		if s.Settle.Clock == "trace" {
			if err := clk.SleepUntil(context.Background(), rec.MonoNS); err != nil {
				t.Fatal(err)
			}
		}
		got := p.play(i, rec.Op, &args, s.Settle.EvictionEvery)
		if want := s.Records[i]; !reflect.DeepEqual(got, want) {
			t.Fatalf("record %d:\ngot  %v\nwant %v", i, got, want)
		}
		if err := m.Check(); err != nil {
			t.Fatalf("after record %d: %v", i, err)
		}
	}
	if err := src.Err(); err != nil || i != len(s.Records) {
		t.Fatalf("read %d records, error %v; want %d", i, err, len(s.Records))
	}
	p.compareEnd(t, s)
}

// player issues records and says what they did in the scenario's terms.
type player struct {
	m       *sm.Manager
	clk     *clock.Virtual
	numbers map[kv.ObjectKey]int // by first appearance
	reads   []*sm.PrefetchedRead
	totals  map[string]int64
}

func (p *player) number(keys []kv.ObjectKey) {
	for _, k := range keys {
		if _, ok := p.numbers[k]; !ok {
			p.numbers[k] = len(p.numbers)
		}
	}
}

func (p *player) play(i int, op trace.Op, a *trace.Args, evictionEvery int) outcome {
	before := p.m.Stats()
	out := outcome{I: i}
	codes := func(list []l1.Code, letters map[l1.Code]string, count map[l1.Code]string) {
		var b strings.Builder
		for _, c := range list {
			b.WriteString(letters[c])
			p.totals[count[c]]++
		}
		s := b.String()
		out.Codes = &s
	}
	p.number(a.Keys)
	switch op {
	case trace.OpReserveWrite:
		out.Op = "reserve_write"
		res, err := p.m.ReserveWrite(a.Keys, a.Layout, a.Mode)
		if err != nil {
			panic(err)
		}
		list := make([]l1.Code, len(res))
		for j := range res {
			list[j] = res[j].Code
		}
		codes(list, map[l1.Code]string{l1.Success: "R", l1.KeyNotWritable: "P", l1.OutOfMemory: "M"},
			map[l1.Code]string{l1.Success: "reserved", l1.KeyNotWritable: "refused_present", l1.OutOfMemory: "refused_oom"})
	case trace.OpFinishWrite:
		out.Op = "finish_write"
		codes(p.m.FinishWrite(a.Keys), map[l1.Code]string{l1.Success: "F", l1.KeyNotExist: "X", l1.KeyInWrongState: "W"},
			map[l1.Code]string{l1.Success: "written", l1.KeyNotExist: "write_failed", l1.KeyInWrongState: "write_failed"})
	case trace.OpSubmitPrefetchTask:
		out.Op = "submit_prefetch_task"
		for _, g := range a.Spec.Groups {
			p.number(g.Keys)
		}
		h, err := p.m.SubmitPrefetchTask(a.Spec, a.Text, a.Flag)
		if err != nil {
			panic(err)
		}
		p.clk.Settle()
		res, ok := p.m.QueryPrefetchStatus(h)
		if !ok {
			panic(fmt.Sprintf("record %d: the prefetch has no result after settling", i))
		}
		for r, row := range res.Rows {
			var b strings.Builder
			for c := range row.Hits.Len() {
				switch {
				case row.L1.Test(c):
					b.WriteByte('1')
					p.totals["hit_l1"]++
				case row.L2.Test(c):
					b.WriteByte('2')
					p.totals["hit_l2"]++
				default:
					b.WriteByte('.')
					p.totals["missed"]++
				}
				p.totals["keys_requested"]++
				if row.Hits.Test(c) != (row.L1.Test(c) || row.L2.Test(c)) {
					panic(fmt.Sprintf("record %d: row %d: hits %v, from L1 %v, from L2 %v", i, r, row.Hits, row.L1, row.L2))
				}
			}
			out.Rows = append(out.Rows, b.String())
			if a.Spec.Policy == kv.FetchFull {
				out.Found = append(out.Found, row.Found.String())
			}
		}
	case trace.OpReadPrefetchedEnter:
		out.Op = "read_enter"
		r := p.m.ReadPrefetched(a.Keys)
		p.reads = append(p.reads, r)
		codes(r.Codes(), map[l1.Code]string{l1.Success: "G", l1.KeyNotExist: "X", l1.KeyNotReadable: "L"},
			map[l1.Code]string{l1.Success: "read_enter_keys", l1.KeyNotExist: "read_enter_keys", l1.KeyNotReadable: "read_enter_keys"})
		yields := r.Objects() != nil
		out.Yields = &yields
		if !yields {
			p.totals["read_enter_refused"]++
		}
	case trace.OpReadPrefetchedExit:
		out.Op = "read_exit"
		p.reads[0].Exit(nil)
		p.reads = p.reads[1:]
	case trace.OpFinishReadPrefetched:
		out.Op = "finish_read_prefetched"
		codes(p.m.FinishReadPrefetched(a.Keys, int(a.Count)), map[l1.Code]string{l1.Success: "F", l1.KeyNotExist: "X", l1.KeyInWrongState: "W"},
			map[l1.Code]string{l1.Success: "locks_released_keys", l1.KeyNotExist: "release_failed", l1.KeyInWrongState: "release_failed"})
	default:
		panic(fmt.Sprintf("record %d: unexpected operation %v", i, op))
	}
	p.clk.Settle()
	settled := p.m.Stats()
	out.Freed = settled.TemporaryFreedKeys - before.TemporaryFreedKeys
	out.L2Stored = settled.L2StoredKeys - before.L2StoredKeys
	out.L2Loaded = settled.L2LoadedKeys - before.L2LoadedKeys
	if evictionEvery > 0 && (i+1)%evictionEvery == 0 {
		keys := p.m.EvictOnce()
		if p.m.Stats().EvictionPasses > settled.EvictionPasses {
			evicted := make([]int, len(keys))
			for j, k := range keys {
				evicted[j] = p.numbers[k]
			}
			out.Evicted = &evicted
			p.totals["eviction_passes_above_watermark"]++
			p.totals["evicted"] += int64(len(keys))
		}
	}
	p.totals["temporary_freed"] += out.Freed
	p.totals["l2_stored"] += out.L2Stored
	p.totals["l2_loaded"] += out.L2Loaded
	p.totals["records"]++
	after := p.m.Stats()
	out.Resident, out.Used = after.Resident, after.UsedBytes
	return out
}

func (p *player) compareEnd(t *testing.T, s *scenario) {
	t.Helper()
	stats := p.m.Stats()
	p.totals["final_resident"] = stats.Resident
	for name, want := range s.Totals {
		if got := p.totals[name]; got != want {
			t.Errorf("total %s: got %d; want %d", name, got, want)
		}
	}
	if len(p.numbers) != s.DistinctKeys {
		t.Errorf("%d distinct keys; want %d", len(p.numbers), s.DistinctKeys)
	}
	if stats.UsedBytes != s.Final.Used || stats.CapacityBytes != s.Final.Capacity {
		t.Errorf("uses %d of %d bytes; want %d of %d", stats.UsedBytes, stats.CapacityBytes, s.Final.Used, s.Final.Capacity)
	}
	var resident, staged, temporary, locked, order []int
	snap := p.m.Snapshot()
	for _, k := range snap.Keys {
		n := p.numbers[k.Key]
		for list, in := range map[*[]int]bool{&resident: k.Resident, &staged: k.Staged, &temporary: k.Temporary, &locked: k.ReadLocked} {
			if in {
				*list = append(*list, n)
			}
		}
	}
	numbers := func(keys []kv.ObjectKey) (out []int) {
		for _, k := range keys {
			out = append(out, p.numbers[k])
		}
		return out
	}
	if s.Final.Target == nil {
		order = numbers(snap.Order)
	} else if snap.Target != *s.Final.Target || snap.Capacity != s.Final.ARCCapacity {
		t.Errorf("final target size of T1 %v, capacity %d; want %v, %d", snap.Target, snap.Capacity, *s.Final.Target, s.Final.ARCCapacity)
	}
	for _, list := range [][]int{resident, staged, temporary, locked} {
		slices.Sort(list)
	}
	for _, c := range []struct {
		name      string
		got, want []int
	}{
		{"resident", resident, s.Final.Resident}, {"staged", staged, s.Final.Staged},
		{"temporary", temporary, s.Final.Temporary}, {"read_locked", locked, s.Final.ReadLocked},
		{"order", order, s.Final.Order},
		{"t1", numbers(snap.Lists["t1"]), s.Final.T1}, {"t2", numbers(snap.Lists["t2"]), s.Final.T2},
		{"b1", numbers(snap.Lists["b1"]), s.Final.B1}, {"b2", numbers(snap.Lists["b2"]), s.Final.B2},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("final %s:\ngot  %v\nwant %v", c.name, c.got, c.want)
		}
	}
}

// parityAdapters are the stores that a scenario may name.
var parityAdapters = func() l2.Registry {
	kinds := l2.Registry{"mock": mock.Kind, "fs": fs.Kind, "fs_native": fs.NativeKind}
	kinds["fault_inject"] = faultinject.Kind(kinds)
	return kinds
}()

// parityConfig builds the configuration of a scenario's flags; a store of files
// is in folder.
func parityConfig(t *testing.T, flags []string, folder string) sm.Config {
	cfg := sm.DefaultConfig()
	number := func(s string) float64 {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	for i := 0; i < len(flags); i++ {
		if flags[i] == "--no-l1-use-lazy" || flags[i] == "--l1-use-lazy" {
			cfg.L1.UseLazy = flags[i] == "--l1-use-lazy"
			continue
		}
		value := flags[i+1]
		switch flags[i] {
		case "--l1-size-gb":
			cfg.L1.SizeBytes = int64(number(value) * (1 << 30))
		case "--l1-init-size-gb", "--periodic-notifier-interval-ms": // change nothing
		case "--l1-align-bytes":
			cfg.L1.AlignBytes = int64(number(value))
		case "--l1-write-ttl-seconds":
			cfg.L1.WriteTTLSeconds = int64(number(value))
		case "--l1-read-ttl-seconds":
			cfg.L1.ReadTTLSeconds = int64(number(value))
		case "--eviction-policy":
			cfg.Eviction.Policy = value
		case "--eviction-trigger-watermark":
			cfg.Eviction.Watermark = number(value)
		case "--eviction-ratio":
			cfg.Eviction.Ratio = number(value)
		case "--l2-store-policy":
			cfg.StorePolicy = value
		case "--l2-prefetch-policy":
			cfg.PrefetchPolicy = value
		case "--l2-prefetch-max-in-flight":
			cfg.PrefetchMaxInFlight = int(number(value))
		case "--l2-adapter":
			cfg.L2Adapters = append(cfg.L2Adapters, basePath.ReplaceAllString(value, `"base_path":`+strconv.Quote(folder)))
		default:
			t.Fatalf("scenario flag %s is not known here", flags[i])
		}
		i++
	}
	return cfg
}

// basePath is where the scenario was recorded.
var basePath = regexp.MustCompile(`"base_path": *"[^"]*"`)
