package mmapio_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/lmcache/lmcache-go/mmapio"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func writeFile(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMappingForgets gives pages back and reads them again.
func TestMappingForgets(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), os.Getpagesize())
	m, err := mmapio.Open(writeFile(t, data))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, r := range [][2]int64{{0, int64(len(data))}, {-5, 1 << 40}, {5, 6}, {9, 3}} {
		if m.Forget(r[0], r[1]); !bytes.Equal(m.Bytes(), data) {
			t.Fatalf("Forget(%d, %d): the bytes changed", r[0], r[1])
		}
	}
}

func TestMappingFollowsAGrowingFile(t *testing.T) {
	path := writeFile(t, nil)
	m, err := mmapio.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(m.Bytes()); got != 0 {
		t.Errorf("empty file: %d bytes; want 0", got)
	}
	if grown, err := m.Remap(); grown || err != nil {
		t.Errorf("Remap of an unchanged file: %t, %v", grown, err)
	}
	want := bytes.Repeat([]byte("0123456789abcdef"), 1000)
	if err := os.WriteFile(path, want, 0o644); err != nil {
		t.Fatal(err)
	}
	if grown, err := m.Remap(); !grown || err != nil {
		t.Errorf("Remap of a longer file: %t, %v", grown, err)
	}
	if !bytes.Equal(m.Bytes(), want) {
		t.Error("the mapping does not show the file")
	}
	if err := os.Truncate(path, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Remap(); !errors.Is(err, mmapio.ErrShrunk) {
		t.Errorf("Remap of a shorter file: %v; want ErrShrunk", err)
	}
	for range 2 {
		if err := m.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	if _, err := mmapio.Open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := mmapio.Open(t.TempDir()); !errors.Is(err, unix.EISDIR) {
		t.Errorf("folder: %v", err)
	}
	pipe := filepath.Join(t.TempDir(), "pipe") // that nobody writes: opening it must not wait
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Skip(err)
	}
	if _, err := mmapio.Open(pipe); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("pipe: %v", err)
	}
}

func TestGuardTurnsAShrunkFileIntoAnError(t *testing.T) {
	page := os.Getpagesize()
	path := writeFile(t, make([]byte, 3*page))
	m, err := mmapio.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := os.Truncate(path, int64(page)); err != nil {
		t.Fatal(err)
	}
	var sum byte
	for range 2 { // the guard can be used again after a fault
		err = mmapio.Guard(func() { sum += m.Bytes()[2*page+8] })
		var fault *mmapio.FaultError
		if !errors.As(err, &fault) {
			t.Fatalf("read beyond the end: %v; want a FaultError", err)
		}
		if want := int64(2*page + 8); fault.Offset != want || fault.Path != path {
			t.Errorf("fault in %s at %d; want %s at %d", fault.Path, fault.Offset, path, want)
		}
	}
	if err := mmapio.Guard(func() { sum += m.Bytes()[8] }); err != nil {
		t.Errorf("read of what is left: %v", err)
	}
}

func TestGuardLetsOtherPanicsPass(t *testing.T) {
	for name, f := range map[string]func(){
		"own panic":   func() { panic("mine") },
		"nil pointer": func() { var p *[4]int; p[2]++ },
		"index":       func() { s := make([]int, 1); i := 1; s[i]++ },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: swallowed", name)
				}
			}()
			t.Errorf("%s: Guard returned %v", name, mmapio.Guard(f))
		}()
	}
}

