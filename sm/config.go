package sm

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/lmcache/lmcache-go/l2"
)

// Config says how a storage manager is built. Start from [DefaultConfig]: zeros
// mean zero. Its JSON form and its digest are those of LMCache's
// StorageManagerConfig (configjson.go).
//
// Source: reference storage-manager.md, section 9.
type Config struct {
	L1                  L1Config
	Eviction            EvictionConfig
	L1Managers          []L1Manager // several L1s, in place of L1 and Eviction; see Tiers
	Quotas              []Quota     // of salts, for the policy IsolatedLRU; each salt once
	L2Adapters          []string    // JSON objects with a "type", in cascade order
	StorePolicy         string      // default, skip_l1
	PrefetchPolicy      string      // default, retain
	PrefetchMaxInFlight int         // prefetches that load from L2 at once

	// NotifierIntervalMS is the tick of LMCache's completion notifier. Ours is
	// woken instead: the value is recorded and changes nothing.
	NotifierIntervalMS int

	// ExtraLogging logs the use of L1 every ExtraLoggingInterval seconds.
	ExtraLogging         bool
	ExtraLoggingInterval float64
}

// L1Config describes the memory tier.
type L1Config struct {
	SizeBytes int64 // capacity, exactly; 0 makes every reservation out of memory
	UseLazy   bool  // touch pages when they are first used, not at the start

	// InitSizeBytes is what LMCache allocates at the start. It changes nothing
	// here; it is recorded, lowered to SizeBytes.
	InitSizeBytes int64

	AlignBytes      int64 // of every object: a power of two
	WriteTTLSeconds int64 // life of a reservation
	ReadTTLSeconds  int64 // life of a read lock
}

// EvictionConfig describes eviction from L1.
type EvictionConfig struct {
	Policy    string  // one of EvictionPolicies; required
	Watermark float64 // used share of L1 at which a cycle evicts; above 1 none ever does
	Ratio     float64 // share of the tracked keys that one cycle evicts; above 1 all of them
}

// Policies of the controllers.
const (
	StoreDefault    = "default" // every store gets every object
	StoreSkipL1     = "skip_l1" // and L1 drops what is stored
	PrefetchDefault = "default" // loaded objects go with their last reader
	PrefetchRetain  = "retain"  // loaded objects stay
)

// The names that a setting may have, in LMCache's order, ours last.
var (
	EvictionPolicies = []string{"LRU", "ARC", IsolatedLRU, "noop", "S3FIFO", "LeafLRU"}
	StorePolicies    = []string{StoreDefault, StoreSkipL1}
	PrefetchPolicies = []string{PrefetchDefault, PrefetchRetain}
)

// IsolatedLRU is the eviction policy that heeds quotas.
const IsolatedLRU = "IsolatedLRU"

const (
	gib = 1 << 30

	maxAlignBytes = 1 << 30
	// A TTL is counted in nanoseconds from the clock's origin; a quarter of
	// the range is 73 years and leaves room for the time that it is added to.
	maxTTLSeconds = math.MaxInt64 / 4 / 1_000_000_000
	maxInFlight   = math.MaxInt32
)

// DefaultConfig returns the configuration of a command line without flags. The
// size of L1 and the eviction policy have no default and are left empty.
func DefaultConfig() Config {
	return Config{
		L1:                   L1Config{UseLazy: true, InitSizeBytes: 20 * gib, AlignBytes: 4096, WriteTTLSeconds: 600, ReadTTLSeconds: 300},
		Eviction:             EvictionConfig{Watermark: 0.8, Ratio: 0.2},
		StorePolicy:          StoreDefault,
		PrefetchPolicy:       PrefetchDefault,
		PrefetchMaxInFlight:  8,
		NotifierIntervalMS:   5,
		ExtraLoggingInterval: 10,
	}
}

// SettingError reports a setting that New refuses.
type SettingError struct {
	Flag    string // the command line's name for it
	Value   string
	Allowed string // a phrase: "0 or more, finite"
}

func (e *SettingError) Error() string {
	return fmt.Sprintf("%s: invalid value: %s (allowed: %s)", e.Flag, e.Value, e.Allowed)
}

// UnsupportedError reports a setting of LMCache that this build knows by name
// and does not have.
type UnsupportedError struct {
	What string // flag and value
}

func (e *UnsupportedError) Error() string { return e.What + " is not supported in this build" }

