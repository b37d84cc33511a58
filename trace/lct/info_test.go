package lct_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/trace/lct"
)

const vectors = "../../testdata/lct-v1"

const sm = "lmcache.v1.distributed.storage_manager.StorageManager."

// info returns what `trace info` prints of a file, and the reader's warnings.
func info(t *testing.T, path, shown string) (text string, warnings []string) {
	t.Helper()
	s, err := lct.Summarize(path, func(w string) { warnings = append(warnings, w) })
	if err != nil {
		t.Fatalf("Summarize(%s): %v", path, err)
	}
	var b strings.Builder
	if err := s.WriteText(&b, shown); err != nil {
		t.Fatal(err)
	}
	return b.String(), warnings
}

// storageInfo is the text for a storage trace of schema, with the counts of the
// six ops in the order of their names.
func storageInfo(name string, schema int, duration, digest string, records int, counts [6]int) string {
	ops := [6]string{"finish_read_prefetched", "finish_write", "read_prefetched_results.__enter__", "read_prefetched_results.__exit__", "reserve_write", "submit_prefetch_task"}
	s := fmt.Sprintf(`Trace file: %s
  level:                storage
  format_version:       1
  trace_schema_version: %d
  duration:             %ss
  sm_config_digest:     %s
  total_records:        %d
  ops:
`, name, schema, duration, digest, records)
	for i, n := range counts {
		if n > 0 {
			s += fmt.Sprintf("    %s%s: %d\n", sm, ops[i], n)
		}
	}
	return s
}

// Digests of the hand-made files, and counts of two records of each op.
const (
	digestE1 = "0f685d8a68ee4e1fab94abd7815faccca9db9024c24ed82bea8aa0dc2c5e4b97"
	noDigest = "(none)"
)

var two = [6]int{2, 2, 2, 2, 2, 2}

