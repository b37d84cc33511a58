package sm

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// L1Manager describes one L1 of several.
type L1Manager struct {
	Tag      string // names it, in the affinity_tag of adapters; each tag once
	L1       L1Config
	Eviction EvictionConfig
}

// DefaultTag is the tag of an L1 that is the only one.
const DefaultTag = "_default"

// about says which L1 an error is about, where there can be a doubt.
func (t L1Manager) about(err error) error {
	if t.Tag == DefaultTag {
		return err
	}
	return fmt.Errorf("L1 %s: %w", t.Tag, err)
}

// maxL1Managers bounds the L1s; nobody has as many kinds of memory.
const maxL1Managers = 64

// Tiers returns the L1s in the order in which a write tries them: L1Managers,
// or the one that L1 and Eviction describe.
func (c Config) Tiers() []L1Manager {
	if len(c.L1Managers) > 0 {
		return c.L1Managers
	}
	return []L1Manager{{DefaultTag, c.L1, c.Eviction}}
}

// L1ManagerError reports an --l1-manager that New refuses.
type L1ManagerError struct {
	N       int  // position of the flag, from 1
	NotJSON bool // Err is about the syntax
	Err     error
}

func (e *L1ManagerError) Error() string {
	if e.NotJSON {
		return fmt.Sprintf("Invalid JSON for --l1-manager #%d: %v", e.N, e.Err)
	}
	return fmt.Sprintf("--l1-manager #%d: %v", e.N, e.Err)
}

func (e *L1ManagerError) Unwrap() error { return e.Err }

// The fields of an L1 manager, by its type.
var l1Fields = map[string][]string{
	"DRAM":   {"align_bytes", "eviction", "init_size_gb", "read_ttl_seconds", "shm_name", "size_gb", "tag", "type", "use_hugepages", "use_lazy", "write_ttl_seconds"},
	"DEVDAX": nil, // known by name
	"GDS":    nil,
}

// ParseL1Managers reads L1s from their JSON objects, in order. What an object
// does not say is as in defaults: lives of locks and eviction; and the size,
// which it must say. Its error is an *L1ManagerError with LMCache's words.
//
// Source: reference storage-manager.md, sections 9.1 and 9.2; tried with release
// 0.5.6.
func ParseL1Managers(texts []string, defaults L1Manager) ([]L1Manager, error) {
	list := make([]L1Manager, 0, len(texts))
	for i, text := range texts {
		v, err := decodeJSON([]byte(text))
		if err != nil {
			return nil, &L1ManagerError{N: i + 1, NotJSON: true, Err: errors.New(pyJSONError(text, err))}
		}
		one := defaults
		fields, _ := v.(map[string]any)
		if err := one.read(fields); err != nil {
			return nil, &L1ManagerError{N: i + 1, Err: err}
		}
		list = append(list, one)
	}
	return list, checkTags(list)
}

// checkTags refuses what two L1s cannot have both.
func checkTags(list []L1Manager) error {
	seen := map[string]bool{}
	for i, t := range list {
		switch {
		case i >= maxL1Managers:
			return &L1ManagerError{N: i + 1, Err: fmt.Errorf("at most %d L1 managers", maxL1Managers)}
		case seen[t.Tag]:
			return &L1ManagerError{N: i + 1, Err: fmt.Errorf("L1 tags must be unique: %s", pyRepr(t.Tag))}
		}
		seen[t.Tag] = true
	}
	return nil
}

