package evict_test

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/lmcache/lmcache-go/evict"
	"github.com/lmcache/lmcache-go/kv"
)

// pair drives a policy and its model alike and compares them.
type pair struct {
	t     *testing.T
	index kv.Index
	keyTable
	policy evict.Policy
	model  model
	salts  []kv.Salt
}

func newPair(t *testing.T, name string) *pair {
	t.Helper()
	p := &pair{t: t}
	var err error
	if p.policy, err = evict.New(name, &p.index); err != nil {
		t.Fatal(err)
	}
	p.model = newModel(name, func(id int) int { return int(p.keys[id].Rank)<<16 | int(p.keys[id].Scope)<<4 | int(p.keys[id].Group) })
	return p
}

// slots gives slots to keys as a tier does: it has a reference while it speaks.
func (p *pair) slots(ids []int) (slots []uint32, release func()) {
	for _, id := range ids {
		slots = append(slots, p.index.Acquire(&p.keys[id]))
	}
	return slots, func() {
		for _, s := range slots {
			p.index.Release(s)
		}
	}
}

func (p *pair) tell(policy func([]uint32), model func([]int), ids []int) {
	slots, release := p.slots(ids)
	policy(slots)
	release()
	model(ids)
}

func (p *pair) chained(ids []int) {
	if c, ok := p.policy.(evict.Chainer); ok {
		var keys []kv.ObjectKey
		for _, id := range ids {
			keys = append(keys, p.keys[id])
		}
		c.Chained(keys)
	}
	p.model.chained(ids)
}

func (p *pair) ids(slots []uint32) []int {
	ids := make([]int, len(slots))
	for i, s := range slots {
		ids[i] = p.keyTable.ids[p.index.Key(s)]
	}
	return ids
}

// victims asks both for victims, of some salts if the policy can, and compares.
func (p *pair) victims(n int, salts []kv.Salt, evictable func(int) bool) []int {
	p.t.Helper()
	may := func(s uint32) bool { return evictable(p.keyTable.ids[p.index.Key(s)]) }
	var got, want []int
	if by, ok := p.policy.(evict.Partitioned); ok && salts != nil {
		among := func(id int) bool { return slices.Contains(salts, p.keys[id].Scope.SaltID()) }
		want = p.model.victims(n, among, evictable)
		got = p.ids(by.VictimsOf(nil, n, salts, may))
		count := 0
		for _, id := range p.model.order() {
			if among(id) {
				count++
			}
		}
		if by.LenOf(salts) != count {
			p.t.Fatalf("%d keys of salts %v; want %d", by.LenOf(salts), salts, count)
		}
	} else {
		want = p.model.victims(n, anyKey, evictable)
		got = p.ids(p.policy.Victims(nil, n, may))
	}
	if !slices.Equal(got, want) {
		p.t.Fatalf("victims %v; want %v", got, want)
	}
	return got
}

func (p *pair) compare(what any) {
	p.t.Helper()
	want := p.model.order()
	if got := p.ids(p.policy.Order(nil)); !slices.Equal(got, want) || p.policy.Len() != len(want) {
		p.t.Fatalf("after %v: order %v, length %d; want %v", what, got, p.policy.Len(), want)
	}
	lists := map[string][]uint32{}
	switch q := p.policy.(type) {
	case *evict.ARC:
		lists = q.Lists()
		size, capacity := q.Target()
		if want := p.model.lists()["target"]; int(size*1000) != want[0] || capacity != want[1] {
			p.t.Fatalf("after %v: target %v of %d; want %v", what, size, capacity, want)
		}
	case *evict.S3FIFO:
		lists = q.Lists()
	}
	for name, list := range lists {
		if got, want := p.ids(list), p.model.lists()[name]; !slices.Equal(got, want) {
			p.t.Fatalf("after %v: %s is %v; want %v", what, name, got, want)
		}
	}
}