// TestInfo compares with upstream's output for every file that it can read.
//
// Source: reference lct-v1.md, section 7.
func TestInfo(t *testing.T) {
	newest := configDigest(t, "tiny-newest.lct")
	schema2 := configDigest(t, "tiny-schema2.lct")
	if !strings.HasPrefix(newest, "ea14ce76") || !strings.HasPrefix(schema2, "85282701") {
		t.Errorf("digests of the newest files: got %s, %s; want ea14ce76…, 85282701…", newest, schema2)
	}
	tests := []struct {
		name     string
		want     string
		warnings []string
	}{
		{"tiny.lct", storageInfo("tiny.lct", 1, "3.125", digestE1, 12, two), nil},
		{"tiny-newest.lct", storageInfo("tiny-newest.lct", 1, "3.125", newest, 12, two), nil},
		{"tiny-schema2.lct", storageInfo("tiny-schema2.lct", 2, "3.125", schema2, 12, two), nil},
		{"truncated.lct", storageInfo("truncated.lct", 1, "2.500", digestE1, 11, [6]int{1, 2, 2, 2, 2, 2}),
			[]string{"TraceReader: truncated frame body at offset 6089 (got 344 of 347)"}},
		{"truncated-prefix.lct", storageInfo("truncated-prefix.lct", 1, "3.125", digestE1, 12, two),
			[]string{"TraceReader: truncated frame length prefix at offset 6436"}},
		{"unknown-op.lct", `Trace file: unknown-op.lct
  level:                storage
  format_version:       1
  trace_schema_version: 1
  duration:             0.500s
  sm_config_digest:     ` + digestE1 + `
  total_records:        3
  ops:
    ` + sm + `finish_write: 1
    ` + sm + `frobnicate: 1
    ` + sm + `reserve_write: 1
`, nil},
		{"no-config.lct", `Trace file: no-config.lct
  level:                storage
  format_version:       1
  trace_schema_version: 1
  duration:             0.000s
  sm_config_digest:     ` + noDigest + `
  total_records:        0
  ops: (none)
`, nil},
		{"malformed.lct", storageInfo("malformed.lct", 1, "0.500", digestE1, 3, [6]int{0, 2, 0, 0, 1, 0}), []string{
			`TraceReader: skipping malformed record at offset 972: MessagePack data is malformed: invalid opcode '\xc1' (byte 0)`,
			"TraceReader: skipping malformed record at offset 976: Input data was truncated",
			"TraceReader: skipping malformed record at offset 1009: Invalid value 'header' - at `$.type`",
		}},
		{"events.lct", eventsInfo, nil},
		{"real-0.5.6-events.lct", realEventsInfo, nil},
		{"../lct-v1-server/bench.lct", storageInfo("../lct-v1-server/bench.lct", 1, "3.176",
			"05de07760855d1f64d3db0943bb1b739562972574cea658acd2b1159748dc4bb", 5, [6]int{1, 1, 0, 0, 1, 2}), nil},

		real("0.4.6", 1, "0.132", 22, "6bddebcb6e17a2fd0b9b5ac9aa8984f6d2e17e3914b2274ec67ba18d084e19e5"),
		real("0.4.7", 1, "0.080", 22, "a90ffef2f789cba73bcb8801a897ca6f721231f745f1d37ab99fa147c002f43d"),
		real("0.5.0", 1, "0.083", 22, "30e5bed552eccae5420b215344968d5efae003f1aff3a65c2af88d7f31e820c6"),
		real("0.5.2", 1, "0.087", 22, "b4303990fb8337dd5f4d13cf7b64481304ade510624bde1953f86c1f26cdcc2a"),
		real("0.5.3rc1", 1, "0.098", 22, "edc8e3d3cb7ce484f31b9e9f64e23863c8690bacf0727bfae5518d989a968a2b"),
		real("0.5.3", 1, "0.084", 22, "266fe6343ba6c2d19dd7c41c8bae2ee2cc9e7976211948f3fbc97c042627d778"),
		real("0.5.5", 1, "0.098", 22, "0d70f20ebadbc2aeef46fa80631e42b45a335aeec1fe61a4714ce78cc268c9dd"),
		real("0.5.6", 1, "0.099", 20, "2edc5ef057f87fdf18e446a7c0e2feaf2d40d8d6a306f2f0a065abe858144ce8"),
		real("0.5.7rc2", 2, "0.074", 20, "ff2e53bb822b765bb1004fce26075b5e667a2d5b9e6a67e4c2e8b34ee5b232a0"),
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, warnings := info(t, filepath.Join(vectors, tt.name), tt.name)
			if got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			if fmt.Sprintf("%q", warnings) != fmt.Sprintf("%q", tt.warnings) {
				t.Errorf("warnings: got %q; want %q", warnings, tt.warnings)
			}
		})
	}
}

// real is the row of a file that a release has recorded: 22 records have three
// writes, 20 have two.
func real(release string, schema int, duration string, records int, digest string) struct {
	name     string
	want     string
	warnings []string
} {
	writes := 3
	if records == 20 {
		writes = 2
	}
	name := "real-" + release + ".lct"
	return struct {
		name     string
		want     string
		warnings []string
	}{name, storageInfo(name, schema, duration, digest, records, [6]int{4, writes, 4, 4, writes, 4}), nil}
}

