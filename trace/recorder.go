package trace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/mmapio"
)

// Overflow says what happens to a call that finds the ring full.
type Overflow uint8

const (
	OverflowDrop  Overflow = iota // it is dropped and counted; the caller goes on
	OverflowBlock                 // the caller waits for room
)

var overflowNames = [...]string{"drop", "block"}

// String returns the name.
func (o Overflow) String() string {
	if int(o) < len(overflowNames) {
		return overflowNames[o]
	}
	return fmt.Sprintf("(%d)", uint8(o))
}

// ParseOverflow is the inverse of String.
func ParseOverflow(s string) (Overflow, error) {
	for i, name := range overflowNames {
		if s == name {
			return Overflow(i), nil
		}
	}
	return 0, fmt.Errorf("unknown overflow policy %q; must be drop or block", s)
}

// Options configures Create. The zero value is good.
type Options struct {
	Level Level // whose calls are recorded; LevelStorage if empty, the only one there is

	// Clock tells the times of the calls. A *clock.Virtual is asked for both at
	// every call, on the caller's goroutine. Any other, and nil, is the machine's
	// clock, which is then read directly: the Unix time is reckoned from the
	// monotonic one.
	Clock clock.Clock

	ConfigJSON   string // for the file's header
	ConfigDigest string // 64 hex digits, or empty
	Build        string // which program recorded

	RingDir   string   // folder of the ring file; shared memory if empty
	RingBytes int      // of calls that all shards of the ring can hold, rounded up to a power of two, at most 1 GiB; 8 MiB if zero
	Overflow  Overflow // when the ring is full
	// NoOutcomes leaves out what came of the calls.
	NoOutcomes bool

	// NewFile creates the file and its header where it is to have another format
	// than the native one (lct.Recording). What it returns gets one call after the
	// other from the drain; an error of it that is a *mmapio.SpaceError or
	// *mmapio.FaultError ends the recording.
	NewFile func(path string, h *Header) (FrameWriter, error)

	// SyncInterval is how often the file is forced to the disk (fsync), so that a
	// power cut loses at most what was recorded since, and what was still in the
	// ring; zero leaves it to the kernel, which takes half a minute or so. A killed
	// process loses nothing either way. Files of NewFile are synced if they have a
	// method Sync() error that may run beside the others but Close.
	SyncInterval time.Duration

	BlockBytes int64        // of a native file: how much of it is interned together; the format's default if zero
	Log        *slog.Logger // discarded if nil
}

const (
	defaultRingBytes = 8 << 20
	// ringDefsBytes is room for some 500,000 definitions. It is address space;
	// memory is taken as they come.
	ringDefsBytes = 64 << 20
	// headSpare is what a file's head gets beside the config JSON.
	headSpare = 64 << 10
	// endReserve is held back on the disk for the last drop notice and the footer.
	endReserve = 64 << 10
)

