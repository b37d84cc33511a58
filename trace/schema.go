package trace

// Op identifies a traced operation within this build. Files carry the name:
// a native file defines its ops by name, upstream's writes it in each record.
type Op uint16

// The traced operations. OpUnknown is an operation that a file names and this
// build does not know.
const (
	OpUnknown Op = iota
	OpReserveWrite
	OpFinishWrite
	OpSubmitPrefetchTask
	OpFinishReadPrefetched
	OpReadPrefetchedEnter
	OpReadPrefetchedExit
	OpClear
	OpTouch
	OpDelete
	numOps
)

// Level names a layer whose calls are recorded together.
type Level string

// The levels that exist. Events is written by LMCache only: it holds a
// coordinator's input, not calls, and cannot be replayed.
const (
	LevelStorage Level = "storage"
	LevelEvents  Level = "events"
)

// SchemaVersion is the trace_schema_version that this build writes.
const SchemaVersion = 1

// ArgType is the type of an argument: where it stands in Args, and how each
// format encodes it.
type ArgType uint8

const (
	ArgKeys   ArgType = iota + 1 // Args.Keys
	ArgLayout                    // Args.Layout
	ArgMode                      // Args.Mode
	ArgSpec                      // Args.Spec
	ArgText                      // Args.Text
	ArgFlag                      // Args.Flag
	ArgCount                     // Args.Count
	ArgRaw                       // Args.Raw; in operations that this build does not know only
	numArgTypes
)

var argTypeNames = [numArgTypes]string{"", "keys", "layout", "mode", "spec", "text", "flag", "count", "msgpack"}

// String returns the name that native files carry in their op definitions.
func (t ArgType) String() string {
	if t < numArgTypes {
		return argTypeNames[t]
	}
	return "unknown"
}

// Arg is one argument of an operation.
type Arg struct {
	Name string
	Type ArgType
}

// Row describes one traced operation.
type Row struct {
	Op       Op
	Qualname string // the full name, as LMCache writes it
	Level    Level
	Args     []Arg // in the order of the signature; no type twice
	// Counts name what an outcome counts, at most MaxCounts: numbers of keys.
	// The first MaxOutcomeBits may come with a bitmap.
	Counts []string
	// Ours is set for what LMCache does not trace: its replay would refuse the
	// record, so none is written to its format.
	Ours bool
}

const storageManager = "lmcache.v1.distributed.storage_manager.StorageManager."

// schema has one row an operation, at the index of its Op.
var schema = [numOps]Row{
	OpReserveWrite: {Qualname: storageManager + "reserve_write", Level: LevelStorage,
		Args:   []Arg{{"keys", ArgKeys}, {"layout_desc", ArgLayout}, {"mode", ArgMode}},
		Counts: []string{"reserved_keys", "refused_keys", "oom_keys"}},
	OpFinishWrite: {Qualname: storageManager + "finish_write", Level: LevelStorage,
		Args:   []Arg{{"keys", ArgKeys}},
		Counts: []string{"written_keys", "write_failed_keys"}},
	OpSubmitPrefetchTask: {Qualname: storageManager + "submit_prefetch_task", Level: LevelStorage,
		Args:   []Arg{{"spec", ArgSpec}, {"external_request_id", ArgText}, {"skip_l2", ArgFlag}},
		Counts: []string{"l1_hit_keys", "l2_hit_keys", "missed_keys"}},
	OpFinishReadPrefetched: {Qualname: storageManager + "finish_read_prefetched", Level: LevelStorage,
		Args:   []Arg{{"keys", ArgKeys}, {"read_locks", ArgCount}},
		Counts: []string{"released_keys", "release_failed_keys", "temporary_freed_keys"}},
	OpReadPrefetchedEnter: {Qualname: storageManager + "read_prefetched_results.__enter__", Level: LevelStorage,
		Args:   []Arg{{"keys", ArgKeys}},
		Counts: []string{"read_keys", "read_refused_keys"}},
	OpReadPrefetchedExit: {Qualname: storageManager + "read_prefetched_results.__exit__", Level: LevelStorage,
		Args:   []Arg{{"keys", ArgKeys}},
		Counts: []string{"released_keys", "temporary_freed_keys"}},

	OpClear: {Qualname: storageManager + "clear", Level: LevelStorage, Ours: true,
		Args:   []Arg{{"force", ArgFlag}},
		Counts: []string{"cleared_keys"}},
	OpTouch: {Qualname: storageManager + "touch_l1_keys", Level: LevelStorage, Ours: true,
		Args:   []Arg{{"keys", ArgKeys}},
		Counts: []string{"touched_keys"}},
	OpDelete: {Qualname: storageManager + "delete_l1_keys", Level: LevelStorage, Ours: true,
		Args:   []Arg{{"keys", ArgKeys}, {"force", ArgFlag}},
		Counts: []string{"deleted_keys", "delete_failed_keys"}},
}

var opByName = func() map[string]Op {
	m := make(map[string]Op, numOps)
	for op := range schema {
		schema[op].Op = Op(op)
		if op != int(OpUnknown) {
			m[schema[op].Qualname] = Op(op)
		}
	}
	return m
}()

// Schema returns the rows of all operations. They must not be changed.
func Schema() []Row { return schema[1:] }

// Row returns the schema row of op; the zero Row for OpUnknown.
func (op Op) Row() *Row {
	if op >= numOps {
		op = OpUnknown
	}
	return &schema[op]
}

// String returns the qualified name.
func (op Op) String() string { return op.Row().Qualname }

// ParseOp returns the operation of a qualified name, OpUnknown if this build
// does not know it.
func ParseOp(qualname string) Op { return opByName[qualname] }
