package mq

import (
	"bytes"
	"context"
	"fmt"
	"runtime/debug"

	"github.com/lmcache/lmcache-go/server/wire"
	"github.com/lmcache/lmcache-go/server/zmtp"
)

// task is a request that does not run on the reader. It owns all that it holds.
type task struct {
	peer   *zmtp.Peer
	client *client
	uid    []byte
	op     []byte
	req    wire.Request
	order  string // tasks of one client with the same order run one after the other; "" is none
	size   int    // bytes of the request
}

// newTask copies what the reader has in hand.
func newTask(p *zmtp.Peer, c *client, frames [][]byte, order string) *task {
	t := &task{peer: p, client: c, req: c.req, order: order}
	head := append(bytes.Clone(frames[0]), frames[1]...)
	t.uid, t.op = head[:len(frames[0])], head[len(frames[0]):]
	t.req.Data = bytes.Clone(t.req.Data)
	for _, f := range frames {
		t.size += len(f)
	}
	return t
}

// handle takes a message, on the goroutine that reads its connection.
func (s *Server) handle(p *zmtp.Peer, frames [][]byte) {
	if s.closing.Load() {
		return
	}
	uid := frames[0]
	if len(frames) < 2 { // it ends LMCache's loop
		s.refused.add(NoOperation, 0, uid, p.ID(), nil)
		return
	}
	if len(frames[1]) == 0 {
		s.controls.Add(1)
		return
	}
	op, err := wire.ParseOp(frames[1])
	if err != nil {
		s.refused.add(reasonOf(err), 0, uid, p.ID(), err)
		return
	}
	c := s.client(p)
	if c.req, err = wire.DecodeRequest(op, frames[2:]); err != nil {
		s.refused.add(reasonOf(err), op, uid, p.ID(), err)
		return
	}
	s.requests[op].Add(1)
	class := classes[op]
	if class == status && s.normal.pending(&c.normal, c.req.RequestID) {
		class = normal
	}
	taken := op != wire.OpWaitPrefetchStatus || s.admitWait(p, c)
	switch {
	case !taken:
	case class == normal:
		taken = s.normal.submit(&c.normal, newTask(p, c, frames, c.req.RequestID))
	case class == affinity:
		taken = s.affinity.submit(&c.affinity, newTask(p, c, frames, ""))
	case class == barrier && !s.affinity.settle(&c.affinity):
		taken = false
	case op == wire.OpWaitPrefetchStatus:
		s.wait(newTask(p, c, frames, ""))
	default:
		s.answer(p, c, frames)
	}
	if !taken {
		s.refused.add(Closing, op, uid, p.ID(), zmtp.ErrClosed)
	}
}

// answer runs the request in hand on the reader.
func (s *Server) answer(p *zmtp.Peer, c *client, frames [][]byte) {
	result, ok := s.call(c.ctx, &c.req, c.result[:0], frames[0], p.ID())
	if !ok {
		return
	}
	if result == nil {
		s.sent(&c.req, frames[0], p, p.Answer(frames[0], frames[1]))
		return
	}
	s.sent(&c.req, frames[0], p, p.Answer(frames[0], frames[1], result))
	c.result = result
}

// run runs a task on a worker.
func (s *Server) run(t *task) {
	if t.req.Op == wire.OpWaitPrefetchStatus {
		s.wait(t)
		return
	}
	if result, ok := s.call(t.client.ctx, &t.req, nil, t.uid, t.peer.ID()); ok {
		s.reply(t, result)
	}
}

// reply sends the result of a task; nil is none.
func (s *Server) reply(t *task, result []byte) {
	if result == nil {
		s.sent(&t.req, t.uid, t.peer, t.peer.Send(t.uid, t.op))
		return
	}
	s.sent(&t.req, t.uid, t.peer, t.peer.Send(t.uid, t.op, result))
}

// sent accounts for a reply.
func (s *Server) sent(req *wire.Request, uid []byte, p *zmtp.Peer, err error) {
	if err != nil {
		s.refused.add(Undelivered, req.Op, uid, p.ID(), err)
		return
	}
	s.answered.Add(1)
}

