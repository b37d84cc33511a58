package event

import "github.com/lmcache/lmcache-go/kv"

// Type says what happened. Its text is what LMCache logs.
//
// Of LMCache's there is no sm.capacity.changed (capacities do not change, and
// there is no coordinator to tell), no trace.call (a recording is not made of
// events), and nothing of GPUs, blending and the log of token hashes.
type Type uint8

// The events of release 0.5.6's storage layer. Behind each stands what it
// carries beside Type and Time; L1 events carry L1Tag too. What LMCache calls
// backend is dram in L1, and L2Name below.
const (
	L1ReadReserved           Type = iota // Keys: read-locked
	L1ReadFinished                       // Keys: released
	L1WriteReserved                      // Keys: got memory; Tag: who reserved
	L1WriteFinished                      // Keys: admitted, without temporary ones; Sizes
	L1WriteFinishedAndRead               // Keys: loaded and read-locked; Sizes
	L1KeysEvicted                        // Keys: removed from L1, for whatever reason; Sizes
	L1KeysAccessed                       // Keys: touched
	L1PolicyEvicted                      // Count, Bytes: what a cycle of the eviction policy removed; not upstream's
	L1EvictionLoopTick                   // Usage, Watermark, Triggered
	L1AllocationFailed                   // Keys, During
	L1ReadFailed                         // Keys, During, Reason
	SMWriteReserved                      // Keys: got a buffer; Failed: the rest
	SMWriteFinished                      // Keys, Failed
	SMReadPrefetchedFinished             // Keys, Failed
	SMPrefetchCompleted                  // RequestID, Session, Count: keys asked, L1Hits, L2Hits, Duration; not upstream's
	L2StoreSubmitted                     // Adapter, L2Name, TaskID, Keys, Bytes
	L2StoreCompleted                     // Adapter, L2Name, TaskID, Keys: stored, nil on failure; Count: succeeded, Lost: failed, Bytes
	L2LookupSubmitted                    // RequestID, Session, Keys, Adapters
	L2LoadSubmitted                      // RequestID, Session, Keys: planned, Adapters
	L2LoadTaskSubmitted                  // RequestID, Session, Adapter, L2Name, TaskID, Count, Bytes
	L2LoadTaskCompleted                  // RequestID, Session, Adapter, L2Name, TaskID
	L2LoadCompleted                      // RequestID, Session, Adapter, Keys: loaded, Failed
	L2PrefetchFailed                     // Keys, Reason
	L2KeysEvicted                        // Adapter, L2Name, Keys, Bytes
	L2KeysStored                         // Adapter, L2Name, Keys, Sizes
	L2KeysAccessed                       // Adapter, L2Name, Keys: loaded
	L2KeysDeleted                        // Adapter, L2Name, Keys
	RequestStart                         // Session; this and what begins with Lookup, Store or Retrieve are a server's
	RequestEnd                           // Session
	LookupStart                          // Session, Served
	LookupEnd                            // Session, Served, L1Hits, L2Hits: keys, Count: chunks
	StoreSubmitted                       // Session, Served
	StoreStart                           // Session, Served, Keys: if known
	StoreEnd                             // Session, Served, Count: chunks, Bytes
	RetrieveSubmitted                    // Session, Served
	RetrieveStart                        // Session, Served
	RetrieveEnd                          // Session, Served, Count: chunks, Bytes
	CallDispatched                       // Session, Text: operation, as in the table of a replay, Duration, Lag, Lost: 1 if it failed; not upstream's
	TimeoutRaised                        // Session, Text: message, Reason: the class of error
	types
)

