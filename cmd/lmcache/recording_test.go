package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The tests here record workloads with the program, dump the recording with
// the program, and hold it against the workload file by the rules of
// docs/workloads.md, which they put in their own words.

const (
	mooncakeFile = "../../testdata/workloads/mooncake-fast25/conversation_trace.jsonl.gz"
	agenticFile  = "../../testdata/workloads/agentic-coding/sessions_2.raw.jsonl.gz"
)

// lookup is a dumped submit_prefetch_task.
type lookup struct {
	MonoNS int64 `json:"t_mono_ns"`
	Args   struct {
		ID   string `json:"external_request_id"`
		Spec struct {
			Groups []struct {
				Keys []struct {
					Hash  string `json:"chunk_hash_hex"`
					Model string `json:"model_name"`
					Rank  int64  `json:"kv_rank"`
				} `json:"keys"`
			} `json:"key_groups"`
		} `json:"spec"`
	} `json:"args"`
}

// hashes returns the chunk hashes of group g.
func (l *lookup) hashes(g int) []string {
	var list []string
	for _, k := range l.Args.Spec.Groups[g].Keys {
		list = append(list, k.Hash)
	}
	return list
}

// program runs a command line in this process and returns its stdout.
func program(t *testing.T, args ...string) []byte {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if status := run(context.Background(), args, &stdout, &stderr); status != exitDone {
		t.Fatalf("lmcache %s: exit status %d\n%s", strings.Join(args, " "), status, &stderr)
	}
	return stdout.Bytes()
}

// recordLookups records a workload and returns its lookups, by request id.
func recordLookups(t *testing.T, args ...string) map[string]*lookup {
	t.Helper()
	t.Setenv("LMCACHE_LOG_LEVEL", "WARNING")
	path := filepath.Join(t.TempDir(), "w.lct")
	program(t, append([]string{"bench", "storage", "--virtual-time", "--l1-size-gb", "64", "--eviction-policy", "LRU",
		"--trace-level", "storage", "--trace-output", path}, args...)...)
	lookups := map[string]*lookup{}
	for line := range bytes.Lines(program(t, "trace", "dump", path, "--jsonl", "--op", "submit_prefetch_task")) {
		l := new(lookup)
		if err := json.Unmarshal(line, l); err != nil {
			t.Fatal(err)
		}
		if lookups[l.Args.ID] != nil {
			t.Errorf("two lookups of request %s", l.Args.ID)
		}
		lookups[l.Args.ID] = l
	}
	return lookups
}

// gunzipLines returns the first n lines of a file, all if n is 0.
func gunzipLines(t *testing.T, path string, n int) [][]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	if _, err := all.ReadFrom(z); err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSuffix(all.Bytes(), []byte("\n")), []byte("\n"))
	if n > 0 {
		lines = lines[:n]
	}
	return lines
}

func chunkHash(format string, args ...any) string {
	sum := sha256.Sum256(fmt.Appendf(nil, format, args...))
	return hex.EncodeToString(sum[:])
}

func TestMooncakeRecordingAgreesWithFile(t *testing.T) {
	const requests = 200
	got := recordLookups(t, "--workload", "mooncake:"+mooncakeFile, "--requests", fmt.Sprint(requests), "--ranks", "2", "--model", "m")
	if len(got) != requests {
		t.Fatalf("%d lookups; want %d", len(got), requests)
	}
	for n, line := range gunzipLines(t, mooncakeFile, requests) {
		var q struct {
			Timestamp int64   `json:"timestamp"`
			Input     int     `json:"input_length"`
			Blocks    []int64 `json:"hash_ids"`
		}
		if err := json.Unmarshal(line, &q); err != nil {
			t.Fatal(err)
		}
		l := got[fmt.Sprintf("mooncake-%d", n)]
		if l == nil {
			t.Fatalf("no lookup of request %d", n)
		}
		if want := q.Timestamp * 1e6; l.MonoNS != want {
			t.Errorf("request %d: at %d ns; want %d", n, l.MonoNS, want)
		}
		if len(l.Args.Spec.Groups) != 2 {
			t.Fatalf("request %d: %d groups; want one a rank", n, len(l.Args.Spec.Groups))
		}
		for rank := range 2 {
			if got, want := len(l.hashes(rank)), q.Input/256; got != want {
				t.Fatalf("request %d, rank %d: %d chunks; want %d", n, rank, got, want)
			}
			for j, k := range l.Args.Spec.Groups[rank].Keys {
				wantRank := int64(2<<24 | rank<<16 | 2<<8 | rank)
				if want := chunkHash("mooncake:%d:%d", q.Blocks[j/2], j%2); k.Hash != want || k.Model != "m" || k.Rank != wantRank {
					t.Fatalf("request %d, chunk %d: got %+v; want hash %s, rank %#x", n, j, k, want, wantRank)
				}
			}
		}
	}
}

