package l2

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Factory builds an adapter from its JSON object.
type Factory func(config []byte, env Env) (Adapter, error)

// Registry maps the "type" of an adapter's JSON object to its factory.
type Registry map[string]Factory

// ErrConfig is wrapped by every error about an adapter's JSON.
var ErrConfig = errors.New("adapter configuration")

// known lists the types of release 0.5.6, whether this build has them or not.
//
// Source: reference storage-manager.md, section 8.15.
var known = []string{"aerospike", "bigtable", "dax", "fault_inject", "fs", "fs_native", "hf3fs", "hfbucket", "mock",
	"mooncake_store", "native_plugin", "nixl_native", "p2p", "plugin", "raw_block", "resp", "s3", "sagemaker-hyperpod", "valkey"}

// ParseType returns the "type" of the n-th adapter's JSON object (counted from
// 1), with upstream's messages for what is wrong with it.
//
// Source: reference storage-manager.md, section 8.2.
func ParseType(n int, config string) (string, error) {
	var any json.RawMessage
	if err := json.Unmarshal([]byte(config), &any); err != nil {
		return "", fmt.Errorf("Invalid JSON for --l2-adapter #%d: %w", n, err)
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(any, &object); err != nil || object == nil {
		return "", fmt.Errorf("--l2-adapter #%d: expected a JSON object, got %s", n, jsonKind(any))
	}
	raw, ok := object["type"]
	if !ok {
		return "", fmt.Errorf("--l2-adapter #%d: missing 'type' field", n)
	}
	var name string
	if err := json.Unmarshal(raw, &name); err != nil {
		return "", fmt.Errorf("--l2-adapter #%d: 'type' must be a string, got %s", n, jsonKind(raw))
	}
	return name, nil
}

// jsonKind names a JSON value's type as Python does.
func jsonKind(v json.RawMessage) string {
	switch s := strings.TrimSpace(string(v)); {
	case strings.HasPrefix(s, "{"):
		return "dict"
	case strings.HasPrefix(s, "["):
		return "list"
	case strings.HasPrefix(s, `"`):
		return "str"
	case s == "true" || s == "false":
		return "bool"
	case s == "null":
		return "NoneType"
	case strings.ContainsAny(s, ".eE"):
		return "float"
	}
	return "int"
}

// Build makes the n-th adapter (counted from 1).
func (r Registry) Build(n int, config string, env Env) (Adapter, error) {
	name, err := ParseType(n, config)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	f := r[name]
	switch {
	case f == nil && slices.Contains(known, name):
		return nil, fmt.Errorf("%w: --l2-adapter #%d: adapter type '%s' is not supported in this build", ErrConfig, n, name)
	case f == nil:
		return nil, fmt.Errorf("%w: --l2-adapter #%d: unknown adapter type '%s'. Known: %s", ErrConfig, n, name, strings.Join(known, ", "))
	}
	a, err := f([]byte(config), env)
	if err != nil {
		return nil, fmt.Errorf("%w: --l2-adapter #%d ('%s'): %w", ErrConfig, n, name, err)
	}
	return a, nil
}
