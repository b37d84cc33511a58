package evict_test

import (
	"fmt"
	"slices"

	"github.com/lmcache/lmcache-go/kv"
)

// model says what a policy should do, naively, from its definition: keys are
// numbers, lists are slices that are searched from the front. It shares nothing
// with the policies.
type model interface {
	reserved(keys []int)
	created(keys []int)
	touched(keys []int)
	removed(keys []int)
	chained(keys []int)
	victims(n int, among func(int) bool, evictable func(int) bool) []int
	order() []int
	lists() map[string][]int // more than the order, if there is more
}

func anyKey(int) bool { return true }

func reverse(keys []int) []int {
	keys = slices.Clone(keys)
	slices.Reverse(keys)
	return keys
}

func without(list []int, key int) []int {
	return slices.DeleteFunc(slices.Clone(list), func(k int) bool { return k == key })
}

func firstN(list []int, n int, ok func(int) bool) (first []int) {
	for _, k := range list {
		if len(first) < n && ok(k) {
			first = append(first, k)
		}
	}
	return first
}

// lruModel is also the model of IsolatedLRU: the keys of some salts in the order
// of use of all.
type lruModel struct{ list []int }

func (m *lruModel) reserved(keys []int) { m.created(keys) }
func (m *lruModel) created(keys []int) {
	for _, k := range reverse(keys) {
		m.list = append(without(m.list, k), k)
	}
}
func (m *lruModel) touched(keys []int) {
	m.created(slices.DeleteFunc(slices.Clone(keys), func(k int) bool { return !slices.Contains(m.list, k) }))
}
func (m *lruModel) removed(keys []int) {
	for _, k := range keys {
		m.list = without(m.list, k)
	}
}
func (m *lruModel) chained([]int)           {}
func (m *lruModel) order() []int            { return m.list }
func (m *lruModel) lists() map[string][]int { return nil }
func (m *lruModel) victims(n int, among, evictable func(int) bool) []int {
	return firstN(m.list, n, func(k int) bool { return among(k) && evictable(k) })
}

// noopModel tracks nothing.
type noopModel struct{}

func (noopModel) reserved([]int)                                    {}
func (noopModel) created([]int)                                     {}
func (noopModel) touched([]int)                                     {}
func (noopModel) removed([]int)                                     {}
func (noopModel) chained([]int)                                     {}
func (noopModel) order() []int                                      { return nil }
func (noopModel) lists() map[string][]int                           { return nil }
func (noopModel) victims(int, func(int) bool, func(int) bool) []int { return nil }

// leafModel: a key is used with all its prefixes; the oldest key goes that may go
// and whose extensions are all gone or going.
type leafModel struct {
	lruModel
	parent   map[int]int
	expected []int
	group    func(int) int // keys of different groups extend nothing of each other
}

func newLeafModel(group func(int) int) *leafModel {
	return &leafModel{parent: map[int]int{}, group: group}
}

func (m *leafModel) has(k int) bool { return slices.Contains(m.list, k) }

func (m *leafModel) use(keys []int) {
	for _, k := range reverse(keys) {
		for m.has(k) {
			m.list = append(without(m.list, k), k)
			p, ok := m.parent[k]
			if !ok {
				break
			}
			k = p
		}
	}
}
func (m *leafModel) reserved(keys []int) { m.created(keys) }
func (m *leafModel) created(keys []int) {
	for _, k := range keys {
		if !m.has(k) {
			m.list = append(m.list, k)
		}
	}
	m.use(keys)
}
func (m *leafModel) touched(keys []int) { m.use(keys) }
func (m *leafModel) removed(keys []int) {
	for _, k := range keys {
		if m.has(k) {
			m.list = without(m.list, k)
			delete(m.parent, k)
		}
	}
}

// isPrefix reports whether a is b or a prefix of it.
func (m *leafModel) isPrefix(a, b int) bool {
	for ok := true; ok; b, ok = m.parent[b] {
		if a == b {
			return true
		}
	}
	return false
}

func (m *leafModel) chained(keys []int) {
	var parents []int
	before := map[int]int{}
	for _, k := range keys {
		g := m.group(k)
		p, ok := before[g]
		before[g] = k
		old, has := m.parent[k]
		if !ok || has && old == p || m.isPrefix(k, p) {
			continue
		}
		m.parent[k] = p
		if m.has(k) {
			parents = append(parents, p)
		} else if !has {
			m.expected = append(m.expected, k)
			if len(m.expected) > 16384 {
				if !m.has(m.expected[0]) {
					delete(m.parent, m.expected[0])
				}
				m.expected = m.expected[1:]
			}
		}
	}
	m.use(parents)
}