// admitWait takes one of the client's tokens for a status poll that may wait. It
// waits for one, and reports false if the server was closed meanwhile.
func (s *Server) admitWait(p *zmtp.Peer, c *client) bool {
	select {
	case c.waits <- struct{}{}:
		return true
	default:
	}
	p.Flush()
	select {
	case c.waits <- struct{}{}:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// wait answers a status poll, and if it must wait for that, does so on a
// goroutine of its own.
func (s *Server) wait(t *task) {
	result, ok := s.call(t.client.ctx, &wire.Request{Op: wire.OpQueryPrefetchStatus, RequestID: t.req.RequestID}, nil, t.uid, t.peer.ID())
	if ok && result == nil && t.req.Timeout > 0 && s.beginWait() {
		go func() {
			defer s.endWait()
			result, ok := s.call(t.client.ctx, &t.req, nil, t.uid, t.peer.ID())
			<-t.client.waits
			if ok {
				s.reply(t, result)
			}
		}()
		return
	}
	<-t.client.waits
	if ok {
		s.reply(t, result)
	}
}

// beginWait reports false once Close has ended all waits.
func (s *Server) beginWait() bool {
	s.waitsMu.Lock()
	defer s.waitsMu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.waits.Add(1)
	s.waiting.Add(1)
	return true
}

func (s *Server) endWait() {
	s.waiting.Add(-1)
	s.waits.Done()
}

// call asks the service, and appends the result to b: nil if there is none. It
// reports false if the request is not to be answered, which it has accounted for.
func (s *Server) call(ctx context.Context, r *wire.Request, b, uid []byte, client uint64) (result []byte, ok bool) {
	defer func() {
		if v := recover(); v != nil { // one request less, not the server
			if s.refused.counts[Panicked].Load() == 0 {
				s.o.Log.Error("request panicked", "op", r.Op.String(), "uid", uidText(uid), "panic", v, "stack", string(debug.Stack()))
			}
			s.refused.add(Panicked, r.Op, uid, client, fmt.Errorf("panic: %v", v))
			result, ok = nil, false
		}
	}()
	result, err := s.serve(ctx, r, b)
	if err != nil {
		s.refused.add(Failed, r.Op, uid, client, err)
		return nil, false
	}
	return result, true
}

func (s *Server) serve(ctx context.Context, r *wire.Request, b []byte) ([]byte, error) {
	switch r.Op {
	case wire.OpNoop:
		return wire.AppendText(b, "OK"), nil
	case wire.OpPing:
		s.service.Ping(r.Instance, r.Known)
		return wire.AppendBool(b, true), nil
	case wire.OpGetChunkSize:
		return wire.AppendCount(b, s.service.ChunkSize()), nil
	case wire.OpGetExperimental:
		return wire.AppendNames(b, s.service.Experimental()), nil
	case wire.OpReportBlockAllocation:
		s.service.ReportBlockAllocation(r.Instance, r.Model, r.Blocks)
		return nil, nil
	case wire.OpLookup:
		return nil, s.service.Lookup(withReaders(r))
	case wire.OpFreeLookupLocks:
		return nil, s.service.FreeLookupLocks(withReaders(r))
	case wire.OpQueryPrefetchStatus:
		hits, known := s.service.PrefetchStatus(r.RequestID)
		return appendStatus(b, hits, known), nil
	case wire.OpWaitPrefetchStatus:
		hits, known := s.service.WaitPrefetchStatus(ctx, r.RequestID, r.Timeout)
		return appendStatus(b, hits, known), nil
	case wire.OpEndSession:
		return nil, s.service.EndSession(r.RequestID)
	case wire.OpClear:
		return nil, s.service.Clear(r.Force)
	case wire.OpRegister:
		c := r.Context // the service may keep it
		pool, err := s.service.Register(&c)
		return wire.AppendPool(b, pool), err
	case wire.OpUnregister:
		return nil, s.service.Unregister(r.Instance)
	case wire.OpPrepareStore:
		p, err := s.service.PrepareStore(&r.Key, r.Instance)
		return wire.AppendPreparedStore(b, p), err
	case wire.OpCommitStore:
		ok, err := s.service.CommitStore(&r.Key, r.Instance, r.Data)
		return wire.AppendBool(b, ok), err
	case wire.OpPrepareRetrieve:
		slots, ok, err := s.service.PrepareRetrieve(&r.Key, r.Instance)
		return wire.AppendPreparedRetrieve(b, slots, ok), err
	case wire.OpCommitRetrieve:
		ok, err := s.service.CommitRetrieve(&r.Key, r.Instance)
		return wire.AppendBool(b, ok), err
	}
	return nil, fmt.Errorf("%v: %w", r.Op, wire.ErrNotServed)
}

// withReaders returns the key with the readers that it means. Clients older than
// the field say with the tensor-parallel size that several ranks will read one
// object.
func withReaders(r *wire.Request) *wire.Key {
	if k := &r.Key; k.Readers == 0 && k.WorldSize > 0 && r.TPSize > k.WorldSize {
		k.Readers = r.TPSize / k.WorldSize
	}
	return &r.Key
}

// appendStatus appends nothing for a status that is not known yet.
func appendStatus(b []byte, hits int, known bool) []byte {
	if !known {
		return nil
	}
	return wire.AppendCount(b, hits)
}
