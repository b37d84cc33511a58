package evict

import "github.com/lmcache/lmcache-go/kv"

// S3FIFO keeps what is new in a small queue and what proved itself in a main
// one, both first in, first out, with a counter of hits up to 3 a key:
//
//   - A new key enters small. While small has a tenth of the tracked keys or
//     more, the next victim is sought there: its oldest key moves to main if it
//     was hit more than once, else it goes, and is remembered by the ghosts.
//   - A key that the ghosts remember enters main when it comes again.
//   - In main the oldest key goes around again, with one hit less, if it has any,
//     else it goes for good.
//
// The ghosts are the last keys that went from small, nine for every ten tracked
// keys: as many as main holds. They are 32-bit fingerprints, not keys. A key
// that may not go stays where it is and keeps its hits. A call that has moved 2048
// keys on the way takes the next ones whatever their hits: where all of a large tier
// was hit, a caller would wait for all of it to go around.
//
// It costs 8 bytes a tracked key and 9 to 16 a ghost: 16 to 22 a tracked key.
//
// Source: Yang et al., FIFO queues are all you need for cache eviction, SOSP'23,
// algorithm 1.
type S3FIFO struct {
	lists
	ghosts ghosts
}

// Lists of S3FIFO.
const (
	s3Small = iota
	s3Main
)

// Flags of a tracked key.
const (
	s3Hits   = 3      // mask of the counter
	s3Chosen = 1 << 2 // the policy gave it as a victim
)

// s3Patience is how many keys one call of Victims moves at most: some 200 µs.
const s3Patience = 2048

func newS3FIFO(x *kv.Index) *S3FIFO { return &S3FIFO{lists: newLists(x, 2)} }

// Reserved adds keys that are new. As LRU does it starts at the end of the list:
// of a chain the tail is the first in, and the first out.
func (f *S3FIFO) Reserved(slots []uint32) { f.Created(slots) }

// Created adds keys that are new.
func (f *S3FIFO) Created(slots []uint32) {
	for i := len(slots) - 1; i >= 0; i-- {
		s := slots[i]
		if f.of(s) != nil {
			continue
		}
		to := s3Small
		if f.ghosts.take(uint32(f.index.Hash(s))) {
			to = s3Main
		}
		f.push(&f.all[to], s)
	}
}

// Touched counts a hit of each of the keys.
func (f *S3FIFO) Touched(slots []uint32) {
	for _, s := range slots {
		if f.of(s) != nil {
			at := f.nodes.At(s)
			at.setFlags(min(at.flags()&s3Hits+1, s3Hits))
		}
	}
}

// Removed forgets the keys. Those that Victims gave, of small, become ghosts.
func (f *S3FIFO) Removed(slots []uint32) {
	for _, s := range slots {
		from := f.of(s)
		if from == nil {
			continue
		}
		if from == &f.all[s3Small] && f.nodes.At(s).flags()&s3Chosen != 0 {
			f.ghosts.add(uint32(f.index.Hash(s)), f.Len()*9/10)
		}
		f.drop(s)
	}
}

// Victims takes from small while that is too large, else from main. On the way
// it moves keys that are to stay.
func (f *S3FIFO) Victims(dst []uint32, n int, evictable func(slot uint32) bool) []uint32 {
	first := len(dst)
	small, main := &f.all[s3Small], &f.all[s3Main]
	fromSmall, fromMain := small.oldest, main.oldest
	left, smallLeft := f.Len(), small.n // without those chosen
	moved := 0
	// again puts s at the recent end of main, where the scan will meet it.
	again := func(s uint32, hits uint8) {
		moved++
		f.push(main, s)
		f.nodes.At(s).setFlags(hits)
		if fromMain == 0 {
			fromMain = s
		}
	}
	for len(dst)-first < n {
		var s uint32
		isSmall := fromSmall != 0 && (smallLeft*10 >= left || fromMain == 0)
		switch {
		case isSmall:
			s, fromSmall = fromSmall, f.nodes.At(fromSmall).after()
		case fromMain != 0:
			s, fromMain = fromMain, f.nodes.At(fromMain).after()
		default:
			n = 0
			continue
		}
		if !evictable(s) {
			continue
		}
		hits := f.nodes.At(s).flags() & s3Hits
		if moved == s3Patience {
			hits = 0
		}
		switch {
		case isSmall && hits > 1:
			smallLeft--
			again(s, 0)
			continue
		case !isSmall && hits > 0:
			again(s, hits-1)
			continue
		case isSmall:
			smallLeft--
		}
		left--
		dst = append(dst, s)
	}
	for _, s := range dst[first:] {
		at := f.nodes.At(s)
		at.setFlags(at.flags() | s3Chosen)
	}
	return dst
}

// Len returns the number of tracked keys.
func (f *S3FIFO) Len() int { return f.all[s3Small].n + f.all[s3Main].n }

// Order appends small, then main, each from the oldest on.
func (f *S3FIFO) Order(dst []uint32) []uint32 {
	return f.appendTo(f.appendTo(dst, &f.all[s3Small]), &f.all[s3Main])
}

// Lists returns each queue by its name, oldest first.
func (f *S3FIFO) Lists() map[string][]uint32 {
	return map[string][]uint32{"small": f.appendTo(nil, &f.all[s3Small]), "main": f.appendTo(nil, &f.all[s3Main])}
}