func (m *leafModel) victims(n int, among, evictable func(int) bool) (chosen []int) {
	for len(chosen) < n {
		at := slices.IndexFunc(m.list, func(k int) bool {
			if !among(k) || !evictable(k) || slices.Contains(chosen, k) {
				return false
			}
			for child, p := range m.parent {
				if p == k && m.has(child) && !slices.Contains(chosen, child) {
					return false
				}
			}
			return true
		})
		if at < 0 {
			break
		}
		chosen = append(chosen, m.list[at])
	}
	return chosen
}

// s3Model is algorithm 1 of the paper, with locked keys passed over.
type s3Model struct {
	small, main []int // oldest first
	hits        map[int]int
	chosen      map[int]bool
	ghosts      []int // oldest first; -1: came back
}

func newS3Model() *s3Model { return &s3Model{hits: map[int]int{}, chosen: map[int]bool{}} }

func (m *s3Model) has(k int) bool      { return slices.Contains(m.small, k) || slices.Contains(m.main, k) }
func (m *s3Model) reserved(keys []int) { m.created(keys) }
func (m *s3Model) created(keys []int) {
	for _, k := range reverse(keys) {
		if m.has(k) {
			continue
		}
		m.hits[k], m.chosen[k] = 0, false
		if at := slices.Index(m.ghosts, k); at >= 0 {
			m.ghosts[at] = -1
			m.main = append(m.main, k)
		} else {
			m.small = append(m.small, k)
		}
	}
}
func (m *s3Model) touched(keys []int) {
	for _, k := range keys {
		if m.has(k) {
			m.hits[k] = min(m.hits[k]+1, 3)
			m.chosen[k] = false
		}
	}
}
func (m *s3Model) removed(keys []int) {
	for _, k := range keys {
		if slices.Contains(m.small, k) && m.chosen[k] {
			limit := (len(m.small) + len(m.main)) * 9 / 10
			m.ghosts = append(m.ghosts, k)
			m.ghosts = m.ghosts[max(0, len(m.ghosts)-limit):]
		}
		m.small, m.main = without(m.small, k), without(m.main, k)
	}
}
func (m *s3Model) chained([]int) {}
func (m *s3Model) order() []int  { return slices.Concat(m.small, m.main) }
func (m *s3Model) lists() map[string][]int {
	return map[string][]int{"small": m.small, "main": m.main}
}
func (m *s3Model) victims(n int, among, evictable func(int) bool) (out []int) {
	may := func(k int) bool { return among(k) && evictable(k) && !slices.Contains(out, k) }
	for moved := 0; len(out) < n; {
		left := len(m.small) + len(m.main) - len(out)
		smallLeft := len(m.small)
		for _, k := range out {
			if slices.Contains(m.small, k) {
				smallLeft--
			}
		}
		small, main := slices.IndexFunc(m.small, may), slices.IndexFunc(m.main, may)
		switch {
		case small >= 0 && (smallLeft*10 >= left || main < 0):
			k := m.small[small]
			if m.hits[k] > 1 && moved < 2048 {
				moved++
				m.small, m.main = without(m.small, k), append(m.main, k)
				m.hits[k], m.chosen[k] = 0, false
				continue
			}
			out = append(out, k)
		case main >= 0:
			k := m.main[main]
			if m.hits[k] > 0 && moved < 2048 {
				moved++
				m.main = append(without(m.main, k), k)
				m.hits[k]--
				m.chosen[k] = false
				continue
			}
			out = append(out, k)
		default:
			n = 0
		}
	}
	for _, k := range out {
		m.chosen[k] = true
	}
	return out
}

// arcModel follows reference storage-manager.md, section 5.7, row by row.
type arcModel struct {
	t1, t2, b1, b2   []int
	awaiting, chosen map[int]bool
	p                float64
	capacity         int
}

func newARCModel() *arcModel { return &arcModel{awaiting: map[int]bool{}, chosen: map[int]bool{}} }

