package replay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/trace"
)

// Count names one of the counts of an Outcome.
type Count uint8

// The counts, in the order of the operations that they belong to. A key counts
// once for every call that names it.
const (
	ReservedKeys  Count = iota // keys that were reserved
	ReservedBytes              // of these keys, by their layout
	RefusedKeys                // presence, mode or a lock forbade the reservation
	OOMKeys                    // there was no memory
	OOMBytes                   // of these keys, by their layout

	WrittenKeys     // keys made readable
	WriteFailedKeys // keys that were not reserved, or no longer

	Prefetches           // submitted
	RequestedKeys        // of these prefetches, over all rows of their grids
	RequestedBytes       // of these keys, by the layout of their row
	L1HitKeys            // usable keys that L1 had
	L1HitBytes           //
	L2HitKeys            // usable keys that were loaded
	L2HitBytes           //
	MissedKeys           // keys that are not usable: absent, or behind a gap
	MissedBytes          //
	UnfinishedPrefetches // without a result, at the end of the replay or when the record was reported
	UnfinishedKeys       // of these prefetches; requested, neither hit nor missed

	ReadKeys        // keys that an entered read could use
	ReadRefusedKeys // keys that it could not

	ReleasedKeys      // keys whose read locks were released
	ReleaseFailedKeys // keys that had none

	numCounts
)

// countTable has one row a count: the operation whose calls it counts, and the
// key it has in files.
var countTable = [numCounts]struct {
	op   trace.Op
	name string
}{
	ReservedKeys:         {trace.OpReserveWrite, "reserved_keys"},
	ReservedBytes:        {trace.OpReserveWrite, "reserved_bytes"},
	RefusedKeys:          {trace.OpReserveWrite, "refused_keys"},
	OOMKeys:              {trace.OpReserveWrite, "oom_keys"},
	OOMBytes:             {trace.OpReserveWrite, "oom_bytes"},
	WrittenKeys:          {trace.OpFinishWrite, "written_keys"},
	WriteFailedKeys:      {trace.OpFinishWrite, "write_failed_keys"},
	Prefetches:           {trace.OpSubmitPrefetchTask, "prefetches"},
	RequestedKeys:        {trace.OpSubmitPrefetchTask, "requested_keys"},
	RequestedBytes:       {trace.OpSubmitPrefetchTask, "requested_bytes"},
	L1HitKeys:            {trace.OpSubmitPrefetchTask, "l1_hit_keys"},
	L1HitBytes:           {trace.OpSubmitPrefetchTask, "l1_hit_bytes"},
	L2HitKeys:            {trace.OpSubmitPrefetchTask, "l2_hit_keys"},
	L2HitBytes:           {trace.OpSubmitPrefetchTask, "l2_hit_bytes"},
	MissedKeys:           {trace.OpSubmitPrefetchTask, "missed_keys"},
	MissedBytes:          {trace.OpSubmitPrefetchTask, "missed_bytes"},
	UnfinishedPrefetches: {trace.OpSubmitPrefetchTask, "unfinished_prefetches"},
	UnfinishedKeys:       {trace.OpSubmitPrefetchTask, "unfinished_keys"},
	ReadKeys:             {trace.OpReadPrefetchedEnter, "read_keys"},
	ReadRefusedKeys:      {trace.OpReadPrefetchedEnter, "read_refused_keys"},
	ReleasedKeys:         {trace.OpFinishReadPrefetched, "released_keys"},
	ReleaseFailedKeys:    {trace.OpFinishReadPrefetched, "release_failed_keys"},
}

// String returns the key that the count has in files.
func (c Count) String() string { return countTable[c].name }

// countRange is the counts of one operation: from first up to but not end.
type countRange struct{ first, end Count }

// countsOf returns the counts of op, an empty range where it has none.
func countsOf(op trace.Op) (r countRange) {
	for c := range numCounts {
		if countTable[c].op != op {
			continue
		}
		if r.end == 0 {
			r.first = c
		}
		r.end = c + 1
	}
	return r
}

// Outcome says what came of calls, for one record, one operation or a whole
// replay. Its JSON is an object with a key for every count.
type Outcome [numCounts]int64

