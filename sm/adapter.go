package sm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/lmcache/lmcache-go/evict"
	"github.com/lmcache/lmcache-go/l2"
)

// Adapter is what a configured L2 adapter has in common with all others; its
// own settings stay in Fields.
//
// Source: reference storage-manager.md, section 8.2.
type Adapter struct {
	Type           string
	Fields         map[string]any  // the whole JSON object; numbers are json.Number
	JSON           string          // the same, as configured
	Eviction       *EvictionConfig // nil: the store evicts nothing
	AffinityTag    string          // of the L1 that it serves
	PersistEnabled bool
	Shared         bool // several servers use the store
}

// AdapterError reports an adapter that New refuses.
type AdapterError struct {
	N       int    // position of the flag, from 1; 0 for one that AddAdapter got
	Type    string // empty if the object does not get as far
	NotJSON bool   // Err is about the syntax
	Err     error
}

func (e *AdapterError) Error() string {
	what := "L2 adapter"
	if e.N > 0 {
		what = fmt.Sprintf("--l2-adapter #%d", e.N)
	}
	switch {
	case e.NotJSON:
		return fmt.Sprintf("Invalid JSON for %s: %v", what, e.Err)
	case e.Type != "":
		return fmt.Sprintf("%s ('%s'): %v", what, e.Type, e.Err)
	}
	return fmt.Sprintf("%s: %v", what, e.Err)
}

func (e *AdapterError) Unwrap() error { return e.Err }

// Types that LMCache has: those of release 0.5.6, in the order in which it
// lists them, and those of other releases and branches. A type that is in
// neither is a typing error.
//
// Source: reference storage-manager.md, section 8.15.
var (
	knownAdapters = []string{"aerospike", "bigtable", "dax", "fault_inject", "fs", "fs_native", "hf3fs", "hfbucket",
		"mock", "mooncake_store", "native_plugin", "nixl_native", "p2p", "plugin", "raw_block", "resp", "s3",
		"sagemaker-hyperpod", "valkey"}
	otherAdapters = []string{"blkio", "cxl_peer", "dram", "gcs", "nixl_store", "nixl_store_dynamic", "pd", "phx", "wqs_store"}
)

// knownSerdes are the kinds of serde that LMCache 0.5.6 has.
//
// Source: reference storage-manager.md, section 8.14.
var knownSerdes = []string{"aesgcm", "fp8", "turboquant"}

// Adapters parses and checks L2Adapters against the kinds that the program has.
// Its error is an *AdapterError.
func (c Config) Adapters(kinds l2.Registry) ([]Adapter, error) {
	list := make([]Adapter, 0, len(c.L2Adapters))
	for i, text := range c.L2Adapters {
		a, err := c.parseAdapter(kinds, i+1, text)
		if err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	return list, nil
}

// parseAdapter reads the n-th adapter. The messages are LMCache's.
func (c Config) parseAdapter(kinds l2.Registry, n int, text string) (Adapter, error) {
	fields, err := decodeAdapter(n, text)
	if err != nil {
		return Adapter{}, err
	}
	value, ok := fields["type"]
	if !ok {
		return Adapter{}, &AdapterError{N: n, Err: errors.New("missing 'type' field")}
	}
	name, ok := value.(string)
	if !ok || !slices.Contains(knownAdapters, name) && !slices.Contains(otherAdapters, name) {
		return Adapter{}, &AdapterError{N: n, Err: fmt.Errorf("unknown adapter type %s. Known: %s",
			pyRepr(value), strings.Join(knownAdapters, ", "))}
	}
	kind, ok := kinds[name]
	if !ok {
		return Adapter{}, &AdapterError{N: n, Err: &UnsupportedError{fmt.Sprintf("adapter type '%s'", name)}}
	}
	a := Adapter{Type: name, Fields: fields, JSON: text, PersistEnabled: true}
	err = a.readCommon(c.Tiers())
	if err == nil {
		err = kind.Check([]byte(text))
	}
	if err != nil {
		return Adapter{}, &AdapterError{N: n, Type: name, Err: err}
	}
	return a, nil
}

// readCommon checks and sets what every adapter type understands. Unknown
// fields are ignored, as they are by LMCache.
func (a *Adapter) readCommon(tiers []L1Manager) error {
	for _, s := range []struct {
		name  string
		value *bool
	}{{"persist_enabled", &a.PersistEnabled}, {"shared", &a.Shared}} {
		if v, ok := a.Fields[s.name]; ok {
			if *s.value, ok = v.(bool); !ok {
				return fmt.Errorf("%s must be true or false, got %s", s.name, pyRepr(v))
			}
		}
	}
	a.AffinityTag = DefaultTag
	if v, ok := a.Fields["affinity_tag"]; ok {
		if a.AffinityTag, ok = v.(string); !ok || a.AffinityTag == "" {
			return errors.New("affinity_tag must be a non-empty string")
		}
	}
	if !slices.ContainsFunc(tiers, func(t L1Manager) bool { return t.Tag == a.AffinityTag }) {
		var tags []string
		for _, t := range tiers {
			tags = append(tags, pyRepr(t.Tag))
		}
		//lint:ignore ST1005 LMCache's text
		return fmt.Errorf("Unknown L1 affinity_tag: %s (allowed: %s)", pyRepr(a.AffinityTag), strings.Join(tags, ", "))
	}
	if v, ok := a.Fields["serde"]; ok && v != nil {
		serde, isObject := v.(map[string]any)
		kind, hasType := serde["type"]
		name, _ := kind.(string)
		switch {
		case !isObject:
			return fmt.Errorf("'serde' must be a dict, got %s", pyType(v))
		case !hasType:
			return errors.New("'serde' dict must include a 'type' field")
		case !slices.Contains(knownSerdes, name):
			//lint:ignore ST1005 LMCache's text
			return fmt.Errorf("Unknown serde type %s. Registered: %s", pyRepr(kind), strings.Join(knownSerdes, ", "))
		}
		return &UnsupportedError{fmt.Sprintf("serde type '%s'", name)}
	}
	if v, ok := a.Fields["eviction"]; ok && v != nil {
		return a.readEviction(v)
	}
	return nil
}

func (a *Adapter) readEviction(v any) error {
	fields, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("'eviction' must be a dict, got %s", pyType(v))
	}
	policy, _ := fields["eviction_policy"].(string)
	if !slices.Contains(EvictionPolicies, policy) {
		return fmt.Errorf("eviction.eviction_policy must be 'LRU', 'ARC', 'IsolatedLRU', 'noop', 'S3FIFO', or 'LeafLRU', got %s",
			pyRepr(fields["eviction_policy"]))
	}
	if !slices.Contains(evict.Names(), policy) {
		return &UnsupportedError{"eviction.eviction_policy '" + policy + "' of an L2 adapter"}
	}
	a.Eviction = &EvictionConfig{Policy: policy, Watermark: 0.8, Ratio: 0.2}
	for _, s := range []struct {
		name  string
		share *float64
	}{{"trigger_watermark", &a.Eviction.Watermark}, {"eviction_ratio", &a.Eviction.Ratio}} {
		if v, ok := fields[s.name]; ok {
			f, ok := number(v)
			if !ok || !(f >= 0) {
				return fmt.Errorf("eviction.%s must be a number %s, got %s", s.name, allowedShare, pyRepr(v))
			}
			*s.share = f
		}
	}
	return nil
}

