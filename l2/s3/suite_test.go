package s3_test

import (
	"testing"

	"github.com/lmcache/lmcache-go/l2/l2test"
)

func TestSuite(t *testing.T) {
	g := newGateway(t)
	l2test.Run(t, l2test.Subject{
		New: func(t *testing.T) l2test.Open { return g.open(g.bucket(t), nil) },
	})
}

// One worker alone must still serve stores and loads in turn.
func TestSuiteWithOneWorker(t *testing.T) {
	g := newGateway(t)
	l2test.Run(t, l2test.Subject{
		New: func(t *testing.T) l2test.Open {
			return g.open(g.bucket(t), map[string]any{"s3_num_io_threads": 1})
		},
		MaxObject: 100_000,
	})
}
