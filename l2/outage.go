package l2

import (
	"fmt"
	"sync/atomic"
)

// Outage turns the failures of a store into a line in the log at the first and
// one when it works again. The zero value is a store that works.
type Outage struct {
	failures atomic.Int64
	last     atomic.Pointer[error] // of failures
}

// Err returns what the store fails with now, nil if it works.
func (o *Outage) Err() error {
	if o.failures.Load() == 0 {
		return nil
	}
	if err := o.last.Load(); err != nil {
		return *err
	}
	return nil
}

// Report notes how an operation ended, and returns its error, which then wraps
// ErrReported if there is a log.
func (o *Outage) Report(env *Env, what string, err error) error {
	if err == nil {
		if o.failures.Load() > 0 {
			if n := o.failures.Swap(0); n > 0 && env.Log != nil {
				env.Log.Info(fmt.Sprintf("%s: works again after %d failures", what, n))
			}
		}
		return nil
	}
	o.last.Store(&err)
	first := o.failures.Add(1) == 1
	if env.Log == nil {
		return err
	}
	if first {
		env.Log.Warn(fmt.Sprintf("%s: %v; said once until it works again", what, err))
	}
	return fmt.Errorf("%w (%w)", err, ErrReported)
}
