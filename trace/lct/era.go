package lct

import "strings"

// Era is a shape of the arguments that a range of releases writes. Reading
// needs none: it goes by the keys in the payload.
//
// Source: reference lct-v1.md, section 0.
type Era uint8

// The eras in the order of their releases.
const (
	E1  Era = iota + 1 // 0.4.4 to 0.4.6
	E2a                // 0.4.7
	E2b                // 0.5.0
	E3a                // 0.5.1, 0.5.2
	E3b                // 0.5.3rc1 only
	E4                 // 0.5.3, 0.5.4
	E5                 // 0.5.5
	E6                 // 0.5.6
	S2                 // 0.5.7rc2 only
)

var releases = []struct {
	name string
	era  Era
}{
	{"0.4.4", E1}, {"0.4.5", E1}, {"0.4.6", E1}, {"0.4.7", E2a}, {"0.5.0", E2b}, {"0.5.1", E3a}, {"0.5.2", E3a},
	{"0.5.3rc1", E3b}, {"0.5.3", E4}, {"0.5.4", E4}, {"0.5.5", E5}, {"0.5.6", E6}, {"0.5.7rc2", S2},
}

// NewestRelease is the newest final release that is known to write traces.
const NewestRelease = "0.5.6"

// EraOf returns the era of a release of LMCache, such as "0.5.6"; ok is false
// for one that wrote no traces or is not known.
func EraOf(release string) (era Era, ok bool) {
	for _, r := range releases {
		if r.name == strings.TrimPrefix(release, "v") {
			return r.era, true
		}
	}
	return 0, false
}

// Release returns the newest release of the era.
func (e Era) Release() string {
	name := ""
	for _, r := range releases {
		if r.era == e {
			name = r.name
		}
	}
	return name
}

// Releases returns the known releases, oldest first.
func Releases() []string {
	names := make([]string, len(releases))
	for i, r := range releases {
		names[i] = r.name
	}
	return names
}

// SchemaVersion returns the trace_schema_version of the era's files.
func (e Era) SchemaVersion() int {
	if e == S2 {
		return 2
	}
	return 1
}

// Loss is a set of facts about a call that an era cannot hold.
type Loss uint16

// The facts, in the order in which String names them.
const (
	LossSalt      Loss = 1 << iota // cache salt of a key: in no release
	LossGroup                      // object group of a key: from E2 on
	LossWriteMode                  // mode of a reservation other than new: not in E6
	LossPolicy                     // fetch policy: E1 has prefix only, segmented_prefix is E2 to E5
	LossLock                       // prefetch without locks: from E3 on
	LossWindow                     // attention window: from E3 on
	LossLayout                     // layouts that differ by group: from E4 on
	LossSkipL2                     // skip_l2: E2b to E6
	LossTags                       // memory tags: S2 only
	LossLocks                      // a number of read locks, or of readers, below 1: only read_locks from E5 on
	LossShape                      // groups that are no grid of chunks: E6 and S2; a list that is none: E1 to E5
	LossForm                       // what Extra.Frame has beyond the internal form: in its own era only
	LossTime                       // a time that no float64 of seconds gives back: in no release
	numLosses     = iota
)

var lossNames = [numLosses]string{"cache_salt", "object_group_id", "mode", "fetching_policy", "lock_mode", "sliding_window_size", "layout_desc by group", "skip_l2", "memory tags", "read_locks", "shape of the key groups", "form of the record", "time"}

var lossPhrases = [numLosses]string{
	"lose their cache salt", "lose their object groups", "lose their write mode (update or all)", "lose their fetch policy",
	"lose their lock mode (NO_LOCK)", "lose their attention windows", "lose their layouts by object group", "lose their skip_l2",
	"lose their memory tags", "lose their number of read locks, which is below 1",
	"lose their shape (a flat key list, or a grid of key groups)",
	"lose their form (what only the release of the recording has a place for)",
	"lose their exact times (rounded to a float64 of seconds)",
}

// Losses counts records by what they lost.
type Losses [numLosses]int64

// Add counts a record.
func (n *Losses) Add(l Loss) {
	for i := range n {
		n[i] += int64(l >> i & 1)
	}
}

// Each calls f for every loss that was counted, with what it does to the
// records, as "lose their cache salt", and its name.
func (n *Losses) Each(f func(records int64, phrase, name string)) {
	for i, records := range n {
		if records > 0 {
			f(records, lossPhrases[i], lossNames[i])
		}
	}
}

// String names what was lost, by upstream's argument names.
func (l Loss) String() string {
	var names []string
	for i, n := range lossNames {
		if l>>i&1 != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, ", ")
}
