package trace

import (
	"testing"
	"time"
)

// TestNextSleep has the drain sleep for as long as its calls are few, and not
// longer than the file may be old.
func TestNextSleep(t *testing.T) {
	settle := func(callsPerSecond float64, from time.Duration) time.Duration {
		sleep := from
		for range 50 {
			sleep = nextSleep(sleep, int(callsPerSecond*sleep.Seconds()))
		}
		return sleep
	}
	for _, from := range []time.Duration{drainFirstSleep, drainBusySleep, drainLastSleep} {
		if got := settle(0, from); got != drainLastSleep {
			t.Errorf("idle, from %v: %v", from, got)
		}
		if got := settle(20_000, from); got != drainBusySleep {
			t.Errorf("20,000 calls a second, from %v: %v", from, got)
		}
		// So many that a sleep finds enough to do, and the ring stays nearly empty.
		if got := settle(1e6, from); got > 2*time.Millisecond || got < drainFirstSleep {
			t.Errorf("a million calls a second, from %v: %v", from, got)
		}
		if got := settle(1e9, from); got != drainFirstSleep {
			t.Errorf("a billion calls a second, from %v: %v", from, got)
		}
	}
}