// end checks that a policy that has forgotten all keys refers to none, except
// those that it remembers as gone or expects.
func (p *pair) end(remembers int) {
	p.t.Helper()
	var all []int
	for id := range p.keys {
		all = append(all, id)
	}
	p.tell(p.policy.Removed, p.model.removed, all)
	p.compare("removing all")
	if p.index.Len() > remembers {
		p.t.Errorf("%d keys are still referred to; want at most %d", p.index.Len(), remembers)
	}
}

// TestPoliciesAgainstModels holds every policy against its model in random
// calls, each about part of a tree of prompts, on two ranks and with four salts,
// and now and then about keys in no order. Keys are locked at random, and some
// that the policy gives stay all the same.
func TestPoliciesAgainstModels(t *testing.T) {
	steps := 12_000
	if testing.Short() {
		steps = 3000
	}
	for _, name := range evict.Names() {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(3) {
				randomCalls(newPair(t, name), rand.New(rand.NewPCG(seed, 1)), steps/3)
			}
		})
	}
}

func randomCalls(p *pair, rng *rand.Rand, steps int) {
	for i := range 4 {
		salt, err := kv.InternSalt([]string{"", "a", "b", "c"}[i])
		if err != nil {
			p.t.Fatal(err)
		}
		p.salts = append(p.salts, salt)
	}
	// A prompt is a path of a tree: node n extends node n/2, or n/3.
	prompt := func() (ids []int) {
		salt := p.salts[rng.IntN(4)].String()
		scope, err := kv.InternScope("m", salt)
		if err != nil {
			p.t.Fatal(err)
		}
		var path []int
		for n := 1 + rng.IntN(40); n > 0; n /= 2 + n%2 {
			path = append(path, n)
		}
		slices.Reverse(path)
		ranks := 1 + rng.IntN(2)
		for _, n := range path {
			for rank := range ranks {
				k := kv.ObjectKey{Scope: scope, Rank: uint64(rank), HashLen: 4}
				binary.BigEndian.PutUint32(k.Hash[:], uint32(n))
				ids = append(ids, p.add(k))
			}
		}
		return ids
	}
	locked := map[int]bool{}
	if l, ok := p.policy.(*evict.IsolatedLRU); ok {
		p.tell(p.policy.Created, p.model.created, prompt())
		l.NearlyWrap()
	}
	for step := range steps {
		list := prompt()
		if rng.IntN(20) == 0 {
			rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		}
		from := rng.IntN(len(list))
		part := list[from:]
		var what string
		switch op := rng.IntN(12); op {
		case 0, 1, 2: // a writer: the whole list is a call's, part of it is new
			what = fmt.Sprint("writing ", part, " of ", list)
			p.chained(list)
			p.tell(p.policy.Reserved, p.model.reserved, part)
			if rng.IntN(4) > 0 {
				p.tell(p.policy.Created, p.model.created, part)
			}
		case 3, 4, 5: // a lookup
			what = fmt.Sprint("looking up ", list, ", hits before ", from)
			p.chained(list)
			p.tell(p.policy.Touched, p.model.touched, list[:from])
		case 6: // as a store below tells it
			what = fmt.Sprint("storing ", part)
			p.tell(p.policy.Created, p.model.created, part)
		case 7:
			what = fmt.Sprint("removing ", part)
			p.tell(p.policy.Removed, p.model.removed, part)
		case 8:
			for _, id := range list {
				locked[id] = rng.IntN(3) == 0
			}
		default:
			var salts []kv.Salt
			if rng.IntN(2) == 0 {
				salts = slices.Clone(p.salts)
				rng.Shuffle(4, func(i, j int) { salts[i], salts[j] = salts[j], salts[i] })
				salts = salts[:1+rng.IntN(4)]
			}
			victims := p.victims(1+rng.IntN(30), salts, func(id int) bool { return !locked[id] })
			what = fmt.Sprint("evicting ", victims)
			if rng.IntN(5) == 0 && len(victims) > 0 { // one stays
				i := rng.IntN(len(victims))
				victims = slices.Delete(victims, i, i+1)
			}
			p.tell(p.policy.Removed, p.model.removed, victims)
		}
		p.compare(fmt.Sprintf("step %d, %s", step, what))
	}
	remembers := 0
	switch m := p.model.(type) {
	case *arcModel:
		remembers = len(m.b1) + len(m.b2) + len(m.t1) + len(m.t2) // some become ghosts
	case *leafModel:
		remembers = 2 * len(m.expected)
	}
	p.end(remembers)
}