func (t *L1Manager) read(fields map[string]any) error {
	kind, _ := fields["type"].(string)
	known, ok := l1Fields[kind]
	if !ok {
		return fmt.Errorf("--l1-manager requires type DRAM, DEVDAX or GDS, got %s", pyRepr(fields["type"]))
	}
	if known == nil {
		return &UnsupportedError{"L1 of type " + kind}
	}
	var unknown []string
	for name := range fields {
		if !slices.Contains(known, name) {
			unknown = append(unknown, "'"+name+"'")
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		//lint:ignore ST1005 LMCache's text
		return fmt.Errorf("Unknown L1 fields: [%s] (known: %s)", strings.Join(unknown, ", "), strings.Join(known, ", "))
	}
	if t.Tag, _ = fields["tag"].(string); t.Tag == "" {
		return fmt.Errorf("tag must be a non-empty string, got %s", pyRepr(fields["tag"]))
	}
	gb, ok := number(fields["size_gb"])
	if !ok || !(gb > 0) || gb*gib >= math.MaxInt64 {
		return fmt.Errorf("size_gb must be a finite positive number, got %s", pyRepr(fields["size_gb"]))
	}
	t.L1.SizeBytes = int64(gb * gib)
	if v, ok := fields["init_size_gb"]; ok {
		gb, ok := number(v)
		if !ok || !(gb >= 0) || gb*gib >= math.MaxInt64 {
			return fmt.Errorf("init_size_gb must be a number 0 or more, got %s", pyRepr(v))
		}
		t.L1.InitSizeBytes = int64(gb * gib)
	}
	for _, f := range []struct {
		name  string
		value *int64
	}{{"align_bytes", &t.L1.AlignBytes}, {"write_ttl_seconds", &t.L1.WriteTTLSeconds}, {"read_ttl_seconds", &t.L1.ReadTTLSeconds}} {
		if v, ok := fields[f.name]; ok {
			if *f.value, ok = integer(v); !ok {
				return fmt.Errorf("%s must be an integer, got %s", f.name, pyRepr(v))
			}
		}
	}
	if v, ok := fields["use_lazy"]; ok {
		if t.L1.UseLazy, ok = v.(bool); !ok {
			return fmt.Errorf("use_lazy must be true or false, got %s", pyRepr(v))
		}
	}
	if v, ok := fields["use_hugepages"]; ok && v != false {
		return &UnsupportedError{"use_hugepages " + pyRepr(v)}
	}
	if v, ok := fields["shm_name"]; ok && v != "" {
		return &UnsupportedError{"shm_name " + pyRepr(v)}
	}
	if v, ok := fields["eviction"]; ok && v != nil {
		return t.Eviction.read(v)
	}
	return nil
}

// read sets what an eviction block of an L1 says.
func (e *EvictionConfig) read(v any) error {
	wrong := errors.New("eviction must contain policy, watermark and ratio settings only: eviction_policy, trigger_watermark, eviction_ratio")
	fields, ok := v.(map[string]any)
	if !ok {
		return wrong
	}
	for name, v := range fields {
		switch name {
		case "eviction_policy":
			if e.Policy, ok = v.(string); !ok {
				return fmt.Errorf("eviction.eviction_policy must be one of %s, got %s", strings.Join(EvictionPolicies, ", "), pyRepr(v))
			}
		case "trigger_watermark", "eviction_ratio":
			share := &e.Watermark
			if name == "eviction_ratio" {
				share = &e.Ratio
			}
			if *share, ok = number(v); !ok {
				return fmt.Errorf("eviction.%s must be a number %s, got %s", name, allowedShare, pyRepr(v))
			}
		default:
			return wrong
		}
	}
	return nil
}

// integer returns a JSON number without a fraction.
func integer(v any) (int64, bool) {
	f, ok := number(v)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(fmt.Sprint(v), 10, 64)
	return n, err == nil && float64(n) == f
}

// validate checks one of several L1s; its messages name the field instead of
// the flag that a single L1 has.
func (t L1Manager) validate() error {
	if t.Eviction.Policy == "" {
		//lint:ignore ST1005 LMCache's text
		return fmt.Errorf("An eviction policy is required for each L1: --eviction-policy, or eviction_policy of its eviction block (allowed: %s)", strings.Join(EvictionPolicies, ", "))
	}
	for _, err := range []error{t.L1.validate(), t.Eviction.validate()} {
		var setting *SettingError
		switch {
		case errors.As(err, &setting):
			field := map[string]string{
				"--l1-size-gb": "size_gb", "--l1-init-size-gb": "init_size_gb", "--l1-align-bytes": "align_bytes",
				"--l1-write-ttl-seconds": "write_ttl_seconds", "--l1-read-ttl-seconds": "read_ttl_seconds", "--eviction-policy": "eviction.eviction_policy",
				"--eviction-trigger-watermark": "eviction.trigger_watermark", "--eviction-ratio": "eviction.eviction_ratio",
			}[setting.Flag]
			return &SettingError{field, setting.Value, setting.Allowed}
		case err != nil:
			return err
		}
	}
	return nil
}
