package evict

import "github.com/lmcache/lmcache-go/kv"

// ARC balances recency against frequency: keys seen once (T1) and keys seen
// again (T2) are two lists, and what each of them has lost lately (B1, B2) says
// which should have been larger. It costs 8 bytes a key, and remembers at most
// as many lost keys as it has ever tracked.
//
// A key is reserved before it is created, and a reservation puts it into T1; so
// only a touch promotes it. This is release 0.5.6, not the paper.
//
// Source: reference storage-manager.md, section 5.7.
type ARC struct {
	lists
	target   float64 // wanted size of T1
	capacity int     // most keys tracked at once so far
}

// Lists of ARC.
const (
	arcT1 = iota
	arcT2
	arcB1
	arcB2
)

// Flags of a tracked key.
const (
	arcAwaiting = 1 << iota // reserved, not created yet
	arcChosen               // the policy gave it as a victim
)

func newARC(x *kv.Index) Policy { return &ARC{lists: newLists(x, 4)} }

// resident reports whether s is tracked, and not only remembered.
func (a *ARC) resident(s uint32) bool {
	l := a.of(s)
	return l != nil && l.id <= arcT2+1
}

// adapt moves the target as a hit among the lost keys wants it.
func (a *ARC) adapt(s uint32) {
	b1, b2 := &a.all[arcB1], &a.all[arcB2]
	switch a.of(s) {
	case b1:
		a.target = min(float64(a.capacity), a.target+max(1, float64(b2.n)/float64(b1.n)))
	case b2:
		a.target = max(0, a.target-max(1, float64(b1.n)/float64(b2.n)))
	}
}

// Reserved puts the keys at the recent end of T1, to await their creation.
func (a *ARC) Reserved(slots []uint32) {
	for i := len(slots) - 1; i >= 0; i-- {
		s := slots[i]
		a.adapt(s)
		a.push(&a.all[arcT1], s)
		a.nodes.At(s).setFlags(arcAwaiting)
		a.settle()
	}
}

// Created admits what was reserved. A key that was not is seen for the first
// time, or again.
func (a *ARC) Created(slots []uint32) {
	for i := len(slots) - 1; i >= 0; i-- {
		s := slots[i]
		if at := a.nodes.At(s); at.flags()&arcAwaiting != 0 {
			at.setFlags(at.flags() &^ arcAwaiting)
			continue
		}
		to := &a.all[arcT2]
		if a.of(s) == nil {
			to = &a.all[arcT1]
		}
		a.adapt(s)
		a.push(to, s)
		a.settle()
	}
}

// Touched promotes the keys to the recent end of T2.
func (a *ARC) Touched(slots []uint32) {
	for i := len(slots) - 1; i >= 0; i-- {
		if s := slots[i]; a.resident(s) {
			awaiting := a.nodes.At(s).flags() & arcAwaiting
			a.push(&a.all[arcT2], s)
			a.nodes.At(s).setFlags(awaiting)
		}
	}
}

// Removed remembers the keys that the policy chose, and forgets the others.
func (a *ARC) Removed(slots []uint32) {
	for _, s := range slots {
		switch from := a.of(s); {
		case !a.resident(s):
		case a.nodes.At(s).flags()&arcChosen == 0:
			a.drop(s)
		case from == &a.all[arcT1]:
			a.push(&a.all[arcB1], s)
		default:
			a.push(&a.all[arcB2], s)
		}
		a.settle()
	}
}

// settle grows the capacity and trims what is remembered. It runs after every
// key: a key of a batch can push out what a later key of it would have hit.
func (a *ARC) settle() {
	t1, t2, b1, b2 := &a.all[arcT1], &a.all[arcT2], &a.all[arcB1], &a.all[arcB2]
	a.capacity = max(a.capacity, t1.n+t2.n)
	for b1.n > 0 && t1.n+b1.n > a.capacity {
		a.drop(b1.oldest)
	}
	for t1.n+t2.n+b1.n+b2.n > 2*a.capacity {
		if b2.n > 0 {
			a.drop(b2.oldest)
		} else if b1.n > 0 {
			a.drop(b1.oldest)
		} else {
			break
		}
	}
}

// Victims takes from T1 while it is as large as the target wants it or larger,
// else from T2, and from the other where one has no key that may go.
func (a *ARC) Victims(dst []uint32, n int, evictable func(slot uint32) bool) []uint32 {
	first := len(dst)
	t1, t2 := &a.all[arcT1], &a.all[arcT2]
	at1, at2, left := t1.oldest, t2.oldest, t1.n
	next := func(at uint32) uint32 { // the first key from at on that may go
		for at != 0 && !evictable(at) {
			at = a.nodes.At(at).after()
		}
		return at
	}
	for len(dst)-first < n {
		at1, at2 = next(at1), next(at2)
		switch {
		case at1 != 0 && (left >= int(a.target) || at2 == 0):
			dst = append(dst, at1)
			at1 = a.nodes.At(at1).after()
			left--
		case at2 != 0:
			dst = append(dst, at2)
			at2 = a.nodes.At(at2).after()
		default:
			n = 0
		}
	}
	for _, s := range dst[first:] {
		at := a.nodes.At(s)
		at.setFlags(at.flags() | arcChosen)
	}
	return dst
}

// Len returns the number of keys in T1 and T2.
func (a *ARC) Len() int { return a.all[arcT1].n + a.all[arcT2].n }

// Order appends T1, then T2.
func (a *ARC) Order(dst []uint32) []uint32 {
	return a.appendTo(a.appendTo(dst, &a.all[arcT1]), &a.all[arcT2])
}

// Lists returns each list by its name, oldest first.
func (a *ARC) Lists() map[string][]uint32 {
	return map[string][]uint32{
		"t1": a.appendTo(nil, &a.all[arcT1]), "t2": a.appendTo(nil, &a.all[arcT2]),
		"b1": a.appendTo(nil, &a.all[arcB1]), "b2": a.appendTo(nil, &a.all[arcB2]),
	}
}

// Target returns the wanted size of T1, and the capacity.
func (a *ARC) Target() (size float64, capacity int) { return a.target, a.capacity }
