package sm

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/lmcache/lmcache-go/internal/pyfmt"
)

// Comparison says whether a recording was made with the configuration of this
// run.
type Comparison struct {
	Match bool
	// Row is what the summary of a replay shows: "match (0f685d8a)" or
	// "MISMATCH (rec=0f685d8a, run=b1ca78ef)". It is empty for a recording
	// without a digest.
	Row string
	// Differences has one line a setting that differs, sorted by its path.
	Differences []string
	// Unknown has one line for everything recorded that cannot be compared. It
	// does not count as a difference.
	Unknown []string
}

// CompareConfig compares the configuration that a trace header holds, written
// by any release of LMCache or by this program, with that of a run.
//
// LMCache compares digests, which never agree from release 0.4.7 on: the JSON
// has a process id in it, and the memory address of every L2 adapter. So this
// compares settings. Left out is what belongs to the process or host, and what
// changes nothing: shm_name, use_lazy, init_size_in_bytes. A setting that one
// side does not have is compared as LMCache's default. A configuration that
// cannot be read is compared by digest.
//
// Source: reference lct-v1.md, section 4.
func CompareConfig(recordedJSON, recordedDigest string, run Config) Comparison {
	c := compareSettings(recordedJSON, recordedDigest, run)
	if recordedDigest == "" {
		return c
	}
	if c.Match {
		c.Row = fmt.Sprintf("match (%s)", first8(recordedDigest))
	} else {
		c.Row = fmt.Sprintf("MISMATCH (rec=%s, run=%s)", first8(recordedDigest), first8(run.Digest()))
	}
	return c
}

func first8(digest string) string { return digest[:min(8, len(digest))] }

func compareSettings(recordedJSON, recordedDigest string, run Config) Comparison {
	recorded, err := decodeRecorded(recordedJSON)
	if err != nil {
		c := Comparison{
			Match:   recordedDigest == run.Digest(),
			Unknown: []string{"recorded configuration: " + err.Error()},
		}
		if recordedDigest != "" && !c.Match {
			c.Differences = []string{"configuration: the digests differ; the recorded settings are not known"}
		}
		return c
	}
	d := differ{recorded: map[string]any{}, run: map[string]any{}}
	d.moveAdapters(recorded, run)
	object := run.object()
	delete(object, "l2_adapter_config")
	if theirs, ours := moveManagers(recorded), moveManagers(object); theirs != ours {
		d.differ("l1_manager_configs", l1Count(theirs), l1Count(ours))
		delete(recorded, "l1_manager_configs")
		delete(object, "l1_manager_configs")
	}
	flatten(d.recorded, "", recorded)
	flatten(d.run, "", object)
	d.compare()
	slices.Sort(d.differences)
	slices.Sort(d.unknown)
	return Comparison{Match: len(d.differences) == 0, Differences: d.differences, Unknown: d.unknown}
}

func decodeRecorded(text string) (map[string]any, error) {
	if text == "" {
		return nil, errors.New("not recorded")
	}
	v, err := decodeJSON([]byte(text))
	if err != nil {
		return nil, errors.New("not valid JSON: " + pyJSONError(text, err))
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("expected a JSON object, got %s", pyType(v))
	}
	if _, ok := object["repr"]; ok && len(object) == 1 {
		return nil, errors.New("recorded as text that tells no settings")
	}
	return object, nil
}

// ignoredSettings belong to the process or host, or change nothing.
var ignoredSettings = map[string]bool{
	memoryConfig + "shm_name":           true,
	memoryConfig + "use_lazy":           true,
	memoryConfig + "init_size_in_bytes": true,
}

const memoryConfig = "l1_manager_config.memory_config."

