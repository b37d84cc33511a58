package wire

// Key is the cache key of most requests: tokens, and whose they are. What a
// decoder returns is the caller's own.
//
// Source: reference server-protocol.md, section 2.2.
type Key struct {
	Model      string
	WorldSize  int
	Worker     int      // rank, or AllWorkers
	Tokens     []uint32 // the whole sequence from position 0
	Start, End int      // range of tokens
	RequestID  string
	Salt       string
	Readers    int // read locks an object that a lookup takes; 0 unless said
}

// AllWorkers is the worker of a key that stands for every rank.
const AllWorkers = -1

// Context is what an engine says of itself when it registers for engine-driven
// transfer.
//
// Source: reference server-protocol.md, section 2.4.
type Context struct {
	Instance      int64
	Model         string
	WorldSize     int
	BlockSize     int // tokens
	Layers        int
	Hidden        int    // elements a token, of one of K or V
	DType         string // torch's name, with or without "torch."
	MLA           bool
	PhysicalSlots int // a chunk; 0 means the chunk size
}

// Pool is the shared memory in which engines find their objects; the zero Pool
// is none.
type Pool struct {
	Name string // without a slash, below /dev/shm
	Size int64  // bytes
}

// Slot is one object in the pool.
type Slot struct {
	Offset int64 // bytes from the start of the pool
	Length int64 // bytes of the object, not rounded up
	Shape  []int64
	DType  string // without "torch."
}

// PreparedStore is where an engine must write: Slots[i] takes the chunk at
// position Chunks[i] of the requested range.
type PreparedStore struct {
	Slots  []Slot
	Chunks []int
}

// BlockAllocation is one entry of what an engine reports of its blocks.
type BlockAllocation struct {
	RequestID string
	Blocks    []int64
	Tokens    []int64
}
