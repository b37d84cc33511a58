package l1

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lmcache/lmcache-go/mmapio"
)

// poolName returns a name that nobody else has.
func poolName(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat(PoolDir); err != nil {
		t.Skip("no shared memory here:", err)
	}
	name := fmt.Sprintf("lmcache_l1_pool_test_%d_%s", os.Getpid(), t.Name())
	t.Cleanup(func() { os.Remove(filepath.Join(PoolDir, name)) })
	return name
}

func TestPool(t *testing.T) {
	const size = 5368709 // no whole number of pages
	name := poolName(t)
	p, replaced, err := NewPool(name, size)
	if err != nil || replaced {
		t.Fatal(replaced, err)
	}
	path := filepath.Join(PoolDir, name)
	info, err := os.Stat(path)
	if err != nil || info.Size() != size || info.Mode() != 0o600 {
		t.Fatal(info, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Blocks*512 < size {
		t.Errorf("%d blocks are allocated, %v", st.Blocks, err)
	}
	client, err := mmapio.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	copy(p.View(size-5, 5), "hello")
	if got := string(client.Bytes()[size-5:]); got != "hello" {
		t.Errorf("a client reads %q", got)
	}

	var inUse *PoolInUseError
	if _, _, err := NewPool(name, size); !errors.As(err, &inUse) {
		t.Errorf("a second pool of the name: %v", err)
	}
	if err := errors.Join(p.Close(), p.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close: %v", err)
	}
	if got := string(client.Bytes()[size-5:]); got != "hello" {
		t.Errorf("a client that stays reads %q", got)
	}
}

func TestPoolLeftBehind(t *testing.T) {
	name := poolName(t)
	path := filepath.Join(PoolDir, name)
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := mmapio.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	var inUse *PoolInUseError
	if _, _, err := NewPool(name, 1<<20); !errors.As(err, &inUse) || !slices.Equal(inUse.PIDs, []int{os.Getpid()}) {
		t.Errorf("a file that is mapped: %v", err)
	}
	if !strings.Contains(fmt.Sprint(inUse), fmt.Sprint(os.Getpid())) {
		t.Errorf("message %q does not name the process", inUse)
	}
	client.Close()
	p, replaced, err := NewPool(name, 1<<20)
	if err != nil || !replaced {
		t.Fatal(replaced, err)
	}
	p.Close()
}

func TestPoolTooLarge(t *testing.T) {
	name := poolName(t)
	_, _, err := NewPool(name, 1<<46)
	var space *mmapio.SpaceError
	if !errors.As(err, &space) && !errors.Is(err, unix.ENOMEM) { // without address space it cannot even be mapped
		t.Errorf("64 TiB: %v", err)
	}
	if _, err := os.Stat(filepath.Join(PoolDir, name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a pool that could not be is left behind: %v", err)
	}
	for _, name := range []string{"", ".", "..", "a/b", "/a"} {
		if _, _, err := NewPool(name, 4096); err == nil {
			t.Errorf("name %q is taken", name)
		}
	}
}

// TestPoolOfAKilledServer kills the process that holds a pool.
func TestPoolOfAKilledServer(t *testing.T) {
	const holder = "LMCACHE_TEST_HOLD_POOL"
	if name := os.Getenv(holder); name != "" {
		if _, _, err := NewPool(name, 1<<20); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("held")
		select {}
	}
	name := poolName(t)
	cmd := exec.Command(os.Args[0], "-test.run", "^TestPoolOfAKilledServer$")
	cmd.Env = append(os.Environ(), holder+"="+name)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	line := make([]byte, 5)
	if n, _ := out.Read(line); string(line[:n]) != "held\n" {
		t.Fatalf("holder says %q", line[:n])
	}
	var inUse *PoolInUseError
	if _, _, err := NewPool(name, 1<<20); !errors.As(err, &inUse) {
		t.Errorf("beside a server that runs: %v", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	p, replaced, err := NewPool(name, 1<<20)
	if err != nil || !replaced {
		t.Fatal(replaced, err)
	}
	p.Close()
}
