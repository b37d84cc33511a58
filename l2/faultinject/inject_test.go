package faultinject

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/l2test"
	"github.com/lmcache/lmcache-go/l2/mock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const inner = `{"type": "mock", "max_size_gb": 1, "mock_bandwidth_gb": 100}`

func kinds() l2.Registry {
	r := l2.Registry{"mock": mock.Kind}
	r["fault_inject"] = Kind(r)
	return r
}

func opener(fields string) l2test.Open {
	return func(env l2.Env) (l2.Adapter, error) {
		return kinds()["fault_inject"].New([]byte(`{"inner": `+inner+fields+`}`), env)
	}
}

// Without faults it is its inner adapter.
func TestSuite(t *testing.T) {
	l2test.Run(t, l2test.Subject{New: func(*testing.T) l2test.Open { return opener("") }, Volatile: true})
}

func TestGaps(t *testing.T) {
	for _, c := range []struct {
		fields string
		n      int
		want   string
	}{
		{`, "gap_indices": [1, 3, 1, 99999999999]`, 5, "10101"},
		{`, "gap_tail_ratios": [0, 1]`, 4, "0110"},
		{`, "gap_tail_ratios": [0.5]`, 4, "1101"}, // 1.5 rounds to 2
		{`, "gap_tail_ratios": [0.5]`, 2, "01"},   // 0.5 rounds to 0
		{`, "gap_tail_ratios": [0.3], "gap_indices": [0]`, 1, "0"},
		{`, "rate": 1`, 3, "000"},
		{`, "rate": 0, "seed": 5`, 3, "111"},
	} {
		r := l2test.NewRig(t, true, opener(c.fields), false)
		var objects []l2.Object
		for i := range c.n {
			objects = append(objects, l2test.Object(l2test.Key(t, i, "m", ""), 10))
		}
		r.MustStore(objects...)
		if found := r.Lookup(l2test.Keys(objects...)...); found.Count() != c.n {
			t.Errorf("%s: lookups are touched: %v", c.fields, found)
		}
		for range 2 {
			if got := r.Load(l2test.Blank(objects...)...).String(); got != c.want {
				t.Errorf("%s: loaded %s; want %s", c.fields, got, c.want)
			}
		}
		if left := len(r.Adapter.(*Injector).lost); left != 0 {
			t.Errorf("%d results are kept after they were taken", left)
		}
	}
}

// The vectors of the reference.
func TestBucket(t *testing.T) {
	for salt, want := range map[string]uint64{"": 399405, "alice": 503691} {
		scope, _ := kv.InternScope("meta-llama/Llama-3.1-8B", salt)
		k, _ := kv.NewObjectKey([]byte{0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}, scope, 0x02010201, 11)
		if got := bucket("0", &k); got != want {
			t.Errorf("salt %q: bucket %d; want %d", salt, got, want)
		}
	}
}

func TestRateIsAShareOfTheKeys(t *testing.T) {
	r := l2test.NewRig(t, true, opener(`, "rate": 0.25, "seed": 7`), false)
	var objects []l2.Object
	for i := range 2000 {
		objects = append(objects, l2test.Object(l2test.Key(t, i, "m", ""), 1))
	}
	r.MustStore(objects...)
	first := r.Load(l2test.Blank(objects...)...)
	if n := first.Count(); n < 1400 || n > 1600 {
		t.Errorf("%d of 2000 loaded at rate 0.25; want about 1500", n)
	}
	if again := r.Load(l2test.Blank(objects...)...); again.String() != first.String() {
		t.Error("other keys are lost the second time")
	}
}

func TestConfigErrors(t *testing.T) {
	with := func(fields string) string { return fmt.Sprintf(`{"inner": %s, %s}`, inner, fields) }
	for config, want := range map[string]string{
		`{}`:                          "'inner' must be an adapter spec dict with a 'type' field",
		`{"inner": 3}`:                "'inner' must be an adapter spec dict with a 'type' field",
		`{"inner": {}}`:               "'inner' adapter spec must include a string 'type'",
		`{"inner": {"type": "nope"}}`: "'inner' adapter type 'nope' is not in this build",
		`{"inner": {"type": "mock"}}`: "max_size_gb must be a positive number",
		`{"inner": {"type": "mock", "serde": {}}}`:  "'serde' of an inner adapter is not supported in this build",
		`{"inner": {"type": "fault_inject"}}`:       "'inner' must be an adapter spec dict with a 'type' field",
		with(`"rate": 1.5`):                         "rate must be a number in [0, 1]",
		with(`"rate": "1"`):                         "rate must be a number in [0, 1]",
		with(`"seed": 1.5`):                         "seed must be an integer",
		with(`"seed": "a"`):                         "seed must be an integer",
		with(`"gap_indices": 3`):                    "gap_indices must be a list of non-negative integers",
		with(`"gap_indices": [-1]`):                 "gap_indices must be a list of non-negative integers",
		with(`"gap_indices": [1.5]`):                "gap_indices must be a list of non-negative integers",
		with(`"gap_tail_ratios": [2]`):              "gap_tail_ratios must be a list of floats in [0, 1]",
		with(`"gap_tail_ratios": "a"`):              "gap_tail_ratios must be a list of floats in [0, 1]",
		with(`"rate": 1, "seed": -5, "unknown": 1`): "",
	} {
		err := kinds()["fault_inject"].Check([]byte(config))
		if got := fmt.Sprint(err); got != want && (err != nil || want != "") {
			t.Errorf("%s: %v; want %s", config, err, want)
		}
	}
}
