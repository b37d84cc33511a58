package mock_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/l2test"
	"github.com/lmcache/lmcache-go/l2/mock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSuite(t *testing.T) {
	l2test.Run(t, l2test.Subject{
		New: func(*testing.T) l2test.Open {
			return func(env l2.Env) (l2.Adapter, error) {
				return mock.New([]byte(`{"max_size_gb": 1, "mock_bandwidth_gb": 100}`), env)
			}
		},
		Volatile: true,
	})
}