func TestWordsAreChecked(t *testing.T) {
	b := make([]byte, 16)
	mmapio.Uint64(b, 8).Store(7)
	if got := mmapio.Uint64(b, 8).Load(); got != 7 {
		t.Errorf("got %d; want 7", got)
	}
	for name, f := range map[string]func(){
		"misaligned 64": func() { mmapio.Uint64(b, 4) },
		"misaligned 32": func() { mmapio.Uint32(b, 2) },
		"over the end":  func() { mmapio.Uint64(b, 16) },
		"before":        func() { mmapio.Uint32(b, -4) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

// small makes every boundary come soon: windows and steps of one page.
var small = mmapio.AppenderOptions{HeadBytes: 1, WindowBytes: 1, StepBytes: 1}

func TestAppenderWritesWhatWasPublished(t *testing.T) {
	for _, opt := range []mmapio.AppenderOptions{small, {}} {
		path := writeFile(t, []byte(strings.Repeat("old", 100_000)))
		a, err := mmapio.Create(path, opt)
		if err != nil {
			t.Fatal(err)
		}
		want := append([]byte(nil), make([]byte, len(a.Head()))...)
		copy(a.Head(), "head")
		copy(want, "head")
		sizes := []int{1, 8, 24, 4096, 4095, 100_000, 7, 64}
		for round := range 40 {
			for _, n := range sizes {
				if a.Offset() != int64(len(want)) {
					t.Fatalf("offset %d; want %d", a.Offset(), len(want))
				}
				if round%7 == 3 { // asked for, dirtied, never published
					b, err := a.Next(n + 16)
					if err != nil {
						t.Fatal(err)
					}
					for i := range b {
						b[i] = 0xff
					}
				}
				b, err := a.Next(n)
				if err != nil {
					t.Fatal(err)
				}
				if len(b) != (n+7)&^7 {
					t.Fatalf("Next(%d) gave %d bytes", n, len(b))
				}
				if len(bytes.Trim(b, "\x00")) != 0 {
					t.Fatalf("Next(%d) at %d is not zero", n, a.Offset())
				}
				for i := range b[4:] {
					b[4+i] = byte(round)
				}
				a.Publish(uint32(n))
				want = append(want, byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
				want = append(want, bytes.Repeat([]byte{byte(round)}, len(b)-4)...)
			}
		}
		if _, err := a.Next(1000); err != nil { // left over: Close drops it
			t.Fatal(err)
		}
		if err := a.Sync(); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := a.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("options %+v: file of %d bytes differs from the %d that were published", opt, len(got), len(want))
		}
	}
}

func TestAppenderIsExclusive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	a, err := mmapio.Create(path, small)
	if err != nil {
		t.Fatal(err)
	}
	copy(a.Head(), "first")
	if _, err := mmapio.Create(path, small); !errors.Is(err, mmapio.ErrInUse) {
		t.Errorf("second Create: %v; want ErrInUse", err)
	}
	if string(a.Head()[:5]) != "first" {
		t.Error("the second Create changed the file")
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := mmapio.Create(path, small)
	if err != nil {
		t.Fatalf("Create after Close: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

func TestCreateFailsBeforeAnythingIsWritten(t *testing.T) {
	if _, err := mmapio.Create(filepath.Join(t.TempDir(), "no", "such", "folder"), small); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing folder: %v", err)
	}
	if _, err := mmapio.Create(t.TempDir(), small); err == nil {
		t.Error("a folder was opened for writing")
	}
	if _, err := mmapio.Create(os.DevNull, small); err == nil {
		t.Error("a device was opened for appending")
	}
}

// limitFileSize stands in for a full disk: an allocation beyond it fails.
func limitFileSize(t *testing.T, bytes uint64) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: bytes, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
			t.Error(err)
		}
	})
}

func TestAppenderOutOfSpace(t *testing.T) {
	page := os.Getpagesize()
	limit := 20 * page
	limitFileSize(t, uint64(limit))
	path := filepath.Join(t.TempDir(), "out")
	a, err := mmapio.Create(path, mmapio.AppenderOptions{HeadBytes: page, StepBytes: 8 * page})
	if err != nil {
		t.Fatal(err)
	}
	const frame = 1000
	var failed error
	for failed == nil {
		if _, failed = a.Next(frame); failed == nil {
			a.Publish(1)
		}
		if a.Offset() > int64(limit) {
			t.Fatal("went beyond the limit")
		}
	}
	var space *mmapio.SpaceError
	if !errors.As(failed, &space) || !errors.Is(failed, syscall.EFBIG) {
		t.Fatalf("got %v; want a SpaceError that wraps EFBIG", failed)
	}
	if free := int64(limit) - a.Offset(); free >= frame {
		t.Errorf("gave up with %d bytes left: the last step must shrink to what is there", free)
	}
	if _, err := a.Next(8); err != nil && int64(limit)-a.Offset() >= 8 {
		t.Errorf("a smaller region: %v", err)
	}
	end := a.Offset()
	if err := a.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != end {
		t.Errorf("size %d, %v; want %d", info.Size(), err, end)
	}
}

func TestShared(t *testing.T) {
	dir := t.TempDir()
	page := os.Getpagesize()
	s, err := mmapio.CreateShared(dir, "ring", int64(8*page), int64(page))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mmapio.CreateShared(dir, "ring", int64(page), 0); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second file of the name: %v; want exists", err)
	}
	copy(s.Bytes(), "here")
	if err := s.Allocate(int64(4*page), int64(page)); err != nil {
		t.Fatal(err)
	}
	copy(s.Bytes()[4*page:], "there")
	got, err := os.ReadFile(s.Path()) // what another process sees
	if err != nil || len(got) != 8*page || string(got[:4]) != "here" || string(got[4*page:4*page+5]) != "there" {
		t.Errorf("file of %d bytes, %v", len(got), err)
	}
	s.Discard(0, int64(8*page))
	if s.Bytes()[0] != 0 {
		t.Error("discarded memory keeps its contents")
	}
	for range 2 {
		if err := s.Remove(); err != nil {
			t.Errorf("Remove: %v", err)
		}
	}
	if _, err := os.Stat(s.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Remove: %v", err)
	}
	s.Bytes()[1] = 1 // still mapped
	for range 2 {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if err := s.Allocate(0, 1); err == nil {
		t.Error("Allocate after Close succeeded")
	}
}

func TestReserveMoreThanTheMachineHas(t *testing.T) {
	const tib = 1 << 40
	r, err := mmapio.Reserve(tib)
	if err != nil {
		t.Fatal(err)
	}
	b := r.Bytes()
	if len(b) != tib {
		t.Fatalf("%d bytes; want %d", len(b), tib)
	}
	b[0], b[tib/2], b[tib-1] = 1, 2, 3
	if err := r.Release(tib/2-100, 1<<20); err != nil {
		t.Error(err)
	}
	if b[0] != 1 || b[tib/2] != 0 || b[tib-1] != 3 {
		t.Errorf("got %d %d %d; want 1 0 3", b[0], b[tib/2], b[tib-1])
	}
	for range 2 {
		if err := r.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if _, err := mmapio.Reserve(0); err == nil {
		t.Error("reserved nothing")
	}
}

// BenchmarkAppend appends frames of one traced call of 1 and of 32 keys; the
// floor copies the same bytes to memory that is present.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{96, 1104} {
		frame := bytes.Repeat([]byte{1}, size)
		name := map[int]string{96: "frame=96", 1104: "frame=1104"}[size]
		b.Run(name+"/to=memory", func(b *testing.B) {
			mem := make([]byte, 64<<20)
			clear(mem)
			off := 0
			b.SetBytes(int64(size))
			for b.Loop() {
				if off+size > len(mem) {
					off = 0
				}
				copy(mem[off:], frame)
				off += size
			}
		})
		b.Run(name+"/to=file", func(b *testing.B) {
			a, err := mmapio.Create(filepath.Join(b.TempDir(), "out"), mmapio.AppenderOptions{})
			if err != nil {
				b.Fatal(err)
			}
			defer a.Close()
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				region, err := a.Next(size)
				if err != nil {
					b.Fatal(err)
				}
				copy(region[4:], frame[4:])
				a.Publish(1)
			}
		})
	}
}

