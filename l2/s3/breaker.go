package s3

import (
	"sync"
	"time"
)

const (
	streakLen  = 3               // failures in a row that open the breaker,
	streakSpan = 2 * time.Second // if they go on for this long
)

// breaker keeps requests from a store that does not answer. It opens after
// streakLen failed connections in a row. LMCache's opens with the third; ours
// also wants the failures to last for streakSpan, because dozens of requests at
// once fail in one instant when a server is restarted, and their repetitions
// succeed. When the cooldown is over one request may try: its success closes the
// breaker, its failure doubles the cooldown.
//
// Source: reference storage-manager.md, section 8.10.
type breaker struct {
	min, max time.Duration // cooldowns; immutable

	mu       sync.Mutex
	streak   int           // failures in a row
	since    int64         // when the streak began
	open     bool          // requests are refused
	until    int64         // end of the cooldown
	cooldown time.Duration // the one that runs, or ran last
	trying   bool          // the one request after the cooldown runs
}

// allow reports whether a request may start. Each that may is followed by one
// call of report.
func (b *breaker) allow(now int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open {
		return true
	}
	if now < b.until || b.trying {
		return false
	}
	b.trying = true
	return true
}

// refuses reports whether a request that starts now has no chance.
func (b *breaker) refuses(now int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open && now < b.until
}

// answer is how a request ended.
type answer uint8

const (
	answered answer = iota // the store said something
	silent                 // no connection, or it broke
	unknown                // we gave up ourselves
)

// report notes how a request ended, and reports whether this began an outage or
// ended one.
func (b *breaker) report(now int64, a answer) (began, ended bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.open
	defer func() { began, ended = b.open && !before, before && !b.open }()
	switch a {
	case unknown:
		b.trying = false
	case answered:
		b.streak, b.open, b.trying, b.cooldown = 0, false, false, 0
	case silent:
		if b.streak == 0 {
			b.since = now
		}
		b.streak++
		if b.open && !b.trying {
			return false, false // one that started before it opened
		}
		if b.open || b.streak >= streakLen && now-b.since >= int64(streakSpan) {
			b.cooldown = min(max(b.cooldown*2, b.min), b.max)
			b.open, b.trying, b.until = true, false, now+int64(b.cooldown)
		}
	}
	return began, ended
}
