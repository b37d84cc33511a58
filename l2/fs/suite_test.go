package fs_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"go.uber.org/goleak"

	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/fs"
	"github.com/lmcache/lmcache-go/l2/l2test"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// opener opens an adapter on a folder, with more JSON fields.
func opener(native bool, folder, more string) l2test.Open {
	return func(env l2.Env) (l2.Adapter, error) {
		name, _ := json.Marshal(folder)
		config := fmt.Appendf(nil, `{"base_path": %s%s}`, name, more)
		kind := kindOf(native)
		if err := kind.Check(config); err != nil {
			return nil, err
		}
		return kind.New(config, env)
	}
}

func kindOf(native bool) l2.Kind {
	if native {
		return fs.NativeKind
	}
	return fs.Kind
}

func TestSuite(t *testing.T) {
	for _, c := range []struct {
		name   string
		native bool
		more   string
		grain  int
	}{
		{"plain", false, ``, 1},
		{"capacity", false, `, "max_capacity_gb": 1`, 1},
		{"direct", false, `, "use_odirect": true, "relative_tmp_dir": "a/b"`, 1},
		{"native", true, `, "max_capacity_gb": 1, "num_workers": 2, "read_ahead_size": 65536`, 1},
		{"native direct", true, `, "use_odirect": true`, 4096},
	} {
		t.Run(c.name, func(t *testing.T) {
			l2test.Run(t, l2test.Subject{
				New:   func(t *testing.T) l2test.Open { return opener(c.native, t.TempDir()+"/l2", c.more) },
				Grain: c.grain,
			})
		})
	}
}
