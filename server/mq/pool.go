package mq

import (
	"slices"
	"sync"
)

// pool runs tasks of many clients on a bounded number of goroutines, which exist
// only while there is work. Clients take turns. It is safe for concurrent use.
type pool struct {
	workers int
	run     func(*task)

	mu      sync.Mutex
	change  sync.Cond  // a task has ended, or closed is set
	ready   []*backlog // clients that may have a task to run, in the order of their turns
	running int        // workers
	queued  int        // tasks that wait or run
	closed  bool
}

func newPool(workers int, run func(*task)) *pool {
	p := &pool{workers: workers, run: run}
	p.change.L = &p.mu
	return p
}

// backlog is what one client has in a pool. It is guarded by the pool's lock.
type backlog struct {
	serial    bool // the client's tasks run one after the other
	maxTasks  int
	maxBytes  int
	waiting   []*task
	running   []*task
	bytes     int // of waiting and running
	inReady   bool
	submitter func() // called before a submitter waits
}

// fits says whether there is room for t. One task is always taken, whatever its
// size.
func (b *backlog) fits(t *task) bool {
	n := len(b.waiting) + len(b.running)
	return n == 0 || n < b.maxTasks && b.bytes+t.size <= b.maxBytes
}

// next takes the first task that may run: one whose order no running task has.
// A waiting task before it with the same order would be blocked likewise.
func (b *backlog) next() *task {
	if b.serial && len(b.running) > 0 {
		return nil
	}
	for i, t := range b.waiting {
		if t.order != "" && holds(b.running, t.order) {
			continue
		}
		b.waiting = slices.Delete(b.waiting, i, i+1)
		b.running = append(b.running, t)
		return t
	}
	return nil
}

func holds(list []*task, order string) bool {
	return slices.ContainsFunc(list, func(t *task) bool { return t.order == order })
}

// submit queues a task of b's client. It waits while there is no room, which
// only that client's reader does. It reports false if the pool was closed.
func (p *pool) submit(b *backlog, t *task) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed && !b.fits(t) {
		p.mu.Unlock()
		b.submitter()
		p.mu.Lock()
	}
	for !p.closed && !b.fits(t) {
		p.change.Wait()
	}
	if p.closed {
		return false
	}
	b.waiting = append(b.waiting, t)
	b.bytes += t.size
	p.queued++
	p.offer(b)
	return true
}

// offer gives b a turn, and work a worker.
func (p *pool) offer(b *backlog) {
	if b.inReady || len(b.waiting) == 0 || b.serial && len(b.running) > 0 {
		return
	}
	b.inReady = true
	p.ready = append(p.ready, b)
	if p.running < p.workers {
		p.running++
		go p.work()
	}
}

// work runs tasks until there is none to run.
func (p *pool) work() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.ready) > 0 {
		b := p.ready[0]
		p.ready = slices.Delete(p.ready, 0, 1)
		b.inReady = false
		t := b.next()
		if t == nil {
			continue // the end of what blocks it offers it again
		}
		p.offer(b)
		p.mu.Unlock()
		p.run(t)
		p.mu.Lock()
		i := slices.Index(b.running, t)
		b.running = slices.Delete(b.running, i, i+1)
		b.bytes -= t.size
		p.queued--
		p.offer(b)
		p.change.Broadcast()
	}
	p.running--
}

// pending says whether a task of that order waits or runs.
func (p *pool) pending(b *backlog, order string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return holds(b.running, order) || holds(b.waiting, order)
}

// settle waits until b's client has nothing in the pool. It reports false if the
// pool was closed before.
func (p *pool) settle(b *backlog) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(b.waiting)+len(b.running) == 0 {
		return true
	}
	p.mu.Unlock()
	b.submitter()
	p.mu.Lock()
	for len(b.waiting)+len(b.running) > 0 {
		if p.closed {
			return false
		}
		p.change.Wait()
	}
	return true
}

// depth returns the tasks that wait or run.
func (p *pool) depth() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.queued
}

// close takes no more tasks, and returns when those that it has are through.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.change.Broadcast()
	for p.queued > 0 {
		p.change.Wait()
	}
}