func (o Options) withDefaults() (Options, error) {
	if o.Level == "" {
		o.Level = LevelStorage
	}
	if o.Level != LevelStorage {
		return o, fmt.Errorf("unsupported trace level '%s'; only 'storage' is supported", o.Level)
	}
	if int(o.Overflow) >= len(overflowNames) {
		return o, fmt.Errorf("unknown overflow policy %v", o.Overflow)
	}
	if o.RingBytes < 0 || o.RingBytes > maxRingDataBytes {
		return o, fmt.Errorf("trace ring of %d bytes: must be at most %d", o.RingBytes, maxRingDataBytes)
	}
	if o.RingBytes == 0 {
		o.RingBytes = defaultRingBytes
	}
	if o.SyncInterval < 0 {
		return o, fmt.Errorf("trace sync interval of %v: must not be negative", o.SyncInterval)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// Recorder writes calls to a trace file. It is safe for concurrent use. A nil
// Recorder records nothing.
//
// A call is copied into the ring by its caller and moved to the file by the
// drain's goroutine. The ring's memory stays mapped until the Recorder is
// garbage, so that a call that meets a Close is never left without it.
type Recorder struct {
	on atomic.Bool // the gate: what a call costs when recording is off

	// Immutable after Create.
	ring      *ring
	defs      *ringDefs
	ops       [numOps][]Arg   // arguments of the operations that are recorded; nil for others
	shapes    [numOps]opShape // of the same
	block     bool
	outcomes  bool
	syncEvery time.Duration  // see Options.SyncInterval
	sim       *clock.Virtual // tells the times, if not nil
	ticks     *clock.Ticks   // else this does, if not nil, else the machine's clock
	start     int64          // the time of the recording's start, on the one of the three that is used
	drain     *drain

	path     string
	log      *slog.Logger
	shared   *mmapio.Shared // nil in tests on the heap
	closing  sync.Once
	closeErr error
}

// Stats says what has become of the calls so far. Recorded lags behind by what
// is in the ring.
type Stats struct {
	Recorded uint64 // calls in the file
	Dropped  uint64 // calls that are not and will not be: the ring was full, or writing failed
	// LostOutcomes are those of recorded calls: likewise.
	LostOutcomes uint64
}

// Create creates the trace file at path, or empties the one that is there, and
// starts to record. It fails if the file cannot be written, or another recorder
// is writing it. The caller must Close the recorder.
func Create(path string, opt Options) (_ *Recorder, err error) {
	opt, err = opt.withDefaults()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("record a trace: %w", err)
		}
	}()
	dataBytes, ringBytes := ringLayout(opt.RingBytes, ringDefsBytes)
	name := fmt.Sprintf("lmcache-ring-%d-%08x", os.Getpid(), rand.Uint32())
	shared, err := mmapio.CreateShared(opt.RingDir, name, int64(ringBytes), int64(ringHeaderBytes+dataBytes))
	if err != nil {
		return nil, fmt.Errorf("create the ring: %w", err)
	}
	defer func() {
		if err != nil {
			shared.Remove()
			shared.Close()
		}
	}()
	r := newRecorder(shared.Bytes(), dataBytes, processorShards, func(offset, n int) error {
		return shared.Allocate(int64(ringHeaderBytes+dataBytes+offset), int64(n))
	}, opt)
	r.path, r.shared = path, shared
	h := r.header(opt)
	h.RingPath = shared.Path()
	r.ring.describe(&h, path)
	newFile := opt.NewFile
	if newFile == nil {
		newFile = r.newNative
	}
	out, err := newFile(path, &h)
	if err != nil {
		return nil, err
	}
	if opt.SyncInterval > 0 {
		if err := syncName(path); err != nil {
			return nil, errors.Join(err, out.Close())
		}
	}
	runtime.AddCleanup(r, func(s *mmapio.Shared) { s.Close() }, shared)
	r.begin(out, &h)
	r.log.Info(fmt.Sprintf("trace recorder writing to %s (level=%s)", path, opt.Level))
	return r, nil
}

// newNative creates a native file.
func (r *Recorder) newNative(path string, h *Header) (FrameWriter, error) {
	file, err := mmapio.Create(path, mmapio.AppenderOptions{HeadBytes: headSpare + len(h.ConfigJSON), ReserveBytes: endReserve})
	if err != nil {
		return nil, err
	}
	w, err := newWriter(outputFile{file, r.log}, h, writerOptions{BlockBytes: h.BlockBytes})
	if err != nil {
		file.Close()
		os.Remove(path)
		return nil, err
	}
	return w, nil
}

// Deleted reports whether the file has no name any more.
func (w *writer) Deleted() bool {
	f, ok := w.f.(outputFile)
	return ok && f.Deleted()
}

// Left returns how many calls the file at path still has, after Close: it may have
// been cut meanwhile, and have grown again behind a hole, so that neither its
// header nor its footer tells.
func (w *writer) Left(path string) uint64 {
	if v, err := VerifyNative(context.Background(), path); err == nil {
		return uint64(v.Records)
	}
	return 0
}

// outputFile is the file that the writer gets. It says in the log when the file's
// bytes did not reach the disk, as the writer's error alone would not.
type outputFile struct {
	*mmapio.Appender
	log *slog.Logger
}

