package s3

import (
	"testing"
	"time"
)

func TestBreaker(t *testing.T) {
	const s = int64(time.Second)
	b := breaker{min: 5 * time.Second, max: 12 * time.Second}
	step := func(now int64, a answer) {
		t.Helper()
		if !b.allow(now) {
			t.Fatalf("refused at %v", time.Duration(now))
		}
		b.report(now, a)
	}
	refused := func(now int64) {
		t.Helper()
		if b.allow(now) || !b.refuses(now) {
			t.Fatalf("allowed at %v", time.Duration(now))
		}
	}
	for i := range int64(100) { // a server that restarts: all at once fail
		step(i, silent)
	}
	step(s, answered)
	step(2*s, silent)
	step(3*s, silent)
	step(5*s, answered) // two are no streak, however long
	step(10*s, silent)
	step(10*s, unknown) // ours, which says nothing
	step(11*s, silent)
	if !b.allow(12 * s) { // starts before it opens, ends after
		t.Fatal("closed and refused")
	}
	step(12*s, silent)
	b.report(12*s, silent)
	refused(17*s - 1)
	if !b.allow(17 * s) {
		t.Fatal("the cooldown is over, and no request may try")
	}
	if b.allow(17*s) || b.refuses(17*s) {
		t.Fatal("want one request alone to try, and others to know that it may get better")
	}
	b.report(18*s, silent)
	refused(28*s - 1) // doubled, from the answer on
	step(28*s, unknown)
	step(28*s, silent)
	refused(40*s - 1) // 12 s, not 20
	step(40*s, answered)
	step(40*s, silent)
	step(40*s, silent)
	step(43*s, silent)
	refused(48*s - 1) // the first cooldown again
	step(48*s, answered)
}

func TestBreakerIgnoresLateAnswersOfOthers(t *testing.T) {
	b := breaker{min: time.Second, max: time.Second}
	for i := range int64(3) {
		b.allow(0)
		b.report(i*int64(streakSpan), silent)
	}
	end := b.until
	b.report(end-1, silent) // started before it opened
	if b.until != end || !b.allow(end) {
		t.Error("a failure of before the opening prolongs the cooldown")
	}
}
