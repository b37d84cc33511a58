package sm

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/lmcache/lmcache-go/internal/pyfmt"
)

// JSON returns the configuration as LMCache 0.4.4 to 0.4.6 record it, so that
// the flags of the user documentation give the digest that it shows. Things
// that this form has no place for are kept all the same:
//
//   - an adapter is its JSON object (LMCache writes the address of a Python
//     object), without the values of its credentials: a trace file is not
//     encrypted;
//   - a setting of a later release is added, under that release's name, when it
//     is not at its default: several L1s, or one with a tag, as 0.5.6 has them;
//   - quotas, which LMCache keeps out of its configuration, are added when there
//     are any: bytes by salt, _default for the empty one.
//
// An adapter that is no JSON object is written as a string.
//
// Source: reference lct-v1.md, section 4.
func (c Config) JSON() string { return string(pyfmt.AppendJSON(nil, c.object())) }

// Digest returns the SHA-256 of JSON in lowercase hex.
func (c Config) Digest() string {
	sum := sha256.Sum256([]byte(c.JSON()))
	return hex.EncodeToString(sum[:])
}

func (c Config) object() map[string]any {
	tiers := c.Tiers()
	adapters := make([]any, len(c.L2Adapters))
	for i, text := range c.L2Adapters {
		if object, err := decodeAdapter(i+1, text); err == nil {
			adapters[i] = withoutCredentials(object)
		} else {
			adapters[i] = text
		}
	}
	object := map[string]any{
		"l1_manager_config":      tiers[0].L1.object(),
		"eviction_config":        c.evictionObject(tiers[0].Eviction),
		"l2_adapter_config":      map[string]any{"adapters": adapters},
		"store_policy":           c.StorePolicy,
		"prefetch_policy":        c.PrefetchPolicy,
		"prefetch_max_in_flight": c.PrefetchMaxInFlight,
	}
	if c.NotifierIntervalMS != 5 {
		object["periodic_notifier_interval_ms"] = c.NotifierIntervalMS
	}
	if len(c.Quotas) > 0 {
		quotas := map[string]any{}
		for _, q := range c.Quotas {
			quotas[q.name()] = q.LimitBytes
		}
		object["quotas"] = quotas
	}
	if len(tiers) > 1 || tiers[0].Tag != DefaultTag {
		list := make([]any, len(tiers))
		for i, t := range tiers {
			one := t.L1.object()
			one["tag"], one["eviction"] = t.Tag, c.evictionObject(t.Eviction)
			list[i] = one
		}
		object["l1_manager_config"], object["l1_manager_configs"] = list[0], list
	}
	return object
}

func (c L1Config) object() map[string]any {
	return map[string]any{
		"memory_config": map[string]any{
			"size_in_bytes":      c.SizeBytes,
			"use_lazy":           c.UseLazy,
			"init_size_in_bytes": min(c.InitSizeBytes, c.SizeBytes),
			"align_bytes":        c.AlignBytes,
		},
		"write_ttl_seconds": c.WriteTTLSeconds,
		"read_ttl_seconds":  c.ReadTTLSeconds,
	}
}

func (c Config) evictionObject(e EvictionConfig) map[string]any {
	eviction := map[string]any{
		"eviction_policy":   e.Policy,
		"trigger_watermark": e.Watermark,
		"eviction_ratio":    e.Ratio,
	}
	if c.ExtraLogging {
		eviction["extra_logging_enabled"] = true
	}
	if c.ExtraLoggingInterval != 10 {
		eviction["extra_logging_interval"] = c.ExtraLoggingInterval
	}
	return eviction
}

// credentialWords mark the fields of adapters whose values are not recorded:
// password, aws_secret_access_key, auth_token and the like.
var credentialWords = []string{"password", "secret", "token", "access_key", "api_key", "credential"}

// withoutCredentials returns a copy of v in which every non-empty string of a
// credential field is replaced by asterisks.
func withoutCredentials(v any) any {
	switch v := v.(type) {
	case []any:
		list := make([]any, len(v))
		for i, e := range v {
			list[i] = withoutCredentials(e)
		}
		return list
	case map[string]any:
		object := make(map[string]any, len(v))
		for k, e := range v {
			if s, ok := e.(string); ok && s != "" && isCredential(k) {
				e = "***"
			}
			object[k] = withoutCredentials(e)
		}
		return object
	}
	return v
}

func isCredential(field string) bool {
	field = strings.ToLower(field)
	for _, word := range credentialWords {
		if strings.Contains(field, word) {
			return true
		}
	}
	return false
}