// Sync waits until everything that was stored is on the disk.
func (f outputFile) Sync() error {
	err := f.Appender.Sync()
	if err != nil {
		f.log.Error("trace recorder: fsync failed", "err", err)
	}
	return err
}

// processorShards asks newRecorder for as many shards as pay on this machine.
const processorShards = -1

// newRecorder makes a recorder whose ring is in mem, with as many shards beside
// the common one. It records once begin was called.
func newRecorder(mem []byte, dataBytes, shards int, allocate func(offset, n int) error, opt Options) *Recorder {
	r := &Recorder{
		block:     opt.Overflow == OverflowBlock,
		outcomes:  !opt.NoOutcomes,
		syncEvery: opt.SyncInterval,
		log:       opt.Log,
	}
	r.sim, _ = opt.Clock.(*clock.Virtual)
	r.startClock()
	if shards == processorShards {
		shards = 0
		if r.ordersShards() {
			shards = ringShards(dataBytes, runtime.GOMAXPROCS(0))
		}
	}
	r.ring = newRing(mem, dataBytes, shards, rand.Uint32())
	r.defs = newRingDefs(mem[ringHeaderBytes+dataBytes:], r.ring.word(ringAtDefsTail), allocate)
	for op := range r.ops {
		if row := Op(op).Row(); row.Level == opt.Level {
			r.ops[op] = row.Args
			r.shapes[op] = shapeOf(row.Args)
		}
	}
	return r
}

// startClock finds out what tells the times.
func (r *Recorder) startClock() {
	if r.sim != nil {
		return
	}
	ticks, err := clock.NewTicks()
	if err != nil {
		r.log.Debug("trace recorder: times are the system clock's", "reason", err)
		return
	}
	r.ticks = ticks
}

// ordersShards reports whether times tell in which order a goroutine has made two
// calls on different processors: to get from the one to the other it goes through
// the scheduler, which takes many times as long as to read a clock (a hundred ns
// and more). So they do where readings one behind the other mostly differ (a
// counter may go in steps of 10 ns); not if time is simulated.
func (r *Recorder) ordersShards() bool {
	if r.sim != nil {
		return false
	}
	const readings = 64
	steps, last := 0, r.machineNow()
	for range readings {
		now := r.machineNow()
		if now > last {
			steps++
		}
		last = now
	}
	return steps >= readings/2
}

// header reads the clocks, which starts the recording's time.
func (r *Recorder) header(opt Options) Header {
	host, _ := os.Hostname() // an unknown host is no reason not to record
	h := Header{
		Native:        true,
		FormatVersion: 1,
		SchemaVersion: SchemaVersion,
		Level:         opt.Level,
		ConfigJSON:    opt.ConfigJSON,
		ConfigDigest:  opt.ConfigDigest,
		PID:           os.Getpid(),
		Host:          host,
		Build:         opt.Build,
		BlockBytes:    opt.BlockBytes,
	}
	if opt.Clock != nil {
		h.MonoStartNS = opt.Clock.Now()
	}
	if r.sim != nil {
		r.start, h.WallStartNS = h.MonoStartNS, r.sim.Wall()
		h.Clock = "virtual"
		return h
	}
	h.Clock = "system"
	if r.ticks != nil {
		h.Clock, h.ClockBound = "tsc", clock.TicksBound
	}
	r.start, h.WallStartNS = r.machineNow(), clock.Real{}.Wall()
	return h
}

// begin starts the drain and opens the gate.
func (r *Recorder) begin(out FrameWriter, h *Header) {
	r.drain = newDrain(newRingReader(r.ring, func() int64 { return r.machineNow() - r.start }), newRingIDs(r.defs.mem, r.defs.tail), out, r.log)
	r.drain.outcomes = r.outcomes
	r.drain.path = r.path
	if r.sim == nil {
		r.drain.ticks = r.ticks
		r.drain.anchor = r.anchor
		r.drain.anchorWall, r.drain.nextAnchor = h.WallStartNS, int64(wallAnchorEvery)
	}
	if file, ok := out.(syncFile); ok {
		r.drain.sync = startSyncer(file, r.syncEvery, &r.drain.moved, r.log)
	}
	go r.drain.run()
	r.on.Store(true)
}