var names = [types]string{
	L1ReadReserved: "l1.read.reserved", L1ReadFinished: "l1.read.finished",
	L1WriteReserved: "l1.write.reserved", L1WriteFinished: "l1.write.finished",
	L1WriteFinishedAndRead: "l1.write_finished_and_read_reserved",
	L1KeysEvicted:          "l1.keys.evicted", L1KeysAccessed: "l1.keys.accessed",
	L1PolicyEvicted: "l1.policy.evicted", L1EvictionLoopTick: "l1.eviction.loop_tick",
	L1AllocationFailed: "l1.allocation.failed", L1ReadFailed: "l1.read.failed",
	SMWriteReserved: "sm.write.reserved", SMWriteFinished: "sm.write.finished",
	SMReadPrefetchedFinished: "sm.read.prefetched_finished", SMPrefetchCompleted: "sm.prefetch.completed",
	L2StoreSubmitted: "l2.store.submitted", L2StoreCompleted: "l2.store.completed",
	L2LookupSubmitted: "l2.prefetch.lookup.submitted", L2LoadSubmitted: "l2.prefetch.load.submitted",
	L2LoadTaskSubmitted: "l2.load_task.submitted", L2LoadTaskCompleted: "l2.load_task.completed",
	L2LoadCompleted: "l2.prefetch.load.completed", L2PrefetchFailed: "l2.prefetch.failed",
	L2KeysEvicted: "l2.keys.evicted", L2KeysStored: "l2.keys.stored",
	L2KeysAccessed: "l2.keys.accessed", L2KeysDeleted: "l2.keys.deleted",
	RequestStart: "mp.request.start", RequestEnd: "mp.request.end",
	LookupStart: "mp.lookup_prefetch.start", LookupEnd: "mp.lookup_prefetch.end",
	StoreSubmitted: "mp.store.submitted", StoreStart: "mp.store.start", StoreEnd: "mp.store.end",
	RetrieveSubmitted: "mp.retrieve.submitted", RetrieveStart: "mp.retrieve.start", RetrieveEnd: "mp.retrieve.end",
	CallDispatched: "replay.call.dispatched", TimeoutRaised: "timeout.raised",
}

func (t Type) String() string {
	if t < types {
		return names[t]
	}
	return "unknown"
}

// Set is a set of types.
type Set uint64

// SetOf returns the set of the types given.
func SetOf(list ...Type) (s Set) {
	for _, t := range list {
		s |= 1 << t
	}
	return s
}

// Has reports whether t is in s.
func (s Set) Has(t Type) bool { return s&(1<<t) != 0 }

// Event is what happened. Which fields count is said at its Type.
//
// One struct serves all types, so that the queue can hold events by value.
// Slices belong to the publisher until Publish returns; a subscriber's are the
// bus's, valid until it returns. Texts are kept, not copied.
type Event struct {
	Type      Type
	Triggered bool  // the eviction policy ran
	Time      int64 // Unix time in ns, when Publish was called; set by the bus

	Keys   []kv.ObjectKey
	Failed []kv.ObjectKey
	Sizes  []int64 // bytes of the objects of Keys, without padding

	Session   string // external request id
	L1Tag     string // name of the L1 manager
	L2Name    string // type of the adapter
	Tag       string // who reserved: storage_manager, prefetch
	During    string // l1_store, l1_retrieve, l2_store
	Reason    string
	Text      string
	RequestID int64 // of a prefetch
	TaskID    uint64
	Adapter   int // index, from 0
	Adapters  int // how many

	Count, Lost    int
	L1Hits, L2Hits int
	Bytes          int64
	Duration, Lag  int64   // ns
	Usage          float64 // used share of L1
	Watermark      float64

	Served *Served // of a server's events; nobody changes it after Publish
}

// Served is what a server tells of a lookup or a transfer beside what all events
// have. What does not belong to the event is zero.
type Served struct {
	Model, Salt string

	// Of a transfer.
	Device, Engine string // where to or from: "cpu", the id of the engine
	Worker         string
	TransferKey    string
	Tokens         int

	// Of a lookup, in tokens; only whole chunks count.
	RequestedTokens, HitTokens, L1HitTokens, L2HitTokens int
	EarlyExit                                            string // why nothing was looked up; empty if something was
}

// DeviceName returns the device of a transfer; s may be nil.
func (s *Served) DeviceName() string {
	if s == nil {
		return ""
	}
	return s.Device
}
