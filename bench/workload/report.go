package workload

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// facts describes the engine.
func (e *engine) facts() []Fact {
	rate := func(v float64, unit string) string {
		if v < 0 {
			return "unlimited"
		}
		return strconv.FormatFloat(v, 'g', -1, 64) + unit
	}
	f := []Fact{
		{"Model", e.Model},
		{"Chunk layout", e.Layout.Desc().String()},
		{"Chunk size (tokens)", strconv.Itoa(e.workload.ChunkTokens())},
		{"Ranks", strconv.Itoa(e.Ranks)},
		{"Speed", strconv.FormatFloat(e.Speed, 'g', -1, 64)},
		{"Prefill (tokens/s)", rate(e.PrefillTokensPerSecond, "")},
		{"Decode (tokens/s)", rate(e.DecodeTokensPerSecond, "")},
		{"Copy (GB/s)", rate(e.CopyBytesPerSecond/1e9, "")},
		{"Poll interval", e.PollInterval.String()},
	}
	if e.MaxRequests > 0 {
		f = append(f, Fact{"Requests at most", strconv.Itoa(e.MaxRequests)})
	}
	if e.MaxDuration > 0 {
		f = append(f, Fact{"Workload time at most", e.MaxDuration.String()})
	}
	return f
}

// latency is one line of latencies, as both outputs name it.
type latency struct {
	name string
	h    *Histogram
}

func (r *Result) calls() []latency {
	return []latency{
		{"submit_prefetch_task", &r.Submit},
		{"query_prefetch_status", &r.Query},
		{"read_prefetched_results.enter", &r.Enter},
		{"read_prefetched_results.exit", &r.Exit},
		{"finish_read_prefetched", &r.FinishRead},
		{"reserve_write", &r.Reserve},
		{"finish_write", &r.FinishWrite},
	}
}

const tableWidth = 64

// WriteText writes the result as a table of the width and form of the one that
// trace replay prints.
//
// Source: reference lct-v1.md, section 5.5.
func (r *Result) WriteText(w io.Writer) error {
	t := table{}
	t.section("Storage Benchmark Result", '=')
	t.section("Workload", '-')
	for _, f := range r.Description {
		t.row(f.Label, f.Value)
	}
	t.section("Overall", '-')
	t.row("Time", map[bool]string{true: "virtual", false: "real"}[r.VirtualTime])
	t.row("Workload duration (s)", seconds(r.WorkloadDuration))
	t.row("Run duration (s)", seconds(r.RunDuration))
	t.row("Measured duration (s)", seconds(r.MeterDuration))
	t.row("Requests started", r.Requests)
	t.row("Requests completed", r.Completed)
	t.row("Requests running at most", r.PeakRunning)
	t.row("Input tokens", r.InputTokens)
	if w := r.Warmup; w != nil {
		t.section("Warm-up, not counted below", '-')
		t.row("Requests of the warm-up", w.Requests)
		t.row("Warm-up duration (s)", seconds(w.Duration))
		t.row("Warm-up chunks looked up", w.Chunks)
		t.row("Warm-up chunks hit", w.HitChunks)
		t.row("Warm-up keys written", w.WrittenKeys)
	}
	t.section("Cache", '-')
	t.row("Chunks looked up", r.Chunks)
	t.row("Chunks hit", r.HitChunks)
	t.row("Chunk hit rate (%)", 100*r.ChunkHitRate())
	t.row("Token hit rate (%)", 100*r.TokenHitRate())
	t.row("Requests, all chunks hit", r.FullHits)
	t.row("Requests, no chunk hit", r.NoHits)
	t.row("Prefetches given up", r.PrefetchTimeouts)
	t.row("Keys hit but unreadable", r.UnreadableKeys)
	t.row("Keys reserved", r.ReservedKeys)
	t.row("Keys refused, present", r.RefusedKeys)
	t.row("Keys refused, out of memory", r.OOMKeys)
	t.row("Keys written", r.WrittenKeys)
	t.row("Keys reserved but timed out", r.UnwrittenKeys)
	s := &r.Storage
	t.section("Storage Manager", '-')
	t.row("L1 hit keys", s.L1HitKeys)
	t.row("L1 hit (GiB)", gib(s.L1HitBytes))
	t.row("L2 hit keys", s.L2HitKeys)
	t.row("L2 hit (GiB)", gib(s.L2HitBytes))
	t.row("Written (GiB)", gib(s.WrittenBytes))
	t.row("Out of memory (GiB)", gib(s.OOMBytes))
	t.row("Eviction passes", s.EvictionPasses)
	t.row("Evicted keys", s.EvictedKeys)
	t.row("Evicted (GiB)", gib(s.EvictedBytes))
	t.row("L2 stored (GiB)", gib(s.L2StoredBytes))
	t.row("L2 loaded (GiB)", gib(s.L2LoadedBytes))
	t.row("L2 evicted (GiB)", gib(s.L2EvictedBytes))
	t.row("L1 used (GiB)", gib(s.UsedBytes))
	t.row("L1 capacity (GiB)", gib(s.CapacityBytes))
	t.section("Waiting (ms)", '-')
	t.latency("prefetch", &r.PrefetchWait, 1e6)
	t.latency("lag", &r.Lag, 1e6)
	t.section("Per-Call Latency (us)", '-')
	for _, c := range r.calls() {
		t.latency(c.name, c.h, 1e3)
	}
	t.WriteString(strings.Repeat("=", tableWidth) + "\n")
	_, err := io.WriteString(w, t.String())
	return err
}

