package sm

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/lmcache/lmcache-go/evict"
	"github.com/lmcache/lmcache-go/internal/pyfmt"
	"github.com/lmcache/lmcache-go/kv"
)

// Quota is the budget of a cache salt, in each tier whose policy is IsolatedLRU.
//
// Source: reference storage-manager.md, sections 5.9 and 5.11.
type Quota struct {
	Salt       string // "" is the empty salt
	LimitBytes int64
}

const (
	quotaFlag    = "--quota"
	allowedQuota = "SALT=GB, _default for the empty salt; GB " + allowedSizeGB
)

// ParseQuota reads SALT=GB, where _default names the empty salt. It fails with a
// *SettingError.
func ParseQuota(text string) (Quota, error) {
	at := strings.LastIndexByte(text, '=') // a salt may have one of its own
	gb, err := strconv.ParseFloat(text[at+1:], 64)
	if at < 1 || err != nil {
		return Quota{}, badSetting(quotaFlag, pyfmt.Repr(text), allowedQuota)
	}
	q := Quota{Salt: text[:at]}
	if q.Salt == evict.DefaultSalt {
		q.Salt = ""
	}
	if _, err := kv.InternSalt(q.Salt); err != nil {
		return Quota{}, badSetting(quotaFlag, pyfmt.Repr(text), "a salt without @, /, \\ and NUL, of at most 128 characters")
	}
	if q.LimitBytes, err = SizeBytes(quotaFlag, gb); err != nil {
		return Quota{}, badSetting(quotaFlag, pyfmt.Repr(text), allowedQuota)
	}
	return q, nil
}

func (q Quota) name() string {
	if q.Salt == "" {
		return evict.DefaultSalt
	}
	return q.Salt
}

// validateQuotas refuses quotas that nothing would heed, and two of one salt.
func (c Config) validateQuotas(adapters []Adapter) error {
	if len(c.Quotas) == 0 {
		return nil
	}
	heeded := false
	for _, t := range c.Tiers() {
		heeded = heeded || t.Eviction.Policy == IsolatedLRU
	}
	for _, a := range adapters {
		heeded = heeded || a.Eviction != nil && a.Eviction.Policy == IsolatedLRU
	}
	if !heeded {
		return badSetting(quotaFlag, pyfmt.Repr(fmt.Sprintf("%s=%s", c.Quotas[0].name(), sizeGB(c.Quotas[0].LimitBytes))),
			"with --eviction-policy IsolatedLRU, or with an --l2-adapter whose eviction_policy is IsolatedLRU")
	}
	seen := map[string]bool{}
	for _, q := range c.Quotas {
		if q.LimitBytes < 0 {
			return badSetting(quotaFlag, fmt.Sprintf("%s=%d bytes", q.name(), q.LimitBytes), allowedQuota)
		}
		if _, err := kv.InternSalt(q.Salt); err != nil || q.Salt == evict.DefaultSalt {
			return badSetting(quotaFlag, pyfmt.Repr(q.Salt), allowedQuota)
		}
		if seen[q.Salt] {
			return badSetting(quotaFlag, q.name(), "each salt once")
		}
		seen[q.Salt] = true
	}
	return nil
}

func sizeGB(bytes int64) string { return strconv.FormatFloat(float64(bytes)/gib, 'g', -1, 64) }

func (m *Manager) setQuotas(list []Quota) error {
	for _, q := range list {
		salt, err := kv.InternSalt(q.Salt)
		if err == nil {
			err = m.quotas.Set(salt, q.LimitBytes)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// BytesBySalt returns what L1 holds of every cache salt that has a byte there: all
// L1s together, of those whose policy is IsolatedLRU, since the others keep no
// such count.
func (m *Manager) BytesBySalt() map[kv.Salt]int64 {
	sum := map[kv.Salt]int64{}
	var usage []evict.SaltUsage
	for _, t := range m.tiers {
		if t.l1.HasSalts() {
			usage = t.l1.UsageBySalt(usage[:0])
			for _, u := range usage {
				sum[u.Salt] += u.Bytes
			}
		}
	}
	return sum
}
