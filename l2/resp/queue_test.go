package resp

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
)

func sized(n, size int) []l2.Object {
	out := make([]l2.Object, n)
	for i := range out {
		out[i].Bytes = make([]byte, size)
	}
	return out
}

// A task is spread over the workers, in pipelines that are neither tiny nor
// huge.
func TestCut(t *testing.T) {
	for _, c := range []struct{ objects, size, workers, want, largest int }{
		{0, 0, 8, 0, 0},
		{1, 64 << 20, 8, 1, 1},          // an object is not split
		{16, 64 << 10, 8, 2, 8},         // 1 MiB: two of the smallest kind
		{16, 1 << 20, 8, 8, 2},          // one each
		{64, 1 << 20, 8, 16, 4},         // at most 4 MiB
		{64, 1 << 20, 1, 16, 4},         // of one worker as well
		{1000, 100, 8, 4, batchKeys},    // at most 256 keys
		{3, maxBatchBytes + 1, 2, 3, 1}, // larger than a batch: alone
	} {
		task := &task{kind: storing, objects: sized(c.objects, c.size)}
		batches := task.cut(c.workers)
		at, largest := 0, 0
		for _, b := range batches {
			if b.from != at || b.to <= b.from {
				t.Errorf("%+v: batch %d to %d; want it to go on at %d", c, b.from, b.to, at)
			}
			at, largest = b.to, max(largest, b.to-b.from)
		}
		if len(batches) != c.want || largest != c.largest || at != c.objects {
			t.Errorf("%+v: %d batches of %d objects at most, %d in all", c, len(batches), largest, at)
		}
	}
}

// Lookups go first and have a worker left for them; loads and stores alternate.
func TestNext(t *testing.T) {
	s := &Store{opt: Options{Workers: 3}, turn: loading}
	push := func(k op, n int) {
		for range n {
			s.queues[k].push(batch{t: &task{kind: k}, to: 1})
		}
	}
	take := func() string {
		b, ok := s.next()
		if !ok {
			return "nothing"
		}
		return b.t.kind.String()
	}
	push(storing, 3)
	push(loading, 2)
	push(lookingUp, 1)
	got := []string{take(), take(), take(), take()}
	push(lookingUp, 1)
	got = append(got, take())
	for range 4 {
		s.moving--
		got = append(got, take())
	}
	if want := "[look up store load nothing look up store load store nothing]"; fmt.Sprint(got) != want {
		t.Errorf("got  %v\nwant %s", got, want)
	}
}

func TestQueue(t *testing.T) {
	var q queue
	next, last := 0, 0
	rng := rand.New(rand.NewPCG(1, 1))
	for range 100_000 {
		if rng.IntN(2) == 0 || q.len() == 0 {
			q.push(batch{from: last, to: last + 3})
			last++
		} else if b := q.pop(); b.from != next {
			t.Fatalf("batch %d comes out; want %d", b.from, next)
		} else {
			next++
		}
		if q.len() != last-next || q.keys != 3*(last-next) || cap(q.batches) > 1<<13 {
			t.Fatalf("%d batches, %d keys, room for %d; want %d batches", q.len(), q.keys, cap(q.batches), last-next)
		}
	}
}

func TestWireKey(t *testing.T) {
	for _, c := range []struct {
		model, salt string
		rank        uint64
		group       uint32
		hash        int
	}{
		{"meta-llama/Llama-3.1-8B", "", 0x02010201, 11, 16},
		{"m", "alice", 0, 0, 32},
		{"", "", 1 << 40, 1<<32 - 1, 0},
		{"m", "ü", 0x0fffffff, 10, 4},
		{"m", "", 0x10000000, 16, 8},
	} {
		scope, err := kv.InternScope(c.model, c.salt)
		if err != nil {
			t.Fatal(err)
		}
		hash := make([]byte, c.hash)
		for i := range hash {
			hash[i] = byte(17 * i)
		}
		key, err := kv.NewObjectKey(hash, scope, c.rank, c.group)
		if err != nil {
			t.Fatal(err)
		}
		s := &Store{opt: Options{Prefix: "p@"}}
		if got, want := s.wireKey(key), "p@"+key.String(); got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}
}

// A key that is being deleted is not found, and one that is locked or being
// stored is not deleted.
func TestIndex(t *testing.T) {
	x := &index{of: map[kv.ObjectKey]entry{}}
	objects := sized(2, 10)
	objects[1].Key.Group = 1
	a, b := objects[0].Key, objects[1].Key
	x.beginStore(objects)
	if got := x.beginDelete([]kv.ObjectKey{a}); len(got) != 0 {
		t.Error("a key that is being stored may be deleted")
	}
	x.endStore(objects, []bool{true, false})
	if !x.lock(a, 10) || len(x.beginDelete([]kv.ObjectKey{a})) != 0 {
		t.Error("a locked key may be deleted")
	}
	x.unlock([]kv.ObjectKey{a, b})
	if got := x.beginDelete([]kv.ObjectKey{a, b, a}); len(got) != 2 {
		t.Errorf("%d keys to delete; want 2", len(got))
	}
	if x.lock(a, 10) {
		t.Error("a key that is being deleted is found")
	}
	x.endDelete(a, false) // the store was not reached
	if !x.lock(a, 10) || x.usedBytes() != 10 {
		t.Errorf("%d bytes used after a Delete that did nothing; want 10", x.usedBytes())
	}
	x.unlock([]kv.ObjectKey{a})
	x.beginDelete([]kv.ObjectKey{a})
	x.endDelete(a, true)
	x.endDelete(b, true)
	if x.usedBytes() != 0 || len(x.of) != 0 {
		t.Errorf("%d bytes used, %d entries when all is gone", x.usedBytes(), len(x.of))
	}
}
