package trace

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/lmcache/lmcache-go/kv"
)

// ringFile is an output without end: it gives the same memory again and again.
type ringFile struct {
	memoryFile
	total int64
}

func (f *ringFile) Next(n int) ([]byte, error) {
	if f.off+n > len(f.data) {
		f.off = f.head
	}
	f.last = n
	return f.data[f.off : f.off+n], nil
}

func (f *ringFile) Publish(word uint32) {
	f.memoryFile.Publish(word)
	f.total += int64(f.last)
}

func (f *ringFile) Offset() int64 { return int64(f.head) + f.total }

// BenchmarkWriter measures the drain's side against its floor: copying as many
// bytes of keys and hashing them. chains is how many keys the block knows.
//
//	go test ./trace -run '^$' -bench '^BenchmarkWriter' -count 6
func BenchmarkWriter(b *testing.B) {
	for _, n := range []int{1, 32} {
		for _, chains := range []int{4096, 640_000} {
			lists := make([][]kv.ObjectKey, chains/n)
			for i, all := 0, hashes(3, chains); i < len(lists); i++ {
				lists[i] = keysOf(all[i*n:(i+1)*n], oneContext)
			}
			newFile := func() *ringFile {
				return &ringFile{memoryFile: memoryFile{head: testHead, off: testHead, data: make([]byte, 64<<20)}}
			}
			b.Run(fmt.Sprintf("lists=repeated/keys=%d/chains=%d", n, chains), func(b *testing.B) {
				f := newFile()
				w := newTestWriter(b, f, 1<<30)
				var a Args
				for i, list := range lists {
					a.Keys = list
					mustCall(b, w, OpFinishWrite, uint64(i), &a)
				}
				seq, i := uint64(len(lists)), 0
				b.ReportAllocs()
				for b.Loop() {
					a.Keys = lists[i]
					if i++; i == len(lists) {
						i = 0
					}
					if f.total > 900<<20 {
						f.total, w.blocks[0].offset = 0, testHead // stay in the block
					}
					if err := w.Call(OpFinishWrite, seq, 1, 1, &a); err != nil {
						b.Fatal(err)
					}
					seq++
				}
			})
			b.Run(fmt.Sprintf("lists=fresh/keys=%d/chains=%d", n, chains), func(b *testing.B) {
				f := newFile()
				w := newTestWriter(b, f, 1<<30)
				var a Args
				seq, i := uint64(0), 0
				b.ReportAllocs()
				for b.Loop() {
					a.Keys = lists[i]
					if i++; i == len(lists) {
						i = 0
						w.restart = true
					}
					if err := w.Call(OpFinishWrite, seq, 1, 1, &a); err != nil {
						b.Fatal(err)
					}
					seq++
				}
			})
		}
		// The floor: a frame as a ring holds it, 56 bytes a key, copied and hashed.
		b.Run(fmt.Sprintf("floor=copy+xxhash/keys=%d", n), func(b *testing.B) {
			src, dst := make([]byte, 24+56*n), make([]byte, 64<<20)
			off := 0
			b.ReportAllocs()
			for b.Loop() {
				if off+len(src)+8 > len(dst) {
					off = 0
				}
				copy(dst[off:], src)
				binary.LittleEndian.PutUint64(dst[off+len(src):], xxhash.Sum64(dst[off:off+len(src)]))
				off += len(src) + 8
			}
		})
	}
}

func benchFile(b *testing.B, n, records int) []byte {
	f := newMemoryFile(testHead)
	w := newTestWriter(b, f, 0)
	keys := keysOf(hashes(4, 4096), oneContext)
	for i := range records {
		at := i * n % (len(keys) - n)
		mustCall(b, w, OpFinishWrite, uint64(i), &Args{Keys: keys[at : at+n]})
	}
	w.Close()
	return f.data
}

// BenchmarkNativeReader decodes every record of a mapped file, checksum included,
// under the guard that a real file needs. The floor hashes the bytes.
//
//	go test ./trace -run '^$' -bench '^BenchmarkNativeReader$' -count 6
func BenchmarkNativeReader(b *testing.B) {
	for _, n := range []int{1, 32} {
		const records = 500_000
		data := benchFile(b, n, records)
		path := filepath.Join(b.TempDir(), "t.lct")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			b.Fatal(err)
		}
		perRecord := func(b *testing.B) {
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*records), "ns/record")
		}
		b.Run(fmt.Sprintf("keys=%d/mode=decode", n), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			var a Args
			for b.Loop() {
				r, err := OpenNative(path, nil)
				if err != nil {
					b.Fatal(err)
				}
				got := 0
				for r.Next() {
					if err := r.Args(&a); err != nil {
						b.Fatal(err)
					}
					got++
				}
				if r.Err() != nil || got != records {
					b.Fatal(got, r.Err())
				}
				r.Close()
			}
			perRecord(b)
		})
		b.Run(fmt.Sprintf("keys=%d/mode=floor", n), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				benchSink += int(xxhash.Sum64(data))
			}
			perRecord(b)
		})
	}
}

// BenchmarkPreScan counts a file without footer, against a loop that touches one
// word a frame.
//
//	go test ./trace -run '^$' -bench '^BenchmarkPreScan$' -count 6
func BenchmarkPreScan(b *testing.B) {
	const records = 1_000_000
	data := benchFile(b, 1, records)
	clear(data[countersOffset:fieldsOffset])
	r, err := newNativeReader("scan", bytesFile(data), unguarded, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("loop=scan", func(b *testing.B) {
		for b.Loop() {
			if s, err := r.Summarize(); err != nil || s.Records != records {
				b.Fatal(s, err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*records), "ns/record")
	})
	b.Run("loop=touch", func(b *testing.B) {
		for b.Loop() {
			frames := 0
			for off := testHead; off+frameHeaderSize <= len(data); frames++ {
				length := binary.LittleEndian.Uint32(data[off:])
				if length == 0 {
					break
				}
				off += int(frameSize(int(length)))
			}
			if frames < records {
				b.Fatal(frames)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*records), "ns/record")
	})
}
