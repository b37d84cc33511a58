package mmapio

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// AppenderOptions configures Create. The zero value is good.
type AppenderOptions struct {
	HeadBytes   int // first bytes of the file that stay mapped, rounded up to pages; 64 KiB if zero, none if negative
	WindowBytes int // address space of the moving window, rounded up to pages; 64 MiB if zero
	// ReserveBytes of space are held back behind what Next and Room give, for what
	// has to be written when the disk is full: see UseReserve. None if zero.
	ReserveBytes int
	StepBytes    int // by which the file grows and is made present ahead of its use, rounded up to pages; 4 MiB if zero
}

func (o AppenderOptions) withDefaults() AppenderOptions {
	round := func(n *int, zero int) {
		if *n <= 0 {
			*n = zero
		}
		*n = int(pageUp(int64(*n)))
	}
	if o.HeadBytes < 0 {
		o.HeadBytes = 0
	} else {
		round(&o.HeadBytes, 64<<10)
	}
	round(&o.StepBytes, 4<<20)
	round(&o.WindowBytes, 64<<20)
	return o
}

// Appender writes a growing file through a mapping of its end. Space is
// allocated and made present ahead, by a goroutine of its own, so that a store
// neither faults nor finds the disk full; what the file lacks in the end is
// cut off by Close. It belongs to one goroutine.
//
// Publication: a region from Next is seen by readers of the file as zero bytes
// and what was stored so far; its first 4 bytes are stored last and atomically,
// by Publish, and are zero until then.
type Appender struct {
	file *os.File // nil after Close
	opt  AppenderOptions
	head []byte // file bytes [0, HeadBytes)

	offset  int64  // where the next region starts
	pending []byte // region that Next gave and Publish has not ended
	askedAt int64  // value of ready at which the helper was last asked for more

	ready atomic.Int64  // file bytes that have space; stored under mu, only grows
	ask   chan struct{} // wakes the helper, which ends when it is closed
	done  chan struct{} // closed by the helper

	mu          sync.Mutex // guards what follows against the helper; the owner alone changes it
	window      []byte
	windowStart int64 // file offset of the window
}

