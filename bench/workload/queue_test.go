package workload

import (
	"math/rand/v2"
	"testing"
)

// Events leave by time, those of one time in the order of scheduling, also
// where pushes and pops alternate.
func TestEventQueue(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var q eventQueue
	var seq uint64
	var last queued
	for range 20000 {
		if q.Len() == 0 || r.IntN(5) < 3 {
			seq++
			q.push(queued{at: last.at + r.Int64N(4), seq: seq})
			continue
		}
		first := q.peek()
		e := q.pop()
		if e != first || e.at < last.at || e.at == last.at && e.seq < last.seq {
			t.Fatalf("got %+v after %+v, the head was %+v", e, last, first)
		}
		last = e
	}
	for q.Len() > 0 {
		e := q.pop()
		if !last.before(e) {
			t.Fatalf("got %+v after %+v", e, last)
		}
		last = e
	}
}
