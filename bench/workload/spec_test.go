package workload_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/bench/workload"
)

func TestParseSpec(t *testing.T) {
	for _, tc := range []struct {
		text string
		want workload.Spec
	}{
		{"mooncake:a.jsonl.gz", workload.Spec{Kind: workload.Mooncake, Path: "a.jsonl.gz"}},
		{"mooncake:C:\\a:b", workload.Spec{Kind: workload.Mooncake, Path: "C:\\a:b"}},
		{"agentic:x", workload.Spec{Kind: workload.Agentic, Path: "x"}},
		{"chat:0", workload.Spec{Kind: workload.Chat}},
		{"chat:18446744073709551615", workload.Spec{Kind: workload.Chat, Seed: 1<<64 - 1}},
		{"multi-round-chat", workload.Spec{Kind: workload.MultiRoundChat}},
		{"kv-tier-pressure", workload.Spec{Kind: workload.KVTierPressure}},
	} {
		got, err := workload.ParseSpec(tc.text)
		if err != nil || got != tc.want {
			t.Errorf("ParseSpec(%q): got %+v, %v; want %+v", tc.text, got, err, tc.want)
		}
		if got.String() != tc.text {
			t.Errorf("ParseSpec(%q).String(): got %q", tc.text, got)
		}
	}
	for _, text := range []string{"", "mooncake", "mooncake:", "agentic:", "chat", "chat:", "chat:-1", "chat:x", "chat:18446744073709551616", "other:a", "Chat:1", "long-doc-qa:", "random-prefill:7"} {
		if got, err := workload.ParseSpec(text); !errors.Is(err, workload.ErrSpec) || !strings.Contains(err.Error(), "want ") {
			t.Errorf("ParseSpec(%q): got %+v, %v; want an ErrSpec that says what is wanted", text, got, err)
		}
	}
}

const (
	goodMooncake = `{"timestamp": 5, "input_length": 600, "output_length": 1, "hash_ids": [7, 8]}` + "\n"
	goodSession  = `{"id":"s","block_size":64,"hash_id_scope":"local","requests":[{"t":0,"in":130,"out":1,"hash_ids":[1,2]}]}` + "\n"
)

// sessionOf is a session line with the given requests.
func sessionOf(requests string) string {
	return `{"id":"u","block_size":64,"hash_id_scope":"local","requests":[` + requests + "]}\n"
}