// settingDefaults are LMCache's defaults of the settings that a recording or
// our own JSON may be without.
var settingDefaults = map[string]any{
	"eviction_config.extra_logging_enabled":  false,
	"eviction_config.extra_logging_interval": 10.0,
	"eviction_config.eviction_ratio":         0.2,
	"eviction_config.trigger_watermark":      0.8,

	"l1_manager_config.gds_l1_config":       nil,
	"l1_manager_config.tag":                 "_default",
	"l1_manager_config.read_ttl_seconds":    300,
	"l1_manager_config.write_ttl_seconds":   600,
	memoryConfig + "align_bytes":            4096,
	memoryConfig + "devdax_offset_in_bytes": 0,
	memoryConfig + "devdax_path":            nil,
	memoryConfig + "devdax_size_in_bytes":   0,
	memoryConfig + "mlock":                  false,
	memoryConfig + "use_hugepages":          false,
	"periodic_notifier_interval_ms":         5,
	"prefetch_inflight_watermark":           0.5,
	"prefetch_max_in_flight":                8,
	"prefetch_policy":                       "default",
	"quotas":                                nil,
	"store_policy":                          "default",
}

// adapterDefaults are LMCache's defaults of the fields that all adapters have.
var adapterDefaults = map[string]any{"persist_enabled": true, "shared": false, "affinity_tag": "_default"}

// settingDefault returns the default of a setting that one side does not have.
func settingDefault(path string) (value any, ok bool) {
	path = asFirst(path)
	if strings.HasPrefix(path, adaptersPath) {
		value, ok = adapterDefaults[path[strings.LastIndexByte(path, '.')+1:]]
		return value, ok
	}
	value, ok = settingDefaults[path]
	return value, ok
}

const adaptersPath = "l2_adapter_config.adapters"

// differ compares two configurations by the dotted paths of their settings.
type differ struct {
	recorded, run        map[string]any
	differences, unknown []string
}

func (d *differ) differ(path, recorded, run string) {
	d.differences = append(d.differences, fmt.Sprintf("%s: recorded %s, this run %s", path, recorded, run))
}

// moveManagers takes what 0.5.6 writes twice out of a configuration:
// l1_manager_configs starts with a copy of l1_manager_config, and each manager
// has the eviction settings that are in effect for it. It returns the number of
// L1s.
func moveManagers(object map[string]any) (count int) {
	count = 1
	first, _ := object["l1_manager_config"].(map[string]any)
	managers, _ := object["l1_manager_configs"].([]any)
	if len(managers) > 0 && reflect.DeepEqual(managers[0], any(first)) {
		count = len(managers)
		managers[0] = nil // the paths of the others keep their numbers
		if count == 1 {
			delete(object, "l1_manager_configs")
		}
	}
	if eviction, ok := first["eviction"].(map[string]any); ok {
		object["eviction_config"] = eviction
		delete(first, "eviction")
	}
	return count
}

func l1Count(n int) string {
	if n == 1 {
		return "1"
	}
	return fmt.Sprintf("%d L1 managers", n)
}

var laterManager = regexp.MustCompile(`^l1_manager_configs\[\d+\]\.`)

// asFirst returns the path that a setting of a later L1 has in the first.
func asFirst(path string) string {
	if at := laterManager.FindStringIndex(path); at != nil {
		path = path[at[1]:]
		if setting, ok := strings.CutPrefix(path, "eviction."); ok {
			return "eviction_config." + setting
		}
		return "l1_manager_config." + path
	}
	return path
}

// An upstream adapter is recorded as the text of a Python object.
var objectText = regexp.MustCompile(`^<(?:[\w.]*\.)?(\w+) object at 0x[0-9a-fA-F]+>$`)

// moveAdapters compares the adapters and takes them out of the recording.
func (d *differ) moveAdapters(recorded map[string]any, run Config) {
	config, _ := recorded["l2_adapter_config"].(map[string]any)
	theirs, _ := config["adapters"].([]any)
	ours := run.object()["l2_adapter_config"].(map[string]any)["adapters"].([]any)
	if len(theirs) != len(ours) {
		d.differ(adaptersPath, adapterNames(theirs), adapterNames(ours))
	}
	for i, v := range theirs {
		at := fmt.Sprintf("%s[%d]", adaptersPath, i)
		text, isText := v.(string)
		switch {
		case isText:
			what := "recorded as text, its settings are not known: " + show(text)
			if m := objectText.FindStringSubmatch(text); m != nil {
				what = fmt.Sprintf("recorded as an object of class %s, its settings are not known", m[1])
			}
			d.unknown = append(d.unknown, at+": "+what)
		case len(theirs) == len(ours):
			flatten(d.recorded, at, v)
			flatten(d.run, at, ours[i])
		}
	}
	delete(config, "adapters")
}

