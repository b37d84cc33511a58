//go:build !linux

package clock

import "time"

// sleepKernel sleeps until about time t of Now, or less by what the runtime's
// timer may be late.
func sleepKernel(t int64) {
	time.Sleep(time.Duration(t - Real{}.Now() - int64(time.Millisecond)))
}
