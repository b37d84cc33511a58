package trace

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/internal/raceflag"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/mmapio"
)

// TestRecorderMemory has a process record some hundred MB of new hashes: from a
// few blocks on, neither its resident memory nor its address space grows with
// the file.
func TestRecorderMemory(t *testing.T) {
	if path := os.Getenv("LMCACHE_MEMORY_CHILD"); path != "" {
		memoryChild(path)
		return
	}
	if raceflag.Enabled {
		t.Skip("the race detector's memory is another")
	}
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestRecorderMemory$")
	cmd.Env = append(os.Environ(), "LMCACHE_MEMORY_CHILD="+filepath.Join(t.TempDir(), "m.lct"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var size, rss [2]int64 // kB, before and after
	var written int64
	if _, err := fmt.Sscan(string(out), &size[0], &rss[0], &size[1], &rss[1], &written); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("%d MB written: address space %d to %d kB, resident %d to %d kB", written>>20, size[0], size[1], rss[0], rss[1])
	if written < memoryChildBytes {
		t.Errorf("%d bytes written", written)
	}
	// The window may be filled now, and was perhaps empty before.
	const slack = 4 << 10
	if grown := size[1] - size[0]; grown > slack {
		t.Errorf("the address space grew by %d kB", grown)
	}
	if grown := rss[1] - rss[0]; grown > memoryChildWindow>>10+slack {
		t.Errorf("resident memory grew by %d kB", grown)
	}
}

const (
	memoryChildBytes  = 256 << 20
	memoryChildWindow = 4 << 20
)

// memoryChild records, and prints its size and resident memory after the first
// eighth of the file, the same at its end, and how long that is.
func memoryChild(path string) {
	must := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
	}
	var file *mmapio.Appender
	r, err := Create(path, Options{
		RingBytes: 1 << 20, Overflow: OverflowBlock, RingDir: filepath.Dir(path),
		NewFile: func(path string, h *Header) (_ FrameWriter, err error) {
			if file, err = mmapio.Create(path, mmapio.AppenderOptions{WindowBytes: memoryChildWindow, StepBytes: 1 << 20}); err != nil {
				return nil, err
			}
			return newWriter(file, h, writerOptions{BlockBytes: 4 << 20})
		},
	})
	must(err)
	a := &Args{Keys: make([]kv.ObjectKey, 32)}
	n := uint64(0)
	record := func(bytes int) {
		for to := n + uint64(bytes/kv.MaxHash); n < to; {
			for k := range a.Keys {
				n++
				a.Keys[k].HashLen = kv.MaxHash
				binary.LittleEndian.PutUint64(a.Keys[k].Hash[:], n*0x9e3779b97f4a7c15)
			}
			r.Outcome(r.Call(OpFinishWrite, a), new(Outcome))
		}
	}
	record(memoryChildBytes / 8)
	fmt.Println(processMemory())
	record(memoryChildBytes)
	fmt.Println(processMemory())
	must(r.Close())
	info, err := os.Stat(path)
	must(err)
	fmt.Println(info.Size())
	os.Exit(0)
}

// processMemory returns VmSize and VmRSS in kB.
func processMemory() (size, rss int64) {
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		fmt.Sscanf(line, "VmSize: %d kB", &size)
		fmt.Sscanf(line, "VmRSS: %d kB", &rss)
	}
	return size, rss
}