// adapterNames says in one line which adapters a configuration has.
func adapterNames(adapters []any) string {
	if len(adapters) == 0 {
		return "none"
	}
	var names []string
	for _, a := range adapters {
		name := "?"
		switch a := a.(type) {
		case string:
			if m := objectText.FindStringSubmatch(a); m != nil {
				name = m[1]
			}
		case map[string]any:
			if s, ok := a["type"].(string); ok {
				name = s
			}
		}
		names = append(names, name)
	}
	return strconv.Itoa(len(adapters)) + " (" + strings.Join(names, ", ") + ")"
}

// flatten puts the leaves of v into settings, by their paths.
func flatten(settings map[string]any, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if path != "" {
				k = path + "." + k
			}
			flatten(settings, k, e)
		}
	case []any:
		for i, e := range v {
			flatten(settings, fmt.Sprintf("%s[%d]", path, i), e)
		}
	default:
		settings[path] = v
	}
}

func (d *differ) compare() {
	for path, recorded := range d.recorded {
		run, ok := d.run[path]
		if !ok {
			run, ok = settingDefault(path)
		}
		switch {
		case ignoredSettings[asFirst(path)]:
		case ok && !equalSettings(recorded, run):
			d.differ(path, show(recorded), show(run))
		case !ok && strings.HasPrefix(path, adaptersPath), !ok && d.within(path):
			d.differ(path, show(recorded), "not set")
		case !ok:
			d.unknown = append(d.unknown, fmt.Sprintf("%s: recorded %s, which this build does not know", path, show(recorded)))
		}
	}
	for path, run := range d.run {
		if _, ok := d.recorded[path]; ok || ignoredSettings[asFirst(path)] {
			continue
		}
		def, ok := settingDefault(path)
		switch {
		case !ok:
			d.differ(path, "not set", show(run))
		case !equalSettings(def, run):
			d.differ(path, show(def)+" (by default)", show(run))
		}
	}
}

// within reports whether path lies below a setting that is a leaf by default,
// as the fields of gds_l1_config do.
func (d *differ) within(path string) bool {
	for i := strings.LastIndexByte(path, '.'); i > 0; i = strings.LastIndexByte(path[:i], '.') {
		if _, ok := settingDefaults[path[:i]]; ok {
			return true
		}
	}
	return false
}

// equalSettings compares numbers by value, whichever way they are written.
func equalSettings(a, b any) bool {
	x, y := rational(a), rational(b)
	if x != nil && y != nil {
		return x.Cmp(y) == 0
	}
	return a == b // leaves: comparable
}

// rational returns the exact value of a number, nil for another type.
func rational(v any) *big.Rat {
	switch v := v.(type) {
	case int:
		return big.NewRat(int64(v), 1)
	case int64:
		return big.NewRat(v, 1)
	case float64:
		return new(big.Rat).SetFloat64(v) // nil if not finite
	case json.Number:
		if f, err := v.Float64(); err == nil && strings.ContainsAny(v.String(), ".eE") {
			return new(big.Rat).SetFloat64(f)
		}
		if len(v) > 40 { // no setting has as many digits; keep the work bounded
			return nil
		}
		r, _ := new(big.Rat).SetString(v.String())
		return r
	}
	return nil
}

// show writes a setting as JSON, so that a string and a number look different,
// and shortens what is long.
func show(v any) string {
	s := string(pyfmt.AppendJSON(nil, v))
	if len(s) > 100 {
		s = s[:97] + "..."
	}
	return s
}