// MarshalJSON writes all counts, in table order.
func (o Outcome) MarshalJSON() ([]byte, error) {
	return append(o.append([]byte{'{'}, countRange{0, numCounts}, ","), '}'), nil
}

// append appends the counts of r as members of a JSON object.
func (o *Outcome) append(dst []byte, r countRange, separator string) []byte {
	for c := r.first; c < r.end; c++ {
		if c > r.first {
			dst = append(dst, separator...)
		}
		dst = append(dst, '"')
		dst = append(dst, countTable[c].name...)
		dst = append(dst, `": `...)
		dst = strconv.AppendInt(dst, o[c], 10)
	}
	return dst
}

// UnmarshalJSON reads what MarshalJSON wrote; counts that are absent are 0,
// unknown ones an error.
func (o *Outcome) UnmarshalJSON(data []byte) error {
	var m map[string]int64
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(&m); err != nil {
		return err
	}
	*o = Outcome{}
	for c := range numCounts {
		o[c] = m[countTable[c].name]
		delete(m, countTable[c].name)
	}
	for name := range m {
		return fmt.Errorf("outcome has unknown count %q", name)
	}
	return nil
}

// of returns the counts of r by name, nil if there are none.
func (o *Outcome) of(r countRange) map[string]int64 {
	if r.end == r.first {
		return nil
	}
	m := make(map[string]int64, r.end-r.first)
	for c := r.first; c < r.end; c++ {
		m[countTable[c].name] = o[c]
	}
	return m
}

// Storage says what the storage manager did during a replay beside answering
// the calls, and how full L1 was in the end.
type Storage struct {
	WrittenBytes       int64 `json:"written_bytes"` // of objects made readable
	EvictionPasses     int64 `json:"eviction_passes"`
	EvictedKeys        int64 `json:"evicted_keys"`
	EvictedBytes       int64 `json:"evicted_bytes"`
	TemporaryFreedKeys int64 `json:"temporary_freed_keys"` // loaded copies that went with their last reader
	L2StoredKeys       int64 `json:"l2_stored_keys"`
	L2StoredBytes      int64 `json:"l2_stored_bytes"`
	L2LoadedKeys       int64 `json:"l2_loaded_keys"`
	L2LoadedBytes      int64 `json:"l2_loaded_bytes"`
	L2EvictionPasses   int64 `json:"l2_eviction_passes"`
	L2EvictedKeys      int64 `json:"l2_evicted_keys"`
	L2EvictedBytes     int64 `json:"l2_evicted_bytes"`

	// The state at the end.
	L1ResidentKeys  int64 `json:"l1_resident_keys"`
	L1UsedBytes     int64 `json:"l1_used_bytes"`
	L1CapacityBytes int64 `json:"l1_capacity_bytes"`
}

func storageBetween(before, after sm.Stats) Storage {
	return Storage{
		WrittenBytes:       after.WrittenBytes - before.WrittenBytes,
		EvictionPasses:     after.EvictionPasses - before.EvictionPasses,
		EvictedKeys:        after.EvictedKeys - before.EvictedKeys,
		EvictedBytes:       after.EvictedBytes - before.EvictedBytes,
		TemporaryFreedKeys: after.TemporaryFreedKeys - before.TemporaryFreedKeys,
		L2StoredKeys:       after.L2StoredKeys - before.L2StoredKeys,
		L2StoredBytes:      after.L2StoredBytes - before.L2StoredBytes,
		L2LoadedKeys:       after.L2LoadedKeys - before.L2LoadedKeys,
		L2LoadedBytes:      after.L2LoadedBytes - before.L2LoadedBytes,
		L2EvictionPasses:   after.L2EvictionPasses - before.L2EvictionPasses,
		L2EvictedKeys:      after.L2EvictedKeys - before.L2EvictedKeys,
		L2EvictedBytes:     after.L2EvictedBytes - before.L2EvictedBytes,
		L1ResidentKeys:     after.Resident,
		L1UsedBytes:        after.UsedBytes,
		L1CapacityBytes:    after.CapacityBytes,
	}
}
