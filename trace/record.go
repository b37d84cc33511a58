package trace

import (
	"time"

	"github.com/lmcache/lmcache-go/kv"
)

// Args holds the arguments of a call, in the one internal form of all formats
// and eras. An operation uses the fields that its schema row names; the others
// are zero.
type Args struct {
	Keys   []kv.ObjectKey
	Layout kv.Layout
	Mode   kv.WriteMode
	Spec   *kv.PrefetchSpec
	Text   string // external_request_id
	Flag   bool   // skip_l2
	Count  int64  // read_locks: total locks a key

	// Raw holds the arguments of an operation that is LMCache's and not in the
	// schema: one msgpack map, as its file has it.
	Raw []byte
}

// Record is one recorded call, without its arguments.
type Record struct {
	Op       Op
	Qualname string
	MonoNS   int64  // since Header.MonoStartNS, on entry to the call
	WallNS   int64  // Unix time
	Seq      uint64 // position among the calls that were made, from 0; gaps are lost records
	Offset   int64  // of the frame, from the start of the file

	// Row says what the arguments are where the file says otherwise than Op.Row,
	// as for an operation that this build does not know; else nil.
	Row *Row
	// Extra is nil for nearly every record, and valid until the next.
	Extra *Extra
}

// Arguments returns what the arguments are: none for an operation of which
// nobody says it.
func (r *Record) Arguments() []Arg {
	if r.Row != nil {
		return r.Row.Args
	}
	return r.Op.Row().Args
}

// Extra is what a record of LMCache's format says and the other fields do not, so
// that a file that was converted can be converted back, byte by byte.
type Extra struct {
	MonoS, WallS     float64 // the times in seconds, which can be finer than a nanosecond
	HasMono, HasWall bool

	// Frame is the whole record, without its length, where arguments and times
	// do not give it back: a flat key list with several windows, or an encoding
	// that no release writes. Nil otherwise.
	Frame []byte
}

// Header opens a trace, of either format.
type Header struct {
	Native        bool // ours, or upstream's
	FormatVersion int
	SchemaVersion int
	Level         Level
	LevelMeta     []LevelMeta // sorted by key; upstream's files of 0.5.6 and later
	MonoStartNS   int64
	WallStartNS   int64
	ConfigJSON    string
	ConfigDigest  string // 64 hex digits, or empty

	// Release is the release of LMCache whose file this is, or was converted
	// from: the newest that writes records of these shapes. Empty for a recording
	// of ours, and where nobody asked.
	Release string
	// Upstream is the header of that file, without its length, where the fields
	// above do not give it back; else nil.
	Upstream []byte

	// Recorder identity; native files only.
	PID        int
	Host       string
	Build      string
	RingPath   string // the recorder's ring file; after a crash it holds what did not get here
	BlockBytes int64  // size from which on the writer started a new block

	// Clock that told the times: "tsc" is the processor's counter, held to the
	// system's monotonic clock to within ClockBound; "system" is that clock;
	// "virtual" is simulated time. Empty if the file does not say.
	Clock      string
	ClockBound time.Duration // 0 if it is the clock itself
}

// LevelMeta is one entry of upstream's header field level_meta, its value as text.
type LevelMeta struct{ Key, Value string }

// Source gives the records of a trace in file order. It belongs to one
// goroutine.
//
//	for src.Next() {
//		rec := src.Record()
//		if err := src.Args(&args); err != nil { … } // this record only
//	}
//	return src.Err()
type Source interface {
	Header() *Header
	// Next moves to the next record and reports whether there is one. What is
	// wrong with the file but does not end the reading goes to the warning
	// function that the source was opened with.
	Next() bool
	// Record returns the present record. Its strings stay valid.
	Record() Record
	// Args decodes the present record's arguments into a, reusing the memory
	// that a holds: what a refers to is valid until the next call of Args. An
	// error concerns this record alone.
	Args(a *Args) error
	// Err returns what ended the reading too early, nil at the end of the
	// file. A cut-off tail is no error.
	Err() error
	Close() error
}

// Summary is what `trace info` says of a file.
type Summary struct {
	Header    Header
	Records   int64
	Ops       []OpCount // sorted by name
	DurationS float64   // largest t_mono in seconds, 0 without records
	Events    *EventsSummary

	// Native files only.
	Sealed     bool        // closed cleanly, counts taken from the footer
	Blocks     int64       // parts that are readable alone
	Bytes      int64       // of the file up to the end of its last frame
	Dropped    int64       // calls that the recorder says it gave up
	Lost       int64       // calls that the sequence numbers miss; a recording is complete if both are 0
	DropRanges []DropRange // where calls were dropped, in file order
	Damage     error       // a *CorruptError that ended the counting, else nil

	Outcomes      int64          // of the records
	OutcomeTotals []OutcomeTotal // sorted by name; sealed files only
	LostOutcomes  int64          // of recorded calls; sealed files only

	// ClockDrift is the largest difference between the clock of t_mono and the
	// system's that the recorder found, if it is known.
	ClockDrift      time.Duration
	ClockDriftKnown bool
}

// DropRange says where a recorder lost calls.
type DropRange struct {
	NextSeq uint64 // sequence number that follows the last call before the loss
	Count   int64  // lost calls
	MonoNS  int64  // t_mono of the last call before the loss was noticed
}

// OpCount says how many records an operation has.
type OpCount struct {
	Qualname string
	Count    int64
}

// EventsSummary aggregates a trace of level events (upstream's files of 0.5.6
// and later). Slices are sorted.
//
// Source: reference lct-v1.md, section 5.2.
type EventsSummary struct {
	Instances         []EventInstance
	Batches           []EventBatches
	Entries           []OpCount // by event type; 0 where batches had none
	StoreBytes        int64
	EntriesWithTokens int64
	Lifecycle         []OpCount // by phase
}

// EventInstance is one server whose batches the trace holds.
type EventInstance struct {
	ID           string
	Incarnations []int64
}

// EventBatches counts the batches of one kind.
type EventBatches struct {
	Type, Tier, Backend string
	Shared              bool
	Count               int64
}
