package tokenhash

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/lmcache/lmcache-go/internal/raceflag"
)

// vectors are LMCache 0.5.6's own hashes.
type vectors struct {
	Start   string `json:"chain_start_hex"`
	Vectors []struct {
		Name      string            `json:"name"`
		ChunkSize int               `json:"chunk_size"`
		World     int               `json:"world_size"`
		Worker    *int              `json:"worker_id"`
		Start     int               `json:"start"`
		End       int               `json:"end"`
		Tokens    []json.RawMessage `json:"tokens"`
		Keys      []struct {
			Hash string `json:"chunk_hash_hex"`
		} `json:"object_keys"`
	} `json:"vectors"`
}

func loadVectors(t *testing.T) (v vectors) {
	t.Helper()
	text, err := os.ReadFile("testdata/token-hashes.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// expand gives the tokens that a vector writes as numbers or runs.
func expand(t *testing.T, list []json.RawMessage) (tokens []uint32) {
	t.Helper()
	for _, raw := range list {
		var one uint32
		if json.Unmarshal(raw, &one) == nil {
			tokens = append(tokens, one)
			continue
		}
		var run struct{ First, Step, Count uint32 }
		if err := json.Unmarshal(raw, &run); err != nil {
			t.Fatal(err)
		}
		for i := range run.Count {
			tokens = append(tokens, run.First+i*run.Step)
		}
	}
	return tokens
}

func TestVectors(t *testing.T) {
	v := loadVectors(t)
	if len(v.Vectors) < 5 {
		t.Fatalf("%d vectors", len(v.Vectors))
	}
	for _, c := range v.Vectors {
		t.Run(c.Name, func(t *testing.T) {
			h, err := New(Blake3, c.ChunkSize)
			if err != nil {
				t.Fatal(err)
			}
			if start := h.Start(); hex.EncodeToString(start[:]) != v.Start {
				t.Errorf("chain starts with %x; want %s", start, v.Start)
			}
			ranks := 1
			if c.Worker == nil {
				ranks = c.World
			}
			tokens := expand(t, c.Tokens)
			var chain Chain
			for _, hashes := range [][]Hash{h.Append(nil, tokens), h.Extend(&chain, tokens)} {
				var got, want []string
				for _, hash := range hashes[c.Start/c.ChunkSize : c.End/c.ChunkSize] {
					for range ranks {
						got = append(got, hex.EncodeToString(hash[:]))
					}
				}
				for _, k := range c.Keys {
					want = append(want, k.Hash)
				}
				if !slices.Equal(got, want) {
					t.Errorf("got %v; want %v", got, want)
				}
			}
		})
	}
}

func TestChain(t *testing.T) {
	h, err := New(Blake3, 4)
	if err != nil {
		t.Fatal(err)
	}
	var chain Chain
	first := []uint32{1, 2, 3, 4, 5, 6, 7, 8, 9}
	held := h.Extend(&chain, first)
	want := h.Append(nil, first)
	for _, tokens := range [][]uint32{
		first, first[:5], first[:3], {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, {1, 2, 3, 4, 5, 6, 7, 9}, {9, 2, 3, 4, 5, 6, 7, 8}, {1, 2, 3, 4, 0, 0, 0, 0, 1, 1, 1, 1}, nil, first,
	} {
		if got, want := h.Extend(&chain, tokens), h.Append(nil, tokens); !slices.Equal(got, want) {
			t.Errorf("%v: %x; want %x", tokens, got, want)
		}
	}
	if !slices.Equal(held, want) {
		t.Errorf("hashes given out before have become %x; were %x", held, want)
	}
}

func TestAlgorithms(t *testing.T) {
	for _, name := range []string{"builtin", "sha256_cbor", "sha256", ""} {
		var wrong *AlgorithmError
		if _, err := New(name, 256); !errors.As(err, &wrong) || wrong.Name != name {
			t.Errorf("New(%q): %v", name, err)
		}
	}
	if _, err := New(Blake3, 0); err == nil {
		t.Error("New takes chunks of no tokens")
	}
}

func TestAllocations(t *testing.T) {
	if raceflag.Enabled {
		t.Skip("under the race detector a pool drops what it is given")
	}
	h, _ := New(Blake3, 256)
	tokens := make([]uint32, 8192)
	dst := make([]Hash, 0, 32)
	if n := testing.AllocsPerRun(20, func() { h.Append(dst, tokens) }); n > 0 {
		t.Errorf("Append allocates %v times", n)
	}
	var chain Chain
	h.Extend(&chain, tokens)
	if n := testing.AllocsPerRun(20, func() { h.Extend(&chain, tokens) }); n > 0 {
		t.Errorf("Extend of what it has allocates %v times", n)
	}
}

// BenchmarkHash hashes a prompt of 8192 tokens, which a lookup must.
func BenchmarkHash(b *testing.B) {
	h, _ := New(Blake3, 256)
	tokens := make([]uint32, 8192)
	for i := range tokens {
		tokens[i] = uint32(i)
	}
	b.Run("new", func(b *testing.B) {
		b.ReportAllocs()
		dst := make([]Hash, 0, 32)
		for b.Loop() {
			h.Append(dst, tokens)
		}
	})
	b.Run("again", func(b *testing.B) {
		b.ReportAllocs()
		var chain Chain
		for b.Loop() {
			h.Extend(&chain, tokens)
		}
	})
}