func TestBrokenFiles(t *testing.T) {
	cut := compress(strings.Repeat(goodMooncake, 1000))
	cut = cut[:len(cut)-20]
	flipped := compress(goodMooncake)
	flipped[len(flipped)-8] ^= 1 // in the checksum
	for _, tc := range []struct {
		name, kind string
		data       []byte
		line       int    // of the LineError; 0: opening fails
		want       string // in the message
	}{
		{"empty", "mooncake", nil, 1, "no requests"},
		{"blank lines", "mooncake", []byte("\n \n"), 2, "no requests"},
		{"not JSON", "mooncake", []byte(goodMooncake + "{oops}\n"), 2, "invalid character"},
		{"other shape", "mooncake", []byte(goodMooncake + "\n[1]\n"), 3, "cannot unmarshal"},
		{"no timestamp", "mooncake", []byte(`{"input_length":1,"output_length":1,"hash_ids":[1]}`), 1, "timestamp: missing"},
		{"no input", "mooncake", []byte(`{"timestamp":1,"output_length":1,"hash_ids":[1]}`), 1, "input_length: missing"},
		{"no output", "mooncake", []byte(`{"timestamp":1,"input_length":1,"hash_ids":[1]}`), 1, "output_length: missing"},
		{"no ids", "mooncake", []byte(`{"timestamp":1,"input_length":1,"output_length":1}`), 1, "hash_ids: missing"},
		{"text for a number", "mooncake", []byte(`{"timestamp":1,"input_length":"x","output_length":1,"hash_ids":[1]}`), 1, "input_length"},
		{"negative id", "mooncake", []byte(`{"timestamp":1,"input_length":1,"output_length":1,"hash_ids":[-1]}`), 1, "hash_ids"},
		{"too few ids", "mooncake", []byte(goodMooncake + `{"timestamp":5,"input_length":1025,"output_length":1,"hash_ids":[1,2]}`), 2, "2 ids for 1025 input tokens, want 3"},
		{"negative time", "mooncake", []byte(`{"timestamp":-1,"input_length":1,"output_length":1,"hash_ids":[1]}`), 1, "timestamp: -1 is out of range"},
		{"far time", "mooncake", []byte(`{"timestamp":1e300,"input_length":1,"output_length":1,"hash_ids":[1]}`), 1, "out of range"},
		{"huge input", "mooncake", []byte(`{"timestamp":1,"input_length":1000000000,"output_length":1,"hash_ids":[1]}`), 1, "input_length: 1000000000 tokens"},
		{"time goes back", "mooncake", []byte(goodMooncake + strings.Replace(goodMooncake, "5", "4", 1)), 2, "4 ms is before the previous line's 5 ms"},
		{"cut gzip", "mooncake", cut, -1, "cut off"},
		{"flipped gzip", "mooncake", flipped, 2, "damaged"},
		{"gzip header", "mooncake", []byte{0x1f, 0x8b, 0}, 0, "cut off"},

		{"not JSON", "agentic", []byte(goodSession + "nope"), 2, "invalid character"},
		{"no id", "agentic", []byte(`{"block_size":64,"hash_id_scope":"local","requests":[]}`), 1, "id: missing"},
		{"no block size", "agentic", []byte(`{"id":"u","hash_id_scope":"local","requests":[]}`), 1, "block_size: 0"},
		{"other scope", "agentic", []byte(`{"id":"u","block_size":64,"hash_id_scope":"global","requests":[]}`), 1, `hash_id_scope: "global"`},
		{"no requests", "agentic", []byte(`{"id":"u","block_size":64,"hash_id_scope":"local"}`), 1, "requests: missing"},
		{"block size", "agentic", []byte(`{"id":"u","block_size":100,"hash_id_scope":"local","requests":[]}`), 1, "do not fit"},
		{"same id twice", "agentic", []byte(goodSession + goodSession), 2, `"s" is also the id`},
		{"no t", "agentic", []byte(sessionOf(`{"in":1,"out":1,"hash_ids":[]}`)), 1, "requests 0: t: missing"},
		{"no in", "agentic", []byte(sessionOf(`{"t":0,"out":1,"hash_ids":[]}`)), 1, "requests 0: in: missing"},
		{"no out", "agentic", []byte(sessionOf(`{"t":0,"in":1,"hash_ids":[]}`)), 1, "requests 0: out: missing"},
		{"no ids", "agentic", []byte(sessionOf(`{"t":0,"in":1,"out":1}`)), 1, "want either hash_ids or"},
		{"half compact", "agentic", []byte(sessionOf(`{"t":0,"in":1,"out":1,"hash_keep":0}`)), 1, "want either hash_ids or"},
		{"both forms", "agentic", []byte(sessionOf(`{"t":0,"in":1,"out":1,"hash_ids":[],"hash_keep":0,"hash_runs":[]}`)), 1, "want either hash_ids or"},
		{"keep too long", "agentic", []byte(sessionOf(`{"t":0,"in":64,"out":1,"hash_keep":1,"hash_runs":[]}`)), 1, "hash_keep: 1, the previous request has 0"},
		{"keep negative", "agentic", []byte(sessionOf(`{"t":0,"in":64,"out":1,"hash_keep":-1,"hash_runs":[]}`)), 1, "hash_keep: -1"},
		{"odd run", "agentic", []byte(sessionOf(`{"t":0,"in":64,"out":1,"hash_keep":0,"hash_runs":[[1]]}`)), 1, "run 0 has 1 numbers"},
		{"run wraps", "agentic", []byte(sessionOf(`{"t":0,"in":64,"out":1,"hash_keep":0,"hash_runs":[[18446744073709551615,2]]}`)), 1, "out of range"},
		{"run too long", "agentic", []byte(sessionOf(`{"t":0,"in":64,"out":1,"hash_keep":0,"hash_runs":[[1,1],[5,18446744073709551610]]}`)), 1, "run 1 has"},
		{"ids of another input", "agentic", []byte(sessionOf(`{"t":0,"in":640,"out":1,"hash_ids":[1,2]}`)), 1, "2 ids for 640 input tokens, want 10"},
		{"time goes back", "agentic", []byte(sessionOf(`{"t":3,"in":1,"out":1,"hash_ids":[]},{"t":2.5,"in":1,"out":1,"hash_ids":[]}`)), 1, "requests 1: t: 2.5 s is before"},
		{"inside a sub-agent", "agentic", []byte(sessionOf(`{"t":3,"requests":[{"t":0,"in":1,"out":1,"hash_ids":[]},{"t":1,"in":-1,"out":1,"hash_ids":[]}]}`)), 1, "requests 0.1: in: -1 tokens"},
	} {
		t.Run(tc.kind+"/"+tc.name, func(t *testing.T) {
			path := writeFile(t, "broken.file", tc.data)
			s, err := workload.ParseSpec(tc.kind + ":" + path)
			if err != nil {
				t.Fatal(err)
			}
			w, err := s.Open(workload.SourceOptions{})
			if tc.line == 0 {
				if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), path) {
					t.Fatalf("got %v; want an error with %q and the path", err, tc.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			for w.Next() {
			}
			le := (*workload.LineError)(nil)
			if err := w.Err(); !errors.As(err, &le) || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v; want a LineError with %q", err, tc.want)
			}
			if le.File != path || tc.line > 0 && le.Line != tc.line || le.Line < 1 {
				t.Errorf("got %s line %d; want %s line %d", le.File, le.Line, path, tc.line)
			}
			if w.Next() {
				t.Error("Next after an error: got a request")
			}
		})
	}
}

func TestOpen(t *testing.T) {
	s := workload.Spec{Kind: workload.Mooncake, Path: "no/such/file"}
	if _, err := s.Open(workload.SourceOptions{}); err == nil || err.Error() != "open no/such/file: no such file or directory" {
		t.Errorf("missing file: got %v", err)
	}
	for _, opt := range []workload.SourceOptions{{ChunkTokens: -1}, {SessionsPerHour: -1}, {SessionsPerHour: 1e300}, {ChunkTokens: 100}} {
		s := workload.Spec{Kind: workload.Mooncake, Path: conversation}
		if _, err := s.Open(opt); err == nil {
			t.Errorf("options %+v: got no error", opt)
		}
	}
	// Compression is told from the content.
	for name, data := range map[string][]byte{"plain.gz": []byte(goodMooncake), "compressed.jsonl": compress(goodMooncake)} {
		w := open(t, "mooncake:"+writeFile(t, name, data), workload.SourceOptions{})
		if got := take(t, w, 0); len(got) != 1 || got[0].ArrivalNS != 5e6 || len(got[0].Hashes) != 2 {
			t.Errorf("%s: got %+v; want the one request", name, got)
		}
	}
}
