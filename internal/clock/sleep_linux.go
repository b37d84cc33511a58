package clock

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// kernelOffset is CLOCK_MONOTONIC less Now, the same clock with another origin.
// Measured with a system call between two readings, it is wrong by the time of
// that call at most, which the spin at the end of a sleep covers.
var kernelOffset = func() int64 {
	var ts unix.Timespec
	before := Real{}.Now()
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // the deadline then lies in the past: sleepKernel returns at once and the timer waits
	}
	return ts.Nano() - (before+Real{}.Now())/2
}()

// sleepKernel sleeps until about time t of Now, possibly less. Its caller looks
// at the clock again.
func sleepKernel(t int64) {
	// Timer slack belongs to the thread and is 50 µs by default. It is left at
	// 1 ns: other goroutines on this thread wait on futexes and the poller,
	// which are woken by others or rounded up to a millisecond anyway.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // refused: the sleep is 50 µs later, no worse

	ts := unix.NsecToTimespec(t + kernelOffset)
	// The runtime preempts with signals, which interrupt the sleep; the deadline
	// is absolute, so it goes on where it was.
	for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &ts, nil) == unix.EINTR {
	}
}
