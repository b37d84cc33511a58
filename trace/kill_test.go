package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/internal/raceflag"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/mmapio"
)

// TestKilledRecorder kills processes that record from several goroutines, at
// random moments: while they create the file, record, grow the file, and close.
// After the repair every call that had returned is there, in its goroutine's
// order, once; and nothing else but one call a goroutine that had not.
//
// LMCACHE_KILL_ROUNDS and LMCACHE_KILL_SEED change how often, and which moments.
func TestKilledRecorder(t *testing.T) {
	if dir := os.Getenv("LMCACHE_KILL_CHILD"); dir != "" {
		killedChild(dir)
		return
	}
	rounds, seed := 200, uint64(1)
	if testing.Short() || raceflag.Enabled {
		rounds = 20
	}
	if s := os.Getenv("LMCACHE_KILL_ROUNDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		rounds = n
	}
	if s := os.Getenv("LMCACHE_KILL_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	rnd := rand.New(rand.NewPCG(seed, 0))
	sum := map[string]int{}
	for round := range rounds {
		p := killPlan{
			Goroutines: 1 + rnd.IntN(5),
			RingBytes:  []int{4 << 10, 64 << 10, 1 << 20, 8 << 20}[rnd.IntN(4)],
			BlockBytes: []int64{4 << 10, 0}[rnd.IntN(2)],
			Drop:       rnd.IntN(4) == 0,
			Seed:       rnd.Uint64(),
			Procs:      1 << rnd.IntN(4),
		}
		switch moment := rnd.IntN(20); {
		case moment == 0:
			p.when, p.after = 0, time.Duration(rnd.IntN(20_000))*time.Microsecond // since it was started
		case moment < 7:
			p.Calls, p.when, p.after = 1+rnd.IntN(3000), phaseClosing, time.Duration(rnd.ExpFloat64()*float64(2*time.Millisecond))
		case moment < 12:
			p.when, p.grow, p.after = phaseRecording, true, time.Duration(rnd.IntN(500))*time.Microsecond
		default:
			p.when, p.after = phaseRecording, time.Duration(rnd.IntN(40_000))*time.Microsecond
		}
		if err := p.run(t, sum); err != nil {
			t.Fatalf("round %d of seed %d, %+v: %v", round, seed, p, err)
		}
	}
	t.Logf("%d rounds: %v", rounds, sum)
	if rounds >= 100 && (sum["found by the ring alone"] == 0 || sum["killed while closing"] == 0) {
		t.Errorf("the kills did not come at the moments that matter: %v", sum)
	}
}

// killPlan is one round: what the child does, and when it is killed.
type killPlan struct {
	Goroutines int
	RingBytes  int
	BlockBytes int64
	Drop       bool // calls that find no room are dropped
	Calls      int  // of each goroutine before Close; endless if 0
	Seed       uint64
	Procs      int // GOMAXPROCS of the child: shards of its ring

	when  byte          // phase to wait for
	grow  bool          // and then for the file to grow
	after time.Duration // and then so long
}

// What a child writes to its standard output, a byte each.
const (
	phaseRecording = 'r'
	phaseClosing   = 'c'
	phaseClosed    = 'd'
)

// killedArgs are the arguments of call i of goroutine g.
func killedArgs(p *killPlan, g, i int) (Op, *Args) {
	rnd := rand.New(rand.NewPCG(p.Seed^uint64(g), uint64(i)))
	a := &Args{Keys: make([]kv.ObjectKey, 1+rnd.IntN(12))}
	scope := kv.Scope(0)
	if i%64 == 1 { // definitions must be in time too
		scope = mustScope(fmt.Sprintf("model-%d", rnd.IntN(50)), "")
	}
	for k := range a.Keys {
		key := kv.ObjectKey{Rank: uint64(i), Group: uint32(g), Scope: scope, HashLen: kv.MaxHash}
		for b := 0; b < kv.MaxHash; b += 8 {
			binary.LittleEndian.PutUint64(key.Hash[b:], rnd.Uint64())
		}
		a.Keys[k] = key
	}
	switch i % 3 {
	case 0:
		return OpFinishWrite, a
	case 1:
		a.Layout, a.Mode = mustLayout([][]int64{{2, int64(1 + rnd.IntN(9)), 256, 1024}}, "torch.bfloat16"), kv.WriteMode(i&1)
		return OpReserveWrite, a
	}
	a.Count = int64(i)
	return OpFinishReadPrefetched, a
}

// killedOutcome is what comes of call i.
func killedOutcome(i int) *Outcome { return &Outcome{Counts: [MaxCounts]uint32{uint32(i) & 0xffff}} }

// killedChild records until it is killed. After each call that has returned it
// writes how many calls its goroutine has made to a file.
func killedChild(dir string) {
	must := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
	}
	var p killPlan
	_, err := fmt.Sscan(os.Getenv("LMCACHE_KILL_PLAN"), &p.Goroutines, &p.RingBytes, &p.BlockBytes, &p.Drop, &p.Calls, &p.Seed)
	must(err)
	acks, err := os.OpenFile(filepath.Join(dir, "acks"), os.O_WRONLY|os.O_CREATE, 0o600)
	must(err)
	opt := Options{RingDir: os.Getenv("LMCACHE_KILL_RING"), RingBytes: p.RingBytes, BlockBytes: p.BlockBytes, Overflow: OverflowBlock}
	if p.Drop {
		opt.Overflow = OverflowDrop
	}
	r, err := Create(filepath.Join(dir, "a.lct"), opt)
	must(err)
	os.Stdout.Write([]byte{phaseRecording})
	var wg sync.WaitGroup
	for g := range p.Goroutines {
		wg.Go(func() {
			var ack [8]byte
			for i := 0; p.Calls == 0 || i < p.Calls; i++ {
				op, a := killedArgs(&p, g, i)
				r.Outcome(r.Call(op, a), killedOutcome(i))
				binary.LittleEndian.PutUint64(ack[:], uint64(i+1))
				_, err := acks.WriteAt(ack[:], int64(8*g))
				must(err)
			}
		})
	}
	wg.Wait()
	os.Stdout.Write([]byte{phaseClosing})
	must(r.Close())
	os.Stdout.Write([]byte{phaseClosed})
	time.Sleep(time.Minute) // the kill comes first
}