// On reports whether calls are being recorded. A caller asks before it gathers
// the arguments.
func (r *Recorder) On() bool { return r != nil && r.on.Load() }

// Call records one call of op, made now, with the arguments a, which it copies.
// It allocates nothing. With OverflowDrop it never waits: where the ring has no
// room the call is dropped and counted. A call longer than a quarter of the ring
// is dropped in either mode. After Close it does nothing. The token is for Outcome.
//
//go:nosplit
func (r *Recorder) Call(op Op, a *Args) (t CallToken) {
	if !r.On() || op >= numOps || r.ops[op] == nil {
		return t
	}
	if shape := &r.shapes[op]; shape.keysFirst && r.sim == nil {
		if t, ok := r.callOneRun(op, shape, a); ok {
			return t
		}
	}
	return r.call(op, a)
}

// token returns what Outcome needs to find the call at a place of the ring.
//
//go:nosplit
func (r *Recorder) token(op Op, id uint64, monoNS int64) (t CallToken) {
	if r.outcomes {
		t = CallToken{at: id + 1, monoNS: monoNS, op: op}
	}
	return t
}

// callOneRun records a call whose keys differ in the hash only, as nearly all
// do, and walks over them once: it takes room for one run, and finds out while it
// copies. ok is false where the call is not recorded yet: it is another kind of
// call, needs a definition, or there is no room.
//
// From here down nothing checks the stack, since that is where the scheduler
// would take the processor away, within a call and at the worst time for the
// drain.
//
//go:nosplit
func (r *Recorder) callOneRun(op Op, shape *opShape, a *Args) (t CallToken, ok bool) {
	g, keys := r.ring, a.Keys
	if len(keys) == 0 {
		return t, false
	}
	first, last := &keys[0], &keys[len(keys)-1]
	if last.Rank != first.Rank || last.Group != first.Group || !r.defs.scopes.has(uint32(first.Scope)) ||
		shape.layout && !r.defs.layouts.has(uint32(a.Layout)) {
		return t, false
	}
	const front = ringFrameBytes + 8 + ringRunBytes
	n := uint64(front + len(keys)*kv.MaxHash + 8*len(shape.words))
	var s *shard
	var pos uint64
	var mono int64
	pinned := false
	if cpu := mmapio.Pin(); cpu < len(g.shards)-1 && g.open.Load() {
		s = &g.shards[cpu]
		pos = s.tail.Load()
		if off := pos & s.mask; pos+n-s.head.Load() <= uint64(len(s.data)) && off+n <= uint64(len(s.data)) {
			mmapio.Publish(s.tail, pos+n)
			pinned = true
		} else {
			pos, pinned = s.claimPinned(n)
		}
	}
	if pinned {
		if r.ticks != nil {
			mono = r.ticks.Now() - r.start
		} else {
			mono = r.now()
		}
	} else {
		mmapio.Unpin()
		s = g.common()
		if pos, mono, ok = r.claimCommon(n); !ok {
			return t, false
		}
	}
	off := pos & s.mask
	b := s.data[off : off+n : off+n]
	h := (*[front]byte)(b)
	putRingWord(h[:], 8, uint64(mono))
	putRingWord(h[:], 16, g.dropped.Load()&(1<<32-1)+uint64(op)<<32)
	putRingWord(h[:], 24, uint64(len(keys))+1<<32)
	putRingWord(h[:], 32, uint64(len(keys))+uint64(first.HashLen)<<32)
	putRingWord(h[:], 40, uint64(first.Scope)+uint64(first.Group)<<32)
	putRingWord(h[:], 48, first.Rank)
	hashes := mmapio.Blocks(b[front:], len(keys))
	var diff uint64
	if len(keys) == 1 {
		hashes[0] = first.Hash
	} else {
		diff = copyHashes(hashes, keys)
	}
	if len(shape.words) > 0 {
		putWords(b[front+len(keys)*kv.MaxHash:], shape.words, a)
	}
	kind := uint64(ringCall)
	if diff != 0 {
		kind = ringPad
	}
	mmapio.Publish(mmapio.Uint64(b, 0), s.tag(pos)|n|kind)
	if pinned {
		mmapio.Unpin()
	}
	s.committed(pos + n)
	runtime.KeepAlive(r) // and with it the ring's mapping
	return r.token(op, s.id|pos, mono), diff == 0
}