// Create creates the file at path, or empties the one that is there, and locks
// it against other writers (flock). A locked file is left as it is and gives
// ErrInUse. The first step of space is allocated at once: an error here is said
// before anything depends on the file. The caller must Close the Appender.
func Create(path string, opt AppenderOptions) (_ *Appender, err error) {
	opt = opt.withDefaults()
	_, statErr := os.Lstat(path)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	a := &Appender{file: f, opt: opt, offset: int64(opt.HeadBytes), askedAt: -1,
		ask: make(chan struct{}, 1), done: make(chan struct{})}
	locked := false
	defer func() {
		if err == nil {
			return
		}
		_ = unmapFile(a.head)
		_ = unmapFile(a.window)
		if locked && errors.Is(statErr, fs.ErrNotExist) {
			os.Remove(path)
		}
		f.Close()
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("create %s: not a regular file", path)
	}
	if err := lock(f, unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	locked = true
	if err := f.Truncate(0); err != nil {
		return nil, err
	}
	if err := a.extend(a.offset + int64(opt.ReserveBytes) + 1); err != nil {
		return nil, err
	}
	if opt.HeadBytes > 0 {
		if a.head, err = mapFile(f, 0, opt.HeadBytes, unix.PROT_READ|unix.PROT_WRITE); err != nil {
			return nil, err
		}
		populate(a.head)
	}
	if err := a.moveWindow(0); err != nil {
		return nil, err
	}
	go a.help()
	return a, nil
}

// Path returns the path that Create got.
func (a *Appender) Path() string { return a.file.Name() }

// Offset returns where the next region starts, in bytes from the start of the
// file. It is a multiple of 8 where Advance was not used.
func (a *Appender) Offset() int64 { return a.offset }

// Head returns the first HeadBytes of the file, which stay mapped until Close.
// Regions start behind them.
func (a *Appender) Head() []byte { return a.head }

// Next returns the n bytes at Offset, rounded up to a multiple of 8. They are
// zero, and the caller's until Publish or the following Next; what was stored in
// a region that is then not published is wiped. Where the file cannot get the
// space it returns a *SpaceError; regions that still fit may follow.
func (a *Appender) Next(n int) ([]byte, error) {
	if a.pending != nil {
		clear(a.pending)
		a.pending = nil
	}
	if n <= 0 || a.file == nil {
		return nil, fmt.Errorf("append %d bytes: %w", n, os.ErrInvalid)
	}
	var err error
	a.pending, err = a.reserve((n + 7) &^ 7)
	return a.pending, err
}

// Room returns the n bytes at Offset, for a format that has its own way to
// publish what was stored: they are not wiped, whether Advance passes them or
// not. Room and Advance are not to be mixed with Next.
func (a *Appender) Room(n int) ([]byte, error) {
	if n <= 0 || a.file == nil {
		return nil, fmt.Errorf("append %d bytes: %w", n, os.ErrInvalid)
	}
	return a.reserve(n)
}

// Advance moves Offset n bytes on, at most as many as Room gave.
func (a *Appender) Advance(n int) { a.offset += int64(n) }

// UseReserve lets Next and Room give the space that was held back.
func (a *Appender) UseReserve() { a.opt.ReserveBytes = 0 }

// Deleted reports whether the file has no name any more: what is written to it is
// gone when it is closed.
func (a *Appender) Deleted() bool {
	if a.file == nil {
		return false
	}
	var stat unix.Stat_t
	return unix.Fstat(int(a.file.Fd()), &stat) == nil && stat.Nlink == 0
}

// reserve returns the n bytes at Offset.
func (a *Appender) reserve(n int) ([]byte, error) {
	end := a.offset + int64(n)
	ready := a.ready.Load() - int64(a.opt.ReserveBytes)
	if end > ready {
		if err := a.extend(end + int64(a.opt.ReserveBytes)); err != nil {
			return nil, err
		}
	} else if ready-end < int64(a.opt.StepBytes) && a.askedAt != ready {
		a.askedAt = ready
		select {
		case a.ask <- struct{}{}:
		default: // asked already
		}
	}
	if end > a.windowStart+int64(len(a.window)) {
		if err := a.moveWindow(n); err != nil {
			return nil, err
		}
	}
	at := a.offset - a.windowStart
	return a.window[at : at+int64(n) : at+int64(n)], nil
}

// Publish stores word into the first 4 bytes of the region that Next gave, with
// release order, and moves Offset behind it. A word of 0 publishes nothing to a
// reader. It panics without a region.
func (a *Appender) Publish(word uint32) {
	Uint32(a.pending, 0).Store(word)
	a.offset += int64(len(a.pending))
	a.pending = nil
}

// Sync waits until everything that was stored is on the disk. Another goroutine
// than the owner may call it too, but not beside Close, after which it does
// nothing.
func (a *Appender) Sync() error {
	if a.file == nil {
		return nil
	}
	return a.file.Sync() // covers stores through a mapping, which dirty the same pages
}

// whole returns a *FaultError if somebody has made the file shorter than size.
func (a *Appender) whole(size int64) error {
	info, err := a.file.Stat()
	if err == nil && info.Size() < size {
		err = &FaultError{Path: a.file.Name(), Offset: info.Size()}
	}
	return err
}

// Close cuts the file off at Offset and closes it. A file that somebody has made
// shorter stays so, which gives a *FaultError. It may be called twice.
func (a *Appender) Close() error {
	if a.file == nil {
		return nil
	}
	close(a.ask)
	<-a.done
	err := errors.Join(unmapFile(a.head), unmapFile(a.window))
	if cut := a.whole(a.offset); cut != nil {
		err = errors.Join(err, cut)
	} else {
		err = errors.Join(err, a.file.Truncate(a.offset))
	}
	err = errors.Join(err, a.file.Close())
	a.file, a.head, a.window, a.pending = nil, nil, nil, nil
	return err
}

// help allocates ahead of the owner. An error is left for the owner to meet
// when it needs the space.
func (a *Appender) help() {
	defer close(a.done)
	for range a.ask {
		_ = a.extend(a.ready.Load() + 1)
	}
}

// extend makes [0, upTo) of the file have space, in whole steps where the disk
// has room for them, and the window's part of it present.
func (a *Appender) extend(upTo int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for from := a.ready.Load(); from < upTo; from = a.ready.Load() {
		if err := a.whole(from); err != nil {
			return err // else a hole would take the place of what was cut off
		}
		to := from + int64(a.opt.StepBytes)
		if err := allocate(a.file, from, to-from); err != nil {
			to = pageUp(upTo)
			if err := allocate(a.file, from, to-from); err != nil {
				return err
			}
		}
		cache(a.file, from, to-from)
		a.populateWindow(from, to)
		a.ready.Store(to)
	}
	return nil
}

// populateWindow makes the window's part of [from, to) present. It needs mu.
func (a *Appender) populateWindow(from, to int64) {
	from = max(from, a.windowStart)
	to = min(to, a.windowStart+int64(len(a.window)))
	if from < to {
		populate(a.window[from-a.windowStart : to-a.windowStart])
	}
}

// moveWindow puts the window at Offset, with room for n bytes. It reaches beyond
// the end of the file, where it must not be touched before ready covers it.
func (a *Appender) moveWindow(n int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	start := pageDown(a.offset)
	size := max(int64(a.opt.WindowBytes), pageUp(a.offset+int64(n)-start))
	window, err := mapFile(a.file, start, int(size), unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return err
	}
	err = unmapFile(a.window)
	a.window, a.windowStart = window, start
	a.populateWindow(start, a.ready.Load())
	return err
}