func seconds(d time.Duration) float64 { return d.Seconds() }
func gib(bytes int64) float64         { return float64(bytes) / (1 << 30) }

// table lays out lines as LMCache's tables are.
type table struct{ strings.Builder }

// section centres a title; with an odd number of fill characters the extra one
// is on the right.
func (t *table) section(title string, fill byte) {
	title = " " + title + " "
	n := max(tableWidth-len(title), 0)
	t.WriteString(strings.Repeat(string(fill), n/2) + title + strings.Repeat(string(fill), n-n/2) + "\n")
}

// row writes a label and its value, at least one space apart.
func (t *table) row(label string, value any) {
	text := fmt.Sprint(value)
	if v, ok := value.(float64); ok {
		text = strconv.FormatFloat(v, 'f', 2, 64)
	}
	fmt.Fprintf(t, "%s:%*s\n", label, max(tableWidth-len(label)-1, len(text)+1), text)
}

func (t *table) latency(name string, h *Histogram, unit float64) {
	t.row(name+" count", h.TotalCount())
	if h.TotalCount() == 0 {
		return
	}
	t.row(name+" mean", h.Mean()/unit)
	t.row(name+" p50", float64(h.ValueAtQuantile(50))/unit)
	t.row(name+" p99", float64(h.ValueAtQuantile(99))/unit)
	t.row(name+" max", float64(h.Max())/unit)
}

// latencyJSON is a histogram's summary in ms.
type latencyJSON struct {
	Count  int64   `json:"count"`
	MeanMS float64 `json:"mean_ms"`
	MinMS  float64 `json:"min_ms"`
	P50MS  float64 `json:"p50_ms"`
	P90MS  float64 `json:"p90_ms"`
	P99MS  float64 `json:"p99_ms"`
	P999MS float64 `json:"p999_ms"`
	MaxMS  float64 `json:"max_ms"`
}

func (h *Histogram) summary() latencyJSON {
	if h.TotalCount() == 0 {
		return latencyJSON{}
	}
	q := func(p float64) float64 { return float64(h.ValueAtQuantile(p)) / 1e6 }
	return latencyJSON{h.TotalCount(), h.Mean() / 1e6, float64(h.Min()) / 1e6, q(50), q(90), q(99), q(99.9), float64(h.Max()) / 1e6}
}

type warmupJSON struct {
	Requests    int     `json:"requests"`
	Chunks      int64   `json:"chunks"`
	HitChunks   int64   `json:"hit_chunks"`
	WrittenKeys int64   `json:"written_keys"`
	DurationS   float64 `json:"duration_s"`
}

func (w *Warmup) json() *warmupJSON {
	if w == nil {
		return nil
	}
	return &warmupJSON{w.Requests, w.Chunks, w.HitChunks, w.WrittenKeys, seconds(w.Duration)}
}

