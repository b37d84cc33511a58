package workload

// Request is one request to an inference engine. It belongs to the Workload
// that gave it.
type Request struct {
	ID        string // unique within the workload
	ArrivalNS int64  // since the start of the workload

	InputTokens  int
	OutputTokens int // 0 where the source does not say

	// Hashes has one entry for every full chunk of the input, in prefix order:
	// InputTokens / chunk size of them, each naming the whole prefix up to its
	// end. See ChunkHash.
	Hashes [][32]byte

	// Generated goes on where Hashes end: the chunks that the output fills. The
	// engine stores them when it has decoded. None where the source does not say
	// what the output is.
	Generated [][32]byte

	// Warmup says that the request is there to fill the cache. Warm-ups come
	// first, and the first request that is none has a Fence.
	Warmup bool

	// What a request waits for beside its time of arrival, in a closed loop.
	Fence  bool // all before it; ArrivalNS counts from then, also that of later ones
	Limit  int  // until fewer than that run; 0: no limit
	Stream int  // until the last request of its stream is done; 0: no stream
}

// Workload gives requests in order of arrival. It belongs to one goroutine.
//
//	for w.Next() {
//		r := w.Request() // valid until the next call of Next
//	}
//	return w.Err()
type Workload interface {
	// Next moves to the next request and reports whether there is one.
	Next() bool
	// Request returns the present request. It must not be changed, and its
	// memory is used again by Next.
	Request() *Request
	// Err returns what ended the workload too early, nil at its end.
	Err() error
	// ChunkTokens returns the size of the chunks that Hashes name.
	ChunkTokens() int
	// Endless reports whether requests never run out.
	Endless() bool
	// Facts says what the workload is, and how far it has been read: what a
	// reader of a figure must know to make the same one.
	Facts() []Fact
	Close() error
}

// Fact is one line of a description.
type Fact struct{ Label, Value string }