// claimCommon claims from the common shard, where the clock is read before. It is
// the one branch of callOneRun that checks the stack, and it does so before it
// claims: the whole chain without a check would not fit the runtime's limit in an
// instrumented build.
func (r *Recorder) claimCommon(n uint64) (pos uint64, monoNS int64, ok bool) {
	monoNS = r.now()
	pos, state := r.ring.common().claim(int(n))
	return pos, monoNS, state == claimDone
}

// call records any call.
func (r *Recorder) call(op Op, a *Args) (t CallToken) {
	header, kind := ringFrameBytes, uint64(ringCall)
	if r.sim != nil {
		header, kind = ringFrameBytes+8, ringCallWall
	}
	args := r.ops[op]
	n, runs, known := ringArgsSize(args, a, r.defs)
	if n += header; n > r.ring.maxFrame() || !known && r.defs.define(a) != nil {
		r.drop(r.ring.common())
		return t
	}
	p, state := r.take(n)
	if state != claimDone {
		if state == claimFull {
			r.drop(p.shard)
		}
		return t
	}
	b := p.frame(p.pos, n)
	putRingWord(b, 8, uint64(p.monoNS))
	putRingWord(b, 16, r.ring.dropped.Load()&(1<<32-1)|uint64(op)<<32)
	if kind == ringCallWall {
		putRingWord(b, 24, uint64(r.sim.Wall()))
	}
	putRingArgs(b[header:], args, a, runs)
	r.put(p, n, kind)
	runtime.KeepAlive(r) // and with it the ring's mapping
	return r.token(op, p.id|p.pos, p.monoNS)
}

// place is a claimed frame. It is small enough to be kept in registers.
type place struct {
	*shard
	pos    uint64
	monoNS int64 // when it was claimed
	pinned bool  // the caller is, until put
}

// take claims n bytes, at most maxFrame, where there is room: the processor's
// own shard is tried first. The caller must write the frame and put it, without
// anything in between that could block. With OverflowBlock it waits for room in
// the common shard. Where there is none the place says whose room was missing.
func (r *Recorder) take(n int) (p place, state claimState) {
	g := r.ring
	own := g.common()
	if last := len(g.shards) - 1; last > 0 {
		cpu := mmapio.Pin()
		if cpu < last && n <= g.shards[cpu].maxFrame() && g.open.Load() {
			own = &g.shards[cpu]
			if pos, ok := own.claimPinned(uint64(n)); ok {
				return place{own, pos, r.now(), true}, claimDone
			}
		}
		mmapio.Unpin()
	}
	mono := r.now()
	pos, state := g.common().claim(n)
	switch {
	case state != claimFull:
		return place{g.common(), pos, mono, false}, state
	case r.block:
		return r.takeWait(n)
	}
	return place{own, 0, 0, false}, claimFull
}

// takeWait takes n bytes of the common shard when there is room.
func (r *Recorder) takeWait(n int) (p place, state claimState) {
	var mono int64
	s := r.ring.common()
	pos, state := s.claimWait(n, func() { mono = r.now() })
	return place{s, pos, mono, false}, state
}

// put commits the frame of n bytes at p.
func (r *Recorder) put(p place, n int, kind uint64) {
	p.commit(p.pos, uint64(n), kind)
	if p.pinned {
		mmapio.Unpin()
	}
	p.committed(p.pos + uint64(n))
}

// now returns the time since the start.
//
//go:nosplit
func (r *Recorder) now() int64 {
	if r.sim == nil {
		return r.machineNow() - r.start
	}
	return max(r.sim.Now()-r.start, 0)
}

//go:nosplit
func (r *Recorder) machineNow() int64 {
	if r.ticks != nil {
		return r.ticks.Now()
	}
	return clock.Real{}.Now()
}