// TestAppenderByteByByte writes a file without head and alignment, over several
// windows: what Room gave and Advance passed is in it, what was stored behind is
// not.
func TestAppenderByteByByte(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	page := os.Getpagesize()
	a, err := mmapio.Create(path, mmapio.AppenderOptions{HeadBytes: -1, WindowBytes: 4 * page, StepBytes: page})
	if err != nil {
		t.Fatal(err)
	}
	if a.Offset() != 0 || len(a.Head()) != 0 {
		t.Errorf("offset %d, head of %d bytes; want none", a.Offset(), len(a.Head()))
	}
	var want []byte
	for n := 1; len(want) < 20*page; n = n*5%(3*page) + 1 {
		b, err := a.Room(n + 4)
		if err != nil {
			t.Fatal(err)
		}
		part := bytes.Repeat([]byte{byte(n)}, n)
		copy(b, part)
		copy(b[n:], "tail")
		if len(want) > 0 {
			if before, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(before, want) {
				t.Fatalf("after %d bytes: the file differs, %v", len(want), err)
			}
		}
		a.Advance(n)
		want = append(want, part...)
	}
	if _, err := a.Room(0); err == nil {
		t.Error("Room(0): got no error")
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, %v; want %d others", len(got), err, len(want))
	}
	if _, err := a.Room(1); err == nil {
		t.Error("Room after Close: got no error")
	}
}