func (p *killPlan) run(t *testing.T, sum map[string]int) error {
	dir := t.TempDir()
	ringDir, err := os.MkdirTemp("/dev/shm", "lmcache-test-")
	if err != nil {
		ringDir = dir
	}
	defer os.RemoveAll(ringDir)
	path := filepath.Join(dir, "a.lct")
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledRecorder$")
	cmd.Env = append(os.Environ(), "LMCACHE_KILL_CHILD="+dir, "LMCACHE_KILL_RING="+ringDir, fmt.Sprintf("GOMAXPROCS=%d", p.Procs),
		fmt.Sprintf("LMCACHE_KILL_PLAN=%d %d %d %t %d %d", p.Goroutines, p.RingBytes, p.BlockBytes, p.Drop, p.Calls, p.Seed))
	cmd.Stderr = os.Stderr
	phases, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	phase := make([]byte, 1)
	for phase[0] != p.when && err == nil {
		_, err = phases.Read(phase)
	}
	if p.grow {
		awaitGrowth(path)
	}
	time.Sleep(p.after) // a random moment of a process that nothing here can step
	cmd.Process.Kill()
	for err == nil {
		var n int
		if n, err = phases.Read(phase[:1]); n == 0 {
			break
		}
	}
	last := phase[0]
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() > 0 {
		return fmt.Errorf("the child ended: %v", err)
	}
	return p.check(dir, path, last, sum)
}

// awaitGrowth returns when the file has become longer, or a while has passed.
func awaitGrowth(path string) {
	size := func() int64 {
		if info, err := os.Stat(path); err == nil {
			return info.Size()
		}
		return 0
	}
	first, deadline := size(), time.Now().Add(100*time.Millisecond)
	for size() == first && time.Now().Before(deadline) {
	}
}