// anchor returns one moment's time since the start and its Unix time.
func (r *Recorder) anchor() (monoNS, wallNS int64) {
	for range 8 {
		before := r.machineNow()
		wallNS = clock.Real{}.Wall()
		after := r.machineNow()
		monoNS = before + (after-before)/2 - r.start
		if after-before < int64(time.Microsecond) {
			break // else something came between
		}
	}
	return monoNS, wallNS
}

// drop counts a call that was made and is not recorded, and the shard that had no
// room for it.
func (r *Recorder) drop(s *shard) {
	if r.on.Load() {
		s.dropped.Add(1)
		r.ring.dropped.Add(1)
	}
}

// Stats returns the counts so far.
func (r *Recorder) Stats() Stats {
	if r == nil {
		return Stats{}
	}
	return Stats{
		Recorded:     r.drain.recorded.Load(),
		Dropped:      r.ring.dropped.Load() + r.drain.lost.Load(),
		LostOutcomes: r.ring.lostOutcomes.Load() + r.drain.lostOutcomes.Load(),
	}
}

// Close stops recording, writes what is in the ring, seals the file, and removes
// the ring. It may be called twice. Its error says what is wrong with the file.
func (r *Recorder) Close() error {
	if r == nil {
		return nil
	}
	r.closing.Do(func() { r.closeErr = r.close() })
	return r.closeErr
}

func (r *Recorder) close() error {
	r.on.Store(false)
	r.ring.close()
	r.defs.close()
	<-r.drain.done
	err := r.drain.outErr
	if r.shared != nil {
		// Pages of a ring that nobody needs; a late caller still finds the
		// header with its closed tail.
		r.shared.Discard(ringHeaderBytes, int64(len(r.shared.Bytes())-ringHeaderBytes))
		err = errors.Join(err, r.shared.Remove())
	}
	for i := range r.ring.shards {
		if n := r.ring.shards[i].dropped.Load(); n > 0 {
			r.log.Debug("trace recorder: a shard of the ring had no room for all calls", "shard", i, "of", len(r.ring.shards), "bytes", len(r.ring.shards[i].data), "calls", n)
		}
	}
	if dropped := r.Stats().Dropped; dropped > 0 {
		r.log.Warn(fmt.Sprintf("trace recorder closed; %d record(s) dropped", dropped))
	} else {
		r.log.Info("trace recorder closed cleanly: " + r.path)
	}
	if err != nil {
		return fmt.Errorf("close trace %s: %w", r.path, err)
	}
	return nil
}

// describe notes in the ring what a process that finds it needs to know.
func (r *ring) describe(h *Header, path string) {
	r.word(ringAtPID).Store(uint64(h.PID))
	r.word(ringAtMonoStart).Store(uint64(h.MonoStartNS))
	r.word(ringAtWallStart).Store(uint64(h.WallStartNS))
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if len(path) <= ringMaxPath {
		copy(r.header[ringAtPath:], path)
		r.word(ringAtPathBytes).Store(uint64(len(path)))
	}
}

// DefaultPath returns where a recording goes that was given no path: a file of
// the folder for temporary files, named for this process and the UTC time.
//
// Source: reference lct-v1.md, section 6.2.
func DefaultPath(unixNS int64) string {
	name := fmt.Sprintf("lmcache-trace-%d-%s.lct", os.Getpid(), time.Unix(0, unixNS).UTC().Format("20060102-150405"))
	return filepath.Join(tempDir(), name)
}

// tempDir returns the first folder in which a file can be created.
func tempDir() string {
	here, err := os.Getwd()
	if err != nil {
		here = "."
	}
	for _, dir := range []string{os.Getenv("TMPDIR"), os.Getenv("TEMP"), os.Getenv("TMP"), "/tmp", "/var/tmp", "/usr/tmp"} {
		if dir == "" {
			continue
		}
		f, err := os.CreateTemp(dir, "lmcache-*")
		if err != nil {
			continue
		}
		f.Close()
		os.Remove(f.Name())
		if abs, err := filepath.Abs(dir); err == nil {
			return abs
		}
	}
	return here
}