func (m *arcModel) move(to *[]int, k int) {
	for _, l := range []*[]int{&m.t1, &m.t2, &m.b1, &m.b2} {
		*l = without(*l, k)
	}
	if to != nil {
		*to = append(*to, k)
	}
	m.awaiting[k], m.chosen[k] = false, false
}
func (m *arcModel) adapt(k int) {
	b1, b2 := float64(len(m.b1)), float64(len(m.b2))
	if slices.Contains(m.b1, k) {
		m.p = min(float64(m.capacity), m.p+max(1, b2/b1))
	} else if slices.Contains(m.b2, k) {
		m.p = max(0, m.p-max(1, b1/b2))
	}
}
func (m *arcModel) trim() {
	m.capacity = max(m.capacity, len(m.t1)+len(m.t2))
	for len(m.b1) > 0 && len(m.t1)+len(m.b1) > m.capacity {
		m.b1 = m.b1[1:]
	}
	for len(m.t1)+len(m.t2)+len(m.b1)+len(m.b2) > 2*m.capacity && len(m.b1)+len(m.b2) > 0 {
		if len(m.b2) > 0 {
			m.b2 = m.b2[1:]
		} else {
			m.b1 = m.b1[1:]
		}
	}
}
func (m *arcModel) reserved(keys []int) {
	for _, k := range reverse(keys) {
		m.adapt(k)
		m.move(&m.t1, k)
		m.awaiting[k] = true
		m.trim()
	}
}
func (m *arcModel) created(keys []int) {
	for _, k := range reverse(keys) {
		switch isResident := slices.Contains(m.t1, k) || slices.Contains(m.t2, k); {
		case isResident && m.awaiting[k]:
			m.awaiting[k] = false
		case isResident, slices.Contains(m.b1, k), slices.Contains(m.b2, k):
			m.adapt(k)
			m.move(&m.t2, k)
		default:
			m.move(&m.t1, k)
		}
		m.trim()
	}
}
func (m *arcModel) touched(keys []int) {
	for _, k := range reverse(keys) {
		if slices.Contains(m.t1, k) || slices.Contains(m.t2, k) {
			awaiting := m.awaiting[k]
			m.move(&m.t2, k)
			m.awaiting[k] = awaiting
		}
	}
}
func (m *arcModel) removed(keys []int) {
	for _, k := range keys {
		inT1, inT2 := slices.Contains(m.t1, k), slices.Contains(m.t2, k)
		switch {
		case !inT1 && !inT2:
		case !m.chosen[k]:
			m.move(nil, k)
		case inT1:
			m.move(&m.b1, k)
		default:
			m.move(&m.b2, k)
		}
		m.trim()
	}
}
func (m *arcModel) chained([]int) {}
func (m *arcModel) order() []int  { return slices.Concat(m.t1, m.t2) }
func (m *arcModel) lists() map[string][]int {
	return map[string][]int{"t1": m.t1, "t2": m.t2, "b1": m.b1, "b2": m.b2, "target": {int(m.p * 1000), m.capacity}}
}
func (m *arcModel) victims(n int, among, evictable func(int) bool) (out []int) {
	may := func(k int) bool { return among(k) && evictable(k) && !slices.Contains(out, k) }
	for len(out) < n {
		left := 0
		for _, k := range m.t1 {
			if !slices.Contains(out, k) {
				left++
			}
		}
		one, other := m.t1, m.t2
		if left < int(m.p) {
			one, other = m.t2, m.t1
		}
		next := firstN(slices.Concat(one, other), 1, may)
		if len(next) == 0 {
			break
		}
		out = append(out, next...)
	}
	for _, k := range out {
		m.chosen[k] = true
	}
	return out
}

// newModel returns the model of a policy; info says the group of a key.
func newModel(policy string, group func(int) int) model {
	switch policy {
	case "LRU", "IsolatedLRU":
		return &lruModel{}
	case "ARC":
		return newARCModel()
	case "S3FIFO":
		return newS3Model()
	case "LeafLRU":
		return newLeafModel(group)
	case "noop":
		return noopModel{}
	}
	panic(fmt.Sprintf("policy %s has no model", policy))
}

// keyTable gives numbers to keys.
type keyTable struct {
	keys []kv.ObjectKey
	ids  map[kv.ObjectKey]int
}

func (t *keyTable) add(k kv.ObjectKey) int {
	if id, ok := t.ids[k]; ok {
		return id
	}
	if t.ids == nil {
		t.ids = map[kv.ObjectKey]int{}
	}
	t.ids[k] = len(t.keys)
	t.keys = append(t.keys, k)
	return len(t.keys) - 1
}