// check repairs what the child left and compares it with what was acknowledged.
func (p *killPlan) check(dir, path string, phase byte, sum map[string]int) error {
	acked := make([]int, p.Goroutines)
	total := 0
	words, err := os.ReadFile(filepath.Join(dir, "acks"))
	if err != nil && phase != 0 {
		return err
	}
	for g := range acked {
		if len(words) >= 8*(g+1) {
			acked[g] = int(binary.LittleEndian.Uint64(words[8*g:]))
			total += acked[g]
		}
	}
	out := filepath.Join(dir, "b.lct")
	rep, err := RepairNative(path, out)
	if err != nil {
		if total == 0 && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotNative) || errors.Is(err, ErrTruncatedHeader)) {
			sum["killed before there was a file"]++
			return nil
		}
		return err
	}
	if !rep.Complete() || len(rep.Damage) > 0 {
		return fmt.Errorf("the repair says %+v, ring %+v", rep, rep.Ring)
	}
	switch phase {
	case phaseClosing:
		sum["killed while closing"]++
	case phaseClosed:
		sum["killed after closing"]++
	default:
		sum["killed while recording"]++
	}
	if rep.Ring != nil {
		sum["records from the ring"] += int(rep.Ring.Recovered)
		sum["records in both"] += int(rep.Ring.Moved)
		sum["holes"] += int(rep.Ring.Holes)
		if rep.Ring.Recovered > 0 {
			sum["found by the ring alone"]++
		}
	}
	sum["records"] += int(rep.Records())

	r, err := OpenNative(out, func(m string) { err = errors.Join(err, errors.New(m)) })
	if err != nil {
		return err
	}
	defer r.Close()
	next := make([]int, p.Goroutines) // number of its call that was seen last, + 1
	var a Args
	records, seq := int64(0), uint64(0)
	outcomes := map[uint64]int64{} // first count by sequence number
	r.OnOutcome(func(o *OutcomeRecord) {
		if _, twice := outcomes[o.Seq]; twice {
			err = errors.Join(err, fmt.Errorf("call %d has two outcomes", o.Seq))
		}
		outcomes[o.Seq] = o.Counts[0]
	})
	calls := map[uint64]int{} // numbers in their goroutine, by sequence number
	for ; r.Next(); records++ {
		rec := r.Record()
		if err := r.Args(&a); err != nil {
			return err
		}
		g, i := int(a.Keys[0].Group), int(a.Keys[0].Rank)
		if g >= p.Goroutines || i < next[g] || i > next[g] && !p.Drop {
			return fmt.Errorf("record %d is call %d of goroutine %d; want call %d", records, i, g, next[g])
		}
		next[g] = i + 1
		op, want := killedArgs(p, g, i)
		if rec.Op != op || !reflect.DeepEqual(plain(&a), plain(want)) {
			return fmt.Errorf("call %d of goroutine %d: got %v %+v; want %v %+v", i, g, rec.Op, a, op, want)
		}
		if rec.Seq < seq {
			return fmt.Errorf("record %d has number %d after %d", records, rec.Seq, seq)
		}
		seq = rec.Seq + 1
		calls[rec.Seq] = i
	}
	if err := errors.Join(err, r.Err()); err != nil || !r.Sealed() {
		return fmt.Errorf("the repaired file: sealed %t: %w", r.Sealed(), err)
	}
	if records != rep.Records() {
		return fmt.Errorf("%d records, the repair says %d", records, rep.Records())
	}
	for g, n := range next {
		if n > acked[g]+1 || !p.Drop && n < acked[g] {
			return fmt.Errorf("goroutine %d: %d calls found, %d had returned", g, n, acked[g])
		}
	}
	// Every call that has returned is a record or a counted drop; a goroutine
	// may have been killed with one more.
	if all := records + rep.Dropped; all < int64(total) || all > int64(total+p.Goroutines) {
		return fmt.Errorf("%d records and %d drops of %d calls", records, rep.Dropped, total)
	}
	sum["dropped"] += int(rep.Dropped)
	s, err := SummarizeNative(out, nil)
	if err != nil {
		return err
	}
	for seq, n := range outcomes {
		if i, ok := calls[seq]; !ok || n != int64(killedOutcome(i).Counts[0]) {
			return fmt.Errorf("outcome of call %d counts %d; the call is number %d of its goroutine, %t", seq, n, i, ok)
		}
	}
	sum["outcomes"] += len(outcomes)
	sum["lost outcomes"] += int(s.LostOutcomes)
	// The outcome of every call but the last of a goroutine had returned too.
	if all := int64(len(outcomes)) + s.LostOutcomes; all < records-int64(p.Goroutines) || all > records {
		return fmt.Errorf("%d records, %d outcomes and %d lost", records, len(outcomes), s.LostOutcomes)
	}
	if s.Dropped != rep.Dropped || s.Lost > s.Dropped || !s.Sealed {
		return fmt.Errorf("summary: %s, the repair says %d dropped", s.Completeness(), rep.Dropped)
	}
	if used, err := mmapio.InUse(path); used || err != nil {
		return fmt.Errorf("in use: %t, %v", used, err)
	}
	return nil
}
