package workload_test

import (
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/bench/workload"
)

// traceLine is a line of the trace, read without the package's help.
type traceLine struct {
	Timestamp   int64    `json:"timestamp"`
	InputLength int      `json:"input_length"`
	HashIDs     []uint64 `json:"hash_ids"`
}

func conversationLines(t *testing.T) []traceLine {
	t.Helper()
	f, err := os.Open(conversation)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var all []traceLine
	for d := json.NewDecoder(z); d.More(); {
		var l traceLine
		if err := d.Decode(&l); err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	return all
}

// The counts are those of the file's SOURCE.md.
func TestMooncakeCounts(t *testing.T) {
	w := open(t, "mooncake:"+conversation, workload.SourceOptions{ChunkTokens: 512})
	requests, chunks, blocks, distinct, lastNS := 0, 0, 0, map[[32]byte]bool{}, int64(0)
	for w.Next() {
		r := w.Request()
		requests++
		chunks += r.InputTokens / 512
		blocks += (r.InputTokens + 511) / 512
		lastNS = r.ArrivalNS
		if len(r.Hashes) != r.InputTokens/512 {
			t.Fatalf("%s: got %d chunks of %d tokens", r.ID, len(r.Hashes), r.InputTokens)
		}
	}
	if err := w.Err(); err != nil {
		t.Fatal(err)
	}
	if requests != 12031 || blocks != 288500 || lastNS != 3536999e6 {
		t.Errorf("got %d requests, %d blocks, the last at %d ns; want 12031, 288500, 3536.999 s", requests, blocks, lastNS)
	}
	// Two chunks a block; a partial block has one or none.
	ids, named := map[uint64]bool{}, map[[32]byte]bool{}
	lines := conversationLines(t)
	for _, l := range lines {
		for i, id := range l.HashIDs {
			ids[id] = true
			for part := range 2 {
				if end := i*512 + (part+1)*256; end <= l.InputLength {
					named[workload.ChunkHash("mooncake", id, part)] = true
				}
			}
		}
	}
	if len(ids) != 182790 {
		t.Errorf("got %d distinct blocks; want 182790", len(ids))
	}
	w = open(t, "mooncake:"+conversation, workload.SourceOptions{})
	for i := 0; w.Next(); i++ {
		r, l := w.Request(), lines[i]
		if r.ArrivalNS != l.Timestamp*1e6 || r.InputTokens != l.InputLength || len(r.Hashes) != l.InputLength/256 {
			t.Fatalf("request %d: got %+v; want %+v", i, r, l)
		}
		for c, h := range r.Hashes {
			if want := workload.ChunkHash("mooncake", l.HashIDs[c/2], c%2); h != want {
				t.Fatalf("request %d chunk %d: got %x; want %x", i, c, h, want)
			}
			distinct[h] = true
		}
	}
	if len(distinct) != len(named) {
		t.Errorf("got %d distinct chunks; want %d", len(distinct), len(named))
	}
}

// The digests were computed by another program from the rule in
// docs/workloads.md.
func TestChunkHash(t *testing.T) {
	for _, tc := range []struct {
		space string
		block uint64
		part  int
		want  string
	}{
		{"mooncake", 0, 0, "e5489c10c9a3b3ab639d0c48a31f717110841f0873a13ada14aa050cc243e7a1"},
		{"mooncake", 46, 1, "340b109b334bb08eee8ff10c821df17553ec01da9c8b85d16d3509ff53ac1fb8"},
		{"agentic:trace_0014", 4, 0, "cf4fb262e70191901e95ee82ce4de3e344ba02023cec1867608ed17ee445debc"},
		{"chat:7:prompt:0", 0, 0, "c2ea7a8fd9ecaf2ca566beecd5b8138de4e23c14f415a9ccde0589a86e1111ad"},
	} {
		if h := workload.ChunkHash(tc.space, tc.block, tc.part); hex.EncodeToString(h[:]) != tc.want {
			t.Errorf("%s:%d:%d: got %x; want %s", tc.space, tc.block, tc.part, h, tc.want)
		}
	}
}

// Chunks longer than a block are named by the block that they end in.
func TestChunkSizes(t *testing.T) {
	path := writeFile(t, "t", []byte(`{"timestamp":0,"input_length":2100,"output_length":1,"hash_ids":[10,11,12,13,14]}`))
	for _, tc := range []struct {
		chunk  int
		blocks []uint64
		parts  []int
	}{
		{128, []uint64{10, 10, 10, 10, 11, 11, 11, 11, 12, 12, 12, 12, 13, 13, 13, 13}, []int{0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3}},
		{512, []uint64{10, 11, 12, 13}, []int{0, 0, 0, 0}},
		{1024, []uint64{11, 13}, []int{0, 0}},
	} {
		got := take(t, open(t, "mooncake:"+path, workload.SourceOptions{ChunkTokens: tc.chunk}), 0)[0].Hashes
		if len(got) != len(tc.blocks) {
			t.Errorf("chunks of %d: got %d; want %d", tc.chunk, len(got), len(tc.blocks))
			continue
		}
		for i, h := range got {
			if h != workload.ChunkHash("mooncake", tc.blocks[i], tc.parts[i]) {
				t.Errorf("chunks of %d: chunk %d is not part %d of block %d", tc.chunk, i, tc.parts[i], tc.blocks[i])
			}
		}
	}
}

// The program in docs/workloads.md ends with this digest.
func TestDocumentedExample(t *testing.T) {
	doc, err := os.ReadFile("../../docs/workloads.md")
	if err != nil {
		t.Fatal(err)
	}
	r := take(t, open(t, "mooncake:"+conversation, workload.SourceOptions{}), 4)[3]
	if last := hex.EncodeToString(r.Hashes[len(r.Hashes)-1][:]); !strings.Contains(string(doc), "prints is `"+last+"`.") {
		t.Errorf("docs/workloads.md does not give %s", last)
	}
}