// Validate reports the first setting that New would refuse: a *SettingError, an
// *UnsupportedError or an *AdapterError. kinds are the adapters that the program
// has.
func (c Config) Validate(kinds l2.Registry) error {
	if err := c.validateTiers(); err != nil {
		return err
	}
	switch {
	case !slices.Contains(StorePolicies, c.StorePolicy):
		return badSetting("--l2-store-policy", strconv.Quote(c.StorePolicy), strings.Join(StorePolicies, ", "))
	case !slices.Contains(PrefetchPolicies, c.PrefetchPolicy):
		return badSetting("--l2-prefetch-policy", strconv.Quote(c.PrefetchPolicy), strings.Join(PrefetchPolicies, ", "))
	case c.PrefetchMaxInFlight < 1 || c.PrefetchMaxInFlight > maxInFlight:
		return badSetting("--l2-prefetch-max-in-flight", c.PrefetchMaxInFlight, fmt.Sprintf("1 to %d", maxInFlight))
	case c.NotifierIntervalMS < 1:
		return badSetting("--periodic-notifier-interval-ms", c.NotifierIntervalMS, "at least 1")
	case !(c.ExtraLoggingInterval > 0) || math.IsInf(c.ExtraLoggingInterval, 1):
		return badSetting("--extra-logging-interval", c.ExtraLoggingInterval, "above 0")
	}
	adapters, err := c.Adapters(kinds)
	if err != nil {
		return err
	}
	return c.validateQuotas(adapters)
}

func (c Config) validateTiers() error {
	if len(c.L1Managers) == 0 {
		return cmp.Or(c.L1.validate(), c.Eviction.validate())
	}
	for i, t := range c.L1Managers {
		if err := t.validate(); err != nil {
			return &L1ManagerError{N: i + 1, Err: err}
		}
	}
	return checkTags(c.L1Managers)
}

func (c L1Config) validate() error {
	switch {
	case c.SizeBytes < 0:
		return badSetting("--l1-size-gb", fmt.Sprintf("%d bytes", c.SizeBytes), allowedSizeGB)
	case c.InitSizeBytes < 0:
		return badSetting("--l1-init-size-gb", fmt.Sprintf("%d bytes", c.InitSizeBytes), allowedSizeGB)
	case c.AlignBytes < 1 || c.AlignBytes > maxAlignBytes || c.AlignBytes&(c.AlignBytes-1) != 0:
		return badSetting("--l1-align-bytes", c.AlignBytes, fmt.Sprintf("a power of two from 1 to %d", maxAlignBytes))
	case c.WriteTTLSeconds < 0 || c.WriteTTLSeconds > maxTTLSeconds:
		return badSetting("--l1-write-ttl-seconds", c.WriteTTLSeconds, fmt.Sprintf("0 to %d", maxTTLSeconds))
	case c.ReadTTLSeconds < 0 || c.ReadTTLSeconds > maxTTLSeconds:
		return badSetting("--l1-read-ttl-seconds", c.ReadTTLSeconds, fmt.Sprintf("0 to %d", maxTTLSeconds))
	}
	return nil
}

func (c EvictionConfig) validate() error {
	switch {
	case !slices.Contains(EvictionPolicies, c.Policy):
		return badSetting("--eviction-policy", strconv.Quote(c.Policy), strings.Join(EvictionPolicies, ", "))
	case !(c.Watermark >= 0) || math.IsInf(c.Watermark, 1): // the form that NaN fails
		return badSetting("--eviction-trigger-watermark", c.Watermark, allowedShare)
	case !(c.Ratio >= 0) || math.IsInf(c.Ratio, 1):
		return badSetting("--eviction-ratio", c.Ratio, allowedShare)
	}
	return nil
}

const (
	allowedShare  = "0 or more, finite"
	allowedSizeGB = "0 or more, below 2^33 (8 EiB)"
)

// SizeBytes returns what LMCache makes of a size flag in GiB: int(gb × 2^30),
// truncated. It fails with a *SettingError that names flag if gb is negative,
// not a number, or the bytes overflow an int64.
func SizeBytes(flag string, gb float64) (int64, error) {
	bytes := gb * gib
	if !(bytes >= 0 && bytes < math.MaxInt64) { // float64(MaxInt64) is 2^63, which no int64 holds
		return 0, badSetting(flag, gb, allowedSizeGB)
	}
	return int64(bytes), nil
}

func badSetting(flag string, value any, allowed string) error {
	return &SettingError{flag, fmt.Sprint(value), allowed}
}
