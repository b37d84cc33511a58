package workload

import (
	"cmp"
	"container/heap"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strconv"
)

// arrivalStream tells the arrival process's generator from others of the same
// seed.
const arrivalStream = 0x61727269 // "arri"

// agentic composes sessions to one server's traffic: the sessions are those of
// the file, in its order, and a Poisson process says when each starts, the
// first at 0. A session is read from the file when its time has come and
// forgotten after its last request, so that what is held grows with the
// sessions that overlap and not with the file.
//
// Requests of one session that name different models share their block ids, as
// the file has them: they are taken as requests to one model.
type agentic struct {
	in      *lines
	opt     SourceOptions
	arrival *rand.Rand
	startNS int64           // when the next session of the file starts
	started int             // sessions
	seen    map[string]bool // session ids: twice the same would share a key space
	running sessionQueue
	ended   bool // the file has no more sessions
	req     Request
	err     error
}

// runningSession is a session that has requests left.
type runningSession struct {
	*session
	startNS int64
	ordinal int // of the start, breaks ties of time
	next    int // index of the next request
	grid    grid
	space   string
}

func (r *runningSession) dueNS() int64 { return r.startNS + r.requests[r.next].atNS }

func openAgentic(path string, opt SourceOptions) (*agentic, error) {
	in, err := openLines(path)
	if err != nil {
		return nil, err
	}
	return newAgentic(in, opt), nil
}

func newAgentic(in *lines, opt SourceOptions) *agentic {
	return &agentic{in: in, opt: opt, seen: map[string]bool{},
		arrival: rand.New(rand.NewPCG(opt.ArrivalSeed, arrivalStream))}
}

func (a *agentic) Next() bool {
	for a.err == nil {
		if !a.ended && (len(a.running) == 0 || a.startNS <= a.running[0].dueNS()) {
			a.err = a.start()
			continue
		}
		if len(a.running) == 0 {
			return false
		}
		a.give()
		return true
	}
	return false
}

// start reads the next session and gives it its start time.
func (a *agentic) start() error {
	b, err := a.in.next()
	if err == io.EOF {
		a.ended = true
		return nil
	}
	if err != nil {
		return err
	}
	s, err := parseSession(b)
	if err != nil {
		return a.in.fail(err)
	}
	if a.seen[s.id] {
		return a.in.errorf("id: %q is also the id of an earlier session", s.id)
	}
	g, err := newGrid(s.block, a.opt.ChunkTokens)
	if err != nil {
		return a.in.errorf("block_size: %w", err)
	}
	a.seen[s.id] = true
	if len(s.requests) > 0 {
		heap.Push(&a.running, &runningSession{session: s, startNS: a.startNS, ordinal: a.started,
			grid: g, space: string(Agentic) + ":" + s.id})
	}
	a.started++
	gapNS := a.arrival.ExpFloat64() * 3600e9 / a.opt.SessionsPerHour
	if a.startNS += int64(gapNS); a.startNS > maxArrivalS*1e9 {
		return a.in.errorf("the next session starts %v s after the first, out of range", a.startNS/1e9)
	}
	return nil
}

// give makes the earliest request of the running sessions the present one.
func (a *agentic) give() {
	s := a.running[0]
	r := &s.requests[s.next]
	a.req = Request{
		ID:           s.id + "/" + r.name,
		ArrivalNS:    s.dueNS(),
		InputTokens:  r.in,
		OutputTokens: r.out,
		Hashes:       s.grid.appendHashes(a.req.Hashes[:0], s.space, r.in, s.ids(s.next)),
	}
	if s.next++; s.next == len(s.requests) {
		heap.Pop(&a.running)
	} else {
		heap.Fix(&a.running, 0)
	}
}

func (a *agentic) Request() *Request { return &a.req }
func (a *agentic) Err() error        { return a.err }
func (a *agentic) ChunkTokens() int  { return a.opt.ChunkTokens }
func (a *agentic) Endless() bool     { return false }
func (a *agentic) Close() error      { return a.in.Close() }

func (a *agentic) Facts() []Fact {
	return []Fact{
		{"Workload", "agentic coding sessions"},
		{"File", filepath.Base(a.in.name)},
		{"Arrivals", fmt.Sprintf("composed, Poisson, seed %d", a.opt.ArrivalSeed)},
		{"Sessions per hour", strconv.FormatFloat(a.opt.SessionsPerHour, 'g', -1, 64)},
		{"Sessions started", strconv.Itoa(a.started)},
	}
}

// sessionQueue is a heap of running sessions by the time of their next request.
type sessionQueue []*runningSession

func (q sessionQueue) Len() int { return len(q) }
func (q sessionQueue) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(q[i].dueNS(), q[j].dueNS()), cmp.Compare(q[i].ordinal, q[j].ordinal)) < 0
}
func (q sessionQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *sessionQueue) Push(x any)   { *q = append(*q, x.(*runningSession)) }
func (q *sessionQueue) Pop() any {
	old := *q
	s := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return s
}