// number returns a JSON number; ok is false for another type and for one that
// a float64 does not hold.
func number(v any) (f float64, ok bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	f, err := n.Float64()
	return f, err == nil
}

// decodeAdapter reads one JSON object.
func decodeAdapter(n int, text string) (map[string]any, error) {
	v, err := decodeJSON([]byte(text))
	if err != nil {
		return nil, &AdapterError{N: n, NotJSON: true, Err: errors.New(pyJSONError(text, err))}
	}
	fields, ok := v.(map[string]any)
	if !ok {
		return nil, &AdapterError{N: n, Err: fmt.Errorf("expected a JSON object, got %s", pyType(v))}
	}
	return fields, nil
}

// decodeJSON reads one JSON value with nothing behind it; numbers become
// json.Number. Its error is a *json.SyntaxError.
func decodeJSON(data []byte) (v any, err error) {
	var whole json.RawMessage
	if err := json.Unmarshal(data, &whole); err != nil { // a Decoder would stop behind the value
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(whole))
	dec.UseNumber()
	err = dec.Decode(&v)
	return v, err
}

// pyJSONErrors gives Python's words for what encoding/json says.
var pyJSONErrors = []struct{ contains, text string }{
	{"looking for beginning of object key", "Expecting property name enclosed in double quotes"},
	{"after object key:value pair", "Expecting ',' delimiter"},
	{"after object key", "Expecting ':' delimiter"},
	{"after array element", "Expecting ',' delimiter"},
	{"after top-level value", "Extra data"},
	{"in string literal", "Invalid control character at"},
	{"in string escape code", `Invalid \escape`},
	{"in \\u hexadecimal", `Invalid \uXXXX escape`},
	{"looking for beginning of value", "Expecting value"},
}

// pyJSONEnd says what Python expects where text ends too early.
func pyJSONEnd(text string) string {
	text = strings.TrimRight(text, " \t\r\n")
	switch {
	case strings.HasSuffix(text, "{"):
		return "Expecting property name enclosed in double quotes"
	case text == "", strings.HasSuffix(text, ":"), strings.HasSuffix(text, "["), strings.HasSuffix(text, ","):
		return "Expecting value"
	case strings.Count(text, `"`)%2 == 1:
		return "Unterminated string"
	}
	return "Expecting ',' delimiter"
}

// pyJSONError describes a syntax error as Python does, with its position.
func pyJSONError(text string, err error) string {
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return err.Error()
	}
	msg := syntax.Error()
	for _, e := range pyJSONErrors {
		if strings.Contains(msg, e.contains) {
			msg = e.text
			break
		}
	}
	end := min(max(int(syntax.Offset)-1, 0), len(text)) // the offending byte
	if strings.HasPrefix(msg, "unexpected end") {
		msg, end = pyJSONEnd(text), len(text)
	}
	before := text[:end]
	line := strings.Count(before, "\n") + 1
	column := utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:]) + 1
	return fmt.Sprintf("%s: line %d column %d (char %d)", msg, line, column, utf8.RuneCountInString(before))
}

// pyType returns Python's name for the type of a JSON value.
func pyType(v any) string {
	switch v := v.(type) {
	case nil:
		return "NoneType"
	case bool:
		return "bool"
	case string:
		return "str"
	case []any:
		return "list"
	case map[string]any:
		return "dict"
	case json.Number:
		if strings.ContainsAny(v.String(), ".eE") {
			return "float"
		}
		return "int"
	}
	return fmt.Sprintf("%T", v)
}

// pyRepr shows a JSON value in a message: a string in single quotes, all else
// as JSON.
func pyRepr(v any) string {
	if s, ok := v.(string); ok {
		return "'" + s + "'"
	}
	if v == nil {
		return "None"
	}
	b, _ := json.Marshal(v)
	return string(b)
}