// TestPoliciesOnConversation holds every policy against its model on the first
// requests of an hour of chat traffic, as a tier with room for some of it asks
// it: what is hit is touched and stays locked for the next requests, what is
// missed is written.
func TestPoliciesOnConversation(t *testing.T) {
	requests := conversation(t, 500)
	for _, name := range evict.Names() {
		t.Run(name, func(t *testing.T) {
			const room, ratio, inFlight = 600, 0.2, 8
			p := newPair(t, name)
			here := map[int]bool{}
			locks := map[int]int{}
			var flights [][]int
			hits := 0
			for n, blocks := range requests {
				var ids []int
				for _, b := range blocks {
					k := kv.ObjectKey{HashLen: 4}
					binary.BigEndian.PutUint32(k.Hash[:], uint32(b))
					ids = append(ids, p.add(k))
				}
				hit := 0
				for hit < len(ids) && here[ids[hit]] {
					locks[ids[hit]]++
					hit++
				}
				hits += hit
				p.chained(ids)
				p.tell(p.policy.Touched, p.model.touched, ids[:hit])
				flights = append(flights, ids[:hit])
				if len(flights) > inFlight {
					for _, id := range flights[0] {
						locks[id]--
					}
					flights = flights[1:]
				}
				if len(here)+len(ids)-hit <= room {
					var fresh []int
					for _, id := range ids[hit:] {
						if !here[id] {
							here[id] = true
							fresh = append(fresh, id)
						}
					}
					p.chained(ids[hit:])
					p.tell(p.policy.Reserved, p.model.reserved, fresh)
					p.tell(p.policy.Created, p.model.created, fresh)
				}
				if len(here) > room*8/10 {
					victims := p.victims(evict.Target(p.policy.Len(), ratio), nil, func(id int) bool { return locks[id] == 0 })
					for _, id := range victims {
						delete(here, id)
					}
					if name == "LeafLRU" {
						p.reachable(n, requests[:n+1], here)
					}
					p.tell(p.policy.Removed, p.model.removed, victims)
				}
				p.compare(fmt.Sprintf("request %d", n))
			}
			if hits == 0 && name != "noop" {
				t.Error("nothing was hit")
			}
		})
	}
}

// reachable checks what LeafLRU is for: of every prompt so far, what is here is
// a prefix.
func (p *pair) reachable(n int, requests [][]int, here map[int]bool) {
	p.t.Helper()
	for _, blocks := range requests {
		gap := -1
		for i, b := range blocks {
			k := kv.ObjectKey{HashLen: 4}
			binary.BigEndian.PutUint32(k.Hash[:], uint32(b))
			switch isHere := here[p.keyTable.ids[k]]; {
			case !isHere && gap < 0:
				gap = i
			case isHere && gap >= 0:
				p.t.Fatalf("request %d: block %d is here and block %d before it is not", n, i, gap)
			}
		}
	}
}

// conversation returns the block ids of the first n requests of the workload.
func conversation(t *testing.T, n int) (requests [][]int) {
	t.Helper()
	f, err := os.Open("../testdata/workloads/mooncake-fast25/conversation_trace.jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	for len(requests) < n && lines.Scan() {
		var r struct {
			Blocks []int `json:"hash_ids"`
		}
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		requests = append(requests, r.Blocks)
	}
	if lines.Err() != nil || len(requests) < n {
		t.Fatalf("%d requests, %v", len(requests), lines.Err())
	}
	return requests
}
