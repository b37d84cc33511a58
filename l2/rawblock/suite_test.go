package rawblock

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/l2test"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// opener opens a file as a device, with more JSON fields.
func opener(path, fields string) l2test.Open {
	return func(env l2.Env) (l2.Adapter, error) {
		name, _ := json.Marshal(path)
		return Kind.New(fmt.Appendf(nil, `{"device_path": %s, %s}`, name, fields), env)
	}
}

func TestSuite(t *testing.T) {
	for name, fields := range map[string]string{
		"direct":     `"slot_bytes": 1052672, "capacity_bytes": 2164260864, "meta_total_bytes": 4194304`,
		"page cache": `"slot_bytes": 69632, "capacity_bytes": 167772160, "meta_total_bytes": 1048576, "use_odirect": false, "block_align": 512`,
		"copied":     `"slot_bytes": 69632, "capacity_bytes": 167772160, "meta_total_bytes": 1048576, "enable_zero_copy": false, "num_load_workers": 1`,
	} {
		t.Run(name, func(t *testing.T) {
			s := l2test.Subject{New: func(t *testing.T) l2test.Open {
				return opener(filepath.Join(t.TempDir(), "device"), fields)
			}}
			if name != "direct" {
				s.MaxObject = 65536
			}
			l2test.Run(t, s)
		})
	}
}