// agenticEntry is an element of a session's list of requests.
type agenticEntry struct {
	T        float64        `json:"t"`
	Input    int            `json:"in"`
	Blocks   []int64        `json:"hash_ids"`
	Requests []agenticEntry `json:"requests"`
}

func TestAgenticRecordingAgreesWithFile(t *testing.T) {
	got := recordLookups(t, "--workload", "agentic:"+agenticFile, "--sessions-per-hour", "1000")
	checked := 0
	for _, line := range gunzipLines(t, agenticFile, 0) {
		var session struct {
			ID       string         `json:"id"`
			Block    int            `json:"block_size"`
			Requests []agenticEntry `json:"requests"`
		}
		if err := json.Unmarshal(line, &session); err != nil {
			t.Fatal(err)
		}
		if session.Block != 64 {
			t.Fatalf("%s has blocks of %d tokens; the rule here is for 64", session.ID, session.Block)
		}
		start := int64(-1) // of the session; its first lookup tells
		check := func(id string, q agenticEntry, t0 float64) {
			if q.Input < 256 {
				return // no full chunk, no call
			}
			l := got[id]
			if l == nil {
				t.Fatalf("no lookup of request %s", id)
			}
			checked++
			since := int64((t0 + q.T) * 1e9)
			if start < 0 {
				start = l.MonoNS - since
			}
			if off := l.MonoNS - start - since; off < -1000 || off > 1000 { // floating-point seconds
				t.Errorf("request %s: %d ns off its time in the session", id, off)
			}
			hashes := l.hashes(0)
			if len(hashes) != q.Input/256 {
				t.Fatalf("request %s: %d chunks; want %d", id, len(hashes), q.Input/256)
			}
			for j, h := range hashes {
				if want := chunkHash("agentic:%s:%d:0", session.ID, q.Blocks[4*j+3]); h != want {
					t.Fatalf("request %s, chunk %d: hash %s; want %s", id, j, h, want)
				}
			}
		}
		for i, q := range session.Requests {
			id := fmt.Sprintf("%s/%d", session.ID, i)
			check(id, q, 0)
			for j, sub := range q.Requests {
				check(fmt.Sprintf("%s.%d", id, j), sub, q.T)
			}
		}
	}
	if checked != len(got) || checked == 0 {
		t.Errorf("%d lookups, of which %d are in the file", len(got), checked)
	}
}

// A chat's prompt is one of the system prompts, then the conversation's own
// chunks; each round repeats the one before.
func TestChatRecordingKeys(t *testing.T) {
	const requests = 120
	got := recordLookups(t, "--workload", "chat:7", "--requests", fmt.Sprint(requests))
	if len(got) < requests/2 { // short prompts have no full chunk
		t.Fatalf("%d lookups of %d requests", len(got), requests)
	}
	repeated := 0
	for id, l := range got {
		var conversation, round int
		if _, err := fmt.Sscanf(id, "chat-%d/%d", &conversation, &round); err != nil {
			t.Fatalf("request id %q: %v", id, err)
		}
		hashes := l.hashes(0)
		prompt, inPrompt := -1, true
		for j, h := range hashes {
			if h == chunkHash("chat:7:conversation:%d:%d:0", conversation, j) {
				inPrompt = false
				continue
			}
			found := -1
			for p := range 16 {
				if h == chunkHash("chat:7:prompt:%d:%d:0", p, j) {
					found = p
				}
			}
			if !inPrompt || found < 0 || prompt >= 0 && found != prompt {
				t.Fatalf("request %s, chunk %d: hash %s is of no system prompt and not of the conversation", id, j, h)
			}
			prompt = found
		}
		if before := got[fmt.Sprintf("chat-%d/%d", conversation, round-1)]; before != nil {
			repeated++
			if old := before.hashes(0); len(old) > len(hashes) || strings.Join(old, " ") != strings.Join(hashes[:len(old)], " ") {
				t.Errorf("request %s does not begin with the prompt of the round before", id)
			}
		}
	}
	if repeated == 0 {
		t.Error("no conversation had a second round")
	}
}