// MarshalJSON gives the facts of WriteText in one object.
func (r *Result) MarshalJSON() ([]byte, error) {
	description := make(map[string]string, len(r.Description))
	for _, f := range r.Description {
		description[snake(f.Label)] = f.Value
	}
	calls := map[string]latencyJSON{}
	for _, c := range r.calls() {
		calls[c.name] = c.h.summary()
	}
	s := &r.Storage
	return json.Marshal(struct {
		Description       map[string]string      `json:"description"`
		VirtualTime       bool                   `json:"virtual_time"`
		WorkloadDurationS float64                `json:"workload_duration_s"`
		RunDurationS      float64                `json:"run_duration_s"`
		MeasuredDurationS float64                `json:"measured_duration_s"`
		Warmup            *warmupJSON            `json:"warmup,omitempty"`
		Requests          int                    `json:"requests"`
		Completed         int                    `json:"completed"`
		PeakRunning       int                    `json:"peak_running"`
		InputTokens       int64                  `json:"input_tokens"`
		OutputTokens      int64                  `json:"output_tokens"`
		Chunks            int64                  `json:"chunks"`
		HitChunks         int64                  `json:"hit_chunks"`
		MissedChunks      int64                  `json:"missed_chunks"`
		HitTokens         int64                  `json:"hit_tokens"`
		ChunkHitRate      float64                `json:"chunk_hit_rate"`
		TokenHitRate      float64                `json:"token_hit_rate"`
		FullHits          int                    `json:"full_hit_requests"`
		NoHits            int                    `json:"no_hit_requests"`
		PrefetchTimeouts  int                    `json:"prefetch_timeouts"`
		UnreadableKeys    int64                  `json:"unreadable_keys"`
		ReservedKeys      int64                  `json:"reserved_keys"`
		RefusedKeys       int64                  `json:"refused_keys"`
		OOMKeys           int64                  `json:"oom_keys"`
		WrittenKeys       int64                  `json:"written_keys"`
		UnwrittenKeys     int64                  `json:"unwritten_keys"`
		Storage           map[string]int64       `json:"storage"`
		PrefetchWait      latencyJSON            `json:"prefetch_wait"`
		Lag               latencyJSON            `json:"lag"`
		Calls             map[string]latencyJSON `json:"calls"`
	}{
		description, r.VirtualTime,
		seconds(r.WorkloadDuration), seconds(r.RunDuration), seconds(r.MeterDuration),
		r.Warmup.json(), r.Requests, r.Completed, r.PeakRunning, r.InputTokens, r.OutputTokens,
		r.Chunks, r.HitChunks, r.Chunks - r.HitChunks, r.HitTokens, r.ChunkHitRate(), r.TokenHitRate(),
		r.FullHits, r.NoHits, r.PrefetchTimeouts, r.UnreadableKeys,
		r.ReservedKeys, r.RefusedKeys, r.OOMKeys, r.WrittenKeys, r.UnwrittenKeys,
		map[string]int64{
			"used_bytes": s.UsedBytes, "capacity_bytes": s.CapacityBytes,
			"resident_objects": s.Resident, "staged_objects": s.Staged,
			"requested_keys": s.RequestedKeys, "requested_bytes": s.RequestedBytes,
			"l1_hit_keys": s.L1HitKeys, "l1_hit_bytes": s.L1HitBytes,
			"l2_hit_keys": s.L2HitKeys, "l2_hit_bytes": s.L2HitBytes,
			"reserved_keys": s.ReservedKeys, "reserved_bytes": s.ReservedBytes,
			"refused_keys": s.RefusedKeys, "oom_keys": s.OOMKeys, "oom_bytes": s.OOMBytes,
			"written_keys": s.WrittenKeys, "written_bytes": s.WrittenBytes,
			"eviction_passes": s.EvictionPasses, "evicted_keys": s.EvictedKeys, "evicted_bytes": s.EvictedBytes,
			"l2_stored_keys": s.L2StoredKeys, "l2_stored_bytes": s.L2StoredBytes,
			"l2_loaded_keys": s.L2LoadedKeys, "l2_loaded_bytes": s.L2LoadedBytes,
			"l2_eviction_passes": s.L2EvictionPasses, "l2_evicted_keys": s.L2EvictedKeys, "l2_evicted_bytes": s.L2EvictedBytes,
			"temporary_freed_keys": s.TemporaryFreedKeys, "pending_prefetches": s.PendingPrefetches,
		},
		r.PrefetchWait.summary(), r.Lag.summary(), calls,
	})
}

// snake turns a label into a key: lower case, words joined by _.
func snake(label string) string {
	words := strings.FieldsFunc(strings.ToLower(label), func(c rune) bool {
		return !('a' <= c && c <= 'z' || '0' <= c && c <= '9')
	})
	return strings.Join(words, "_")
}