// configDigest returns the digest in a file's header.
func configDigest(t *testing.T, name string) string {
	t.Helper()
	r, err := lct.Open(filepath.Join(vectors, name), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	return r.Header().ConfigDigest
}

const eventsInfo = `Trace file: events.lct
  level:                      events
  format_version:             1
  trace_schema_version:       1
  duration:                   5.000s
  sm_config_digest:           0f685d8a68ee4e1fab94abd7815faccca9db9024c24ed82bea8aa0dc2c5e4b97
  cache_event_schema_version: 1
  instance_id:                node-a
  lmcache_version:            0.5.6
  total_records:              6
  ops:
    events.batch: 4
    events.lifecycle: 2
  events:
    instances:                  1
      node-a: incarnations=[7] restarts=0
    batches (type/tier/backend/shared):
      access/l1/-/local: 1
      delete/l1/dram/local: 1
      store/l1/dram/local: 1
      store/l2/s3/shared: 1
    entries:
      access: 1
      delete: 1
      store: 3
    store_bytes:                12288
    entries_with_tokens:        1
    lifecycle:                  start=1, stop=1
`

const realEventsInfo = `Trace file: real-0.5.6-events.lct
  level:                      events
  format_version:             1
  trace_schema_version:       1
  duration:                   3.145s
  sm_config_digest:           b25ea611b354065999e174b13e03c6a275340a539ee450ec7ef482cb9796af96
  cache_event_schema_version: 1
  instance_id:                node-a
  lmcache_version:            0.5.6
  total_records:              10
  ops:
    events.batch: 8
    events.lifecycle: 2
  events:
    instances:                  1
      node-a: incarnations=[1795457406] restarts=0
    batches (type/tier/backend/shared):
      access/l1/-/local: 3
      config/l1/dram/local: 1
      delete/l1/dram/local: 1
      store/l1/dram/local: 3
    entries:
      access: 9
      config: 0
      delete: 1
      store: 9
    store_bytes:                147456
    entries_with_tokens:        0
    lifecycle:                  start=1, stop=1
`

// TestRefused has the files that upstream refuses, in its words.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tiny := file(t, "tiny.lct")
	at := func(name string) string { return filepath.Join(vectors, name) }
	tests := []struct{ path, want string }{
		{at("badmagic.lct"), "trace file 'P': bad magic (got b'WRNG', expected b'LMCT')"},
		{at("future-version.lct"), "trace file 'P': unsupported format_version 2 (this build reads 1)"},
		{at("future-schema.lct"), "trace file 'P': unsupported trace_schema_version 99 (this build reads 1 and 2)"},
		{at("empty.lct"), "unexpected EOF reading frame length"},
		{write("short.lct", tiny[:3]), "truncated frame length prefix at offset 0"},
		{write("cut.lct", tiny[:100]), "truncated frame body at offset 4 (got 96 of 641)"},
		{write("it's.lct", file(t, "badmagic.lct")), `trace file "P": bad magic (got b'WRNG', expected b'LMCT')`},
		{write("text.lct", []byte("\x00\x00\x00\x04abcd")), "Expected `object`, got `int`"},
		{write("record.lct", tiny[645:]), "Invalid value 'record' - at `$.type`"},
		{at("absent.lct"), "open P: no such file or directory"},
	}
	for _, tt := range tests {
		_, err := lct.Open(tt.path, nil)
		if want := strings.ReplaceAll(tt.want, "P", tt.path); err == nil || err.Error() != want {
			t.Errorf("Open(%s): got %v; want %s", tt.path, err, want)
		}
	}
}

// TestInfoJSON pins the keys of the JSON twin.
func TestInfoJSON(t *testing.T) {
	s, err := lct.Summarize(filepath.Join(vectors, "events.lct"), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(s.JSON())
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"level":"events","native":false,"format_version":1,"trace_schema_version":1,"duration_s":5,` +
		`"t_mono_start_ns":86400500000000,"t_wall_start_ns":1776470400250000000,"sm_config_digest":"` + digestE1 + `",` +
		`"level_meta":{"cache_event_schema_version":"1","instance_id":"node-a","lmcache_version":"0.5.6"},` +
		`"total_records":6,"ops":{"events.batch":4,"events.lifecycle":2},` +
		`"events":{"instances":[{"instance_id":"node-a","incarnations":[7],"restarts":0}],` +
		`"batches":[{"event_type":"access","tier":"l1","backend":"","shared":false,"batches":1},` +
		`{"event_type":"delete","tier":"l1","backend":"dram","shared":false,"batches":1},` +
		`{"event_type":"store","tier":"l1","backend":"dram","shared":false,"batches":1},` +
		`{"event_type":"store","tier":"l2","backend":"s3","shared":true,"batches":1}],` +
		`"entries":{"access":1,"delete":1,"store":3},"store_bytes":12288,"entries_with_tokens":1,"lifecycle":{"start":1,"stop":1}}}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// file returns the bytes of a vector.
func file(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
