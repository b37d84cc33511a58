package fs_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/l2test"
)

// files returns the names in a folder and their sizes, one a line.
func files(t testing.TB, folder string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went meanwhile
		}
		if err == nil {
			name, _ := filepath.Rel(folder, path)
			fmt.Fprintf(&b, "%s %d\n", name, info.Size())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func object(t testing.TB, n int) l2.Object { return l2test.Object(l2test.Key(t, n, "m", ""), 5000) }

// pathOf is the file of an object in a folder that has no other.
func pathOf(t testing.TB, folder string) string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(folder, "*.data"))
	if err != nil || len(list) != 1 {
		t.Fatalf("files %v, %v; want one", list, err)
	}
	return list[0]
}

// manifest is what interop/folder.py writes and reads.
func manifest(t testing.TB, path string) (out []l2.Object) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []struct {
		Hash, Model, Salt string
		Rank              uint64
		Group             uint32
		Size              int
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		t.Fatal(err)
	}
	for n, o := range list {
		hash, err := hex.DecodeString(o.Hash)
		if err != nil {
			t.Fatal(err)
		}
		scope, err := kv.InternScope(o.Model, o.Salt)
		if err != nil {
			t.Fatal(err)
		}
		k, err := kv.NewObjectKey(hash, scope, o.Rank, o.Group)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, o.Size)
		for i := range b {
			b[i] = byte(31*i + 7*n + i/256)
		}
		out = append(out, l2.Object{Key: k, Bytes: b})
	}
	return out
}

// folders are those that LMCache 0.5.6 wrote (interop/folder.py), and how.
var folders = []struct {
	name   string
	native bool
	more   string
}{
	{"written-by-0.5.6", false, ``},
	{"written-by-0.5.6", true, ``},
	{"written-by-0.5.6", false, `, "use_odirect": true`},
	{"written-by-0.5.6", true, `, "use_odirect": true`},
	{"written-by-0.5.6-direct", true, `, "use_odirect": true`},
}

// What LMCache wrote is read, and what we write is the same, name for name and
// byte for byte.
func TestFolderOfLMCache(t *testing.T) {
	objects := manifest(t, "testdata/manifest.json")
	for _, f := range folders {
		theirs := t.TempDir()
		if err := os.CopyFS(theirs, os.DirFS(filepath.Join("testdata", f.name))); err != nil {
			t.Fatal(err)
		}
		r := l2test.NewRig(t, true, opener(f.native, theirs, f.more), false)
		r.MustLoad(objects...)
		if res := r.Store(objects...); res.Err != nil || res.Keys != 0 {
			t.Errorf("%s: store of what is there: %+v", f.name, res)
		}
		if strings.HasSuffix(f.name, "direct") != (f.native && f.more != "") {
			continue // written another way
		}
		ours := t.TempDir()
		r = l2test.NewRig(t, true, opener(f.native, ours, f.more), false)
		r.MustStore(objects...)
		if got, want := files(t, ours), files(t, theirs); got != want {
			t.Errorf("%s: ours\n%stheirs\n%s", f.name, got, want)
		}
		for _, path := range strings.Split(strings.TrimSpace(files(t, ours)), "\n") {
			name := path[:strings.LastIndexByte(path, ' ')]
			got, _ := os.ReadFile(filepath.Join(ours, name))
			want, _ := os.ReadFile(filepath.Join(theirs, name))
			if f.name != "written-by-0.5.6" { // what pads a file is not part of the object
				size := map[string]int{"a-b": 300, "m@0": 1, "met": 4096}[name[:3]]
				got, want = got[:size], want[:size]
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s: %s has other bytes", f.name, name)
			}
		}
	}
}

// TestExchange is one side of make interop: it reads, or writes, the folder of
// LMCACHE_FS_FOLDER.
func TestExchange(t *testing.T) {
	folder, action := os.Getenv("LMCACHE_FS_FOLDER"), os.Getenv("LMCACHE_FS_ACTION")
	if folder == "" {
		t.Skip("LMCACHE_FS_FOLDER is not set")
	}
	native := os.Getenv("LMCACHE_FS_NATIVE") != ""
	r := l2test.NewRig(t, false, opener(native, folder, os.Getenv("LMCACHE_FS_FIELDS")), false)
	objects := manifest(t, "testdata/manifest.json")
	if action == "write" {
		r.MustStore(objects...)
	}
	r.MustLoad(objects...)
}

// A file of another size is a miss and goes; what it was is stored again.
func TestTornFiles(t *testing.T) {
	for _, more := range []string{``, `, "use_odirect": true`, `, "max_capacity_gb": 1`} {
		folder := t.TempDir()
		r := l2test.NewRig(t, true, opener(false, folder, more), false)
		o := object(t, 1)
		for _, size := range []int64{0, 1, 4096, 4999, 5001, 8000} {
			r.MustStore(o)
			if err := os.Truncate(pathOf(t, folder), size); err != nil {
				t.Fatal(err)
			}
			if loaded := r.Load(l2test.Blank(o)...); loaded.Count() != 0 {
				t.Errorf("an object of 5000 bytes was loaded from a file of %d", size)
			}
			if got := files(t, folder); got != "" {
				t.Errorf("a file of %d bytes stays:\n%s", size, got)
			}
			if more != `` && r.Usage().UsedBytes != 0 && more != `, "use_odirect": true` {
				t.Errorf("%d bytes used when the file is gone", r.Usage().UsedBytes)
			}
		}
		r.MustStore(o)
		r.MustLoad(o)
		path := pathOf(t, folder)
		for _, other := range []func() error{ // what is no file is a miss and stays
			func() error { return os.Mkdir(path, 0o777) },
			func() error { return unix.Mkfifo(path, 0o666) },
			func() error { return os.Symlink("/etc/passwd", path) },
		} {
			if err := errors.Join(os.Remove(path), other()); err != nil {
				t.Fatal(err)
			}
			if loaded := r.Load(l2test.Blank(o)...); loaded.Count() != 0 || r.Peek(o.Key).Count() != 0 {
				t.Error("an object was found in what is no file")
			}
		}
	}
}

// A folder that is deleted beneath the adapter is empty, and made again.
func TestFolderGoes(t *testing.T) {
	for _, more := range []string{``, `, "relative_tmp_dir": "t/u"`, `, "max_capacity_gb": 1`} {
		folder := filepath.Join(t.TempDir(), "a", "b")
		r := l2test.NewRig(t, true, opener(false, folder, more), false)
		o, p := object(t, 1), object(t, 2)
		r.MustStore(o)
		if err := os.RemoveAll(filepath.Dir(folder)); err != nil {
			t.Fatal(err)
		}
		if r.Peek(o.Key).Count() != 0 || r.Load(l2test.Blank(o)...).Count() != 0 || r.Delete(l2test.Keys(o)) != 0 {
			t.Error("an object is found in a folder that is gone")
		}
		r.MustStore(o, p)
		r.MustLoad(o, p)
	}
}

// A folder that turns into something else is an error a store, a miss a load.
func TestFolderIsAFile(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "a")
	r := l2test.NewRig(t, true, opener(false, folder, ``), false)
	o := object(t, 1)
	if err := errors.Join(os.RemoveAll(folder), os.WriteFile(folder, nil, 0o666)); err != nil {
		t.Fatal(err)
	}
	if res := r.Store(o); !errors.Is(res.Err, syscall.ENOTDIR) || res.Keys != 0 {
		t.Errorf("store: %+v; want %v", res, syscall.ENOTDIR)
	}
	if r.Load(l2test.Blank(o)...).Count() != 0 || r.Peek(o.Key).Count() != 0 {
		t.Error("found in what is no folder")
	}
	if _, err := opener(false, folder, ``)(l2.Env{Clock: clock.NewVirtual(0), Notify: func() {}}); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("open: %v; want %v", err, syscall.ENOTDIR)
	}
}

// One object that cannot be stored fails the task, not the others.
func TestOneFails(t *testing.T) {
	folder := t.TempDir()
	r := l2test.NewRig(t, true, opener(false, folder, ``), false)
	bad := l2test.Object(l2test.Key(t, 9, "a-SEP-b", ""), 100)
	if res := r.Store(object(t, 1), bad, object(t, 2)); res.Err == nil || res.Keys != 2 || res.Bytes != 10000 {
		t.Errorf("store of three, one of them without a name: %+v", res)
	}
	r.MustLoad(object(t, 1), object(t, 2))
	if r.Peek(bad.Key).Count()+r.Load(bad).Count()+r.Delete(l2test.Keys(bad)) != 0 {
		t.Error("what has no name is there")
	}
}

// TestFullAndReadOnly runs itself in a namespace where it may mount.
func TestFullAndReadOnly(t *testing.T) {
	if os.Getenv("LMCACHE_TEST_MOUNT") == "" {
		if exec.Command("unshare", "-rm", "mount", "-t", "tmpfs", "none", t.TempDir()).Run() != nil {
			t.Skip("no file system can be mounted here")
		}
		run := exec.Command("unshare", "-rm", os.Args[0], "-test.run", "^TestFullAndReadOnly$")
		run.Env = append(os.Environ(), "LMCACHE_TEST_MOUNT=1")
		if out, err := run.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	disk := t.TempDir()
	if err := unix.Mount("none", disk, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	r := l2test.NewRig(t, false, opener(false, filepath.Join(disk, "l2"), `, "relative_tmp_dir": "t"`), false)
	big, small := l2test.Object(l2test.Key(t, 1, "m", ""), 100_000), object(t, 2)
	if res := r.Store(big); !errors.Is(res.Err, syscall.ENOSPC) || res.Keys != 0 {
		t.Errorf("store into a full disk: %+v", res)
	}
	if got := files(t, disk); got != "" {
		t.Errorf("a store that failed leaves\n%s", got)
	}
	r.MustStore(small)
	if err := unix.Mount("none", disk, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	r.MustLoad(small)
	if res := r.Store(object(t, 3)); !errors.Is(res.Err, syscall.EROFS) {
		t.Errorf("store into a read-only folder: %+v", res)
	}
	if n := r.Delete(l2test.Keys(small)); n != 0 || r.Usage().UsedBytes != 5000 {
		t.Errorf("deleted %d from a read-only folder, %d bytes used", n, r.Usage().UsedBytes)
	}
	r2 := l2test.NewRig(t, false, opener(false, filepath.Join(disk, "l2"), `, "relative_tmp_dir": "t"`), false)
	r2.MustLoad(small) // it can be opened, too
	if err := errors.Join(r.Close(), r2.Close(), unix.Unmount(disk, 0)); err != nil {
		t.Fatal(err)
	}
}

// A process is killed in mid-store again and again: there is no half object,
// and the next start removes what it left.
func TestKilledWriter(t *testing.T) {
	if folder := os.Getenv("LMCACHE_TEST_WRITER"); folder != "" {
		r := l2test.NewRig(t, false, opener(false, folder, ``), false)
		fmt.Println("begin")
		for n := 0; ; n++ {
			r.Store(l2test.Object(l2test.Key(t, n, "m", ""), 1<<20))
		}
	}
	folder := t.TempDir()
	temps := func() []string {
		list, _ := filepath.Glob(filepath.Join(folder, "*.tmp"))
		return list
	}
	for range 5 {
		before := temps()
		run := exec.Command(os.Args[0], "-test.run", "^TestKilledWriter$")
		run.Env = append(os.Environ(), "LMCACHE_TEST_WRITER="+folder)
		out, err := run.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := run.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "it writes", func() bool {
			return slices.ContainsFunc(temps(), func(path string) bool { return !slices.Contains(before, path) })
		})
		if err := run.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = run.Wait()
	}
	r := l2test.NewRig(t, false, opener(false, folder, ``), false)
	stored := 0
	for n := 0; ; n++ {
		o := l2test.Object(l2test.Key(t, n, "m", ""), 1<<20)
		if r.Peek(o.Key).Count() == 0 {
			break
		}
		r.MustLoad(o)
		stored++
	}
	if got := strings.Count(files(t, folder), ".data "); got != stored {
		t.Errorf("%d objects in the folder, %d of them right", got, stored)
	}
	waitFor(t, "leftovers are removed", func() bool { return !strings.Contains(files(t, folder), ".tmp") })
}

func waitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !done(); {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// Temporary files that somebody may still write stay, and so does what is none.
func TestLeftovers(t *testing.T) {
	folder := t.TempDir()
	old := time.Now().Add(-time.Hour)
	stem := "m@0x01000100@0@00"
	for name, age := range map[string]bool{ // whether it is old
		stem + ".tmp":                               true,
		"m@0x01000100@0@01.tmp":                     false,
		stem + ".go-0123456789abcdef.tmp":           false,
		"m@0x01000100@0@02.go-0123456789abcdef.tmp": false,
		"notes.tmp":                                 true,
		"notes.go-0123456789abcdef.tmp":             true,
		stem + ".data":                              true,
	} {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte("x"), 0o666); err != nil {
			t.Fatal(err)
		}
		if age {
			if err := os.Chtimes(path, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	held, err := os.Open(filepath.Join(folder, "m@0x01000100@0@02.go-0123456789abcdef.tmp"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	l2test.NewRig(t, false, opener(false, folder, ``), false)
	want := "m@0x01000100@0@00.data 1\nm@0x01000100@0@01.tmp 1\nm@0x01000100@0@02.go-0123456789abcdef.tmp 1\nnotes.go-0123456789abcdef.tmp 1\nnotes.tmp 1\n"
	waitFor(t, "what is left is "+want, func() bool { return files(t, folder) == want })
}

// Two adapters share a folder: writers of one key, readers, a deleter.
func TestSharedFolder(t *testing.T) {
	folder := t.TempDir()
	var rigs [2]*l2test.Rig
	for i := range rigs {
		rigs[i] = l2test.NewRig(t, false, opener(false, folder, `, "max_capacity_gb": 1`), false)
	}
	var wg sync.WaitGroup
	for i, r := range rigs {
		wg.Go(func() {
			for n := range 100 {
				o := object(t, n%7)
				if res := r.Store(o); res.Err != nil {
					t.Errorf("store: %v", res.Err)
				}
				into := l2test.Blank(o)
				if r.Load(into...).Count() == 1 && !bytes.Equal(into[0].Bytes, o.Bytes) {
					t.Error("wrong bytes")
				}
				if n%3 == i {
					r.Delete(l2test.Keys(object(t, (n+3)%7)))
				}
			}
		})
	}
	wg.Wait()
	if left := strings.Count(files(t, folder), ".tmp"); left > 0 {
		t.Errorf("%d temporary files are left", left)
	}
	for _, r := range rigs {
		for n := range 7 { // each learns what the other did
			r.Peek(object(t, n).Key)
		}
		if got, want := r.Usage().UsedBytes, int64(5000*strings.Count(files(t, folder), ".data ")); got != want {
			t.Errorf("%d bytes used; the folder has %d", got, want)
		}
	}
}

// With a capacity the files that are there count from the start.
func TestRecovery(t *testing.T) {
	folder := t.TempDir()
	r := l2test.NewRig(t, true, opener(false, folder, ``), false)
	r.MustStore(object(t, 1), object(t, 2), object(t, 3))
	if err := os.WriteFile(filepath.Join(folder, "notes.data"), []byte("notes"), 0o666); err != nil {
		t.Fatal(err)
	}
	for more, want := range map[string]l2.Usage{
		`, "max_capacity_gb": 1`:                              {UsedBytes: 15000, CapacityBytes: 1 << 30},
		`, "max_capacity_gb": 0.5, "recover_on_start": false`: {CapacityBytes: 1 << 29},
		``: {},
	} {
		if got := l2test.NewRig(t, true, opener(false, folder, more), false).Usage(); got != want {
			t.Errorf("usage with %s: %+v; want %+v", more, got, want)
		}
	}
}

// The guard makes the store full before the file system is.
func TestDiskGuard(t *testing.T) {
	var st unix.Statfs_t
	folder := t.TempDir()
	if err := unix.Statfs(folder, &st); err != nil {
		t.Fatal(err)
	}
	const fields = `, "max_capacity_gb": 1000000, "eviction": {"eviction_policy": "noop"}`
	total := float64(st.Blocks) * float64(st.Bsize)
	for more, want := range map[string]func(c int64) bool{
		`, "disk_min_free_gb": 100000000`: func(c int64) bool { return c == 1 },
		`, "disk_min_free_gb": 0.001`:     func(c int64) bool { return c > 1 && float64(c) < total },
		`, "disk_high_watermark": 0.0001`: func(c int64) bool { return c == 1 },
		`, "disk_high_watermark": 1`:      func(c int64) bool { return c > 1 && float64(c) <= total },
		``:                                func(c int64) bool { return c == 1000000<<30 },
	} {
		r := l2test.NewRig(t, true, opener(true, folder, fields+more), false)
		if got := r.Usage().CapacityBytes; !want(got) {
			t.Errorf("capacity with %s: %d of %v", more, got, total)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	for _, c := range []struct {
		native bool
		more   string
		want   string
	}{
		{false, `, "relative_tmp_dir": 3`, "relative_tmp_dir must be a string"},
		{false, `, "relative_tmp_dir": "/t"`, "Invalid relative_tmp_dir: /t"},
		{false, `, "relative_tmp_dir": "a/../b"`, "Invalid relative_tmp_dir: a/../b"},
		{false, `, "relative_tmp_dir": null, "read_ahead_size": null`, ""},
		{true, `, "relative_tmp_dir": null`, "relative_tmp_dir must be a string"},
		{false, `, "read_ahead_size": 0`, "read_ahead_size must be a positive integer"},
		{true, `, "read_ahead_size": 1.5`, "read_ahead_size must be a positive integer"},
		{false, `, "use_odirect": 1`, "use_odirect must be a boolean"},
		{true, `, "num_workers": 0`, "num_workers must be a positive integer"},
		{true, `, "num_workers": "3"`, "num_workers must be a positive integer"},
		{false, `, "num_workers": "3"`, ""},
		{true, `, "max_capacity_gb": -1`, "max_capacity_gb must be a non-negative number"},
		{true, `, "max_capacity_gb": "a"`, "max_capacity_gb must be a non-negative number"},
		{false, `, "checksum": "crc32"`, `checksum "crc32" is not supported in this build`},
		{false, `, "checksum": "none"`, ""},
		{true, `, "disk_high_watermark": 1.5`, "disk_high_watermark must be a number from 0 to 1"},
		{true, `, "disk_high_watermark": 0.5`, "disk_high_watermark and disk_min_free_gb require max_capacity_gb and eviction"},
	} {
		a, err := opener(c.native, t.TempDir(), c.more)(l2.Env{Clock: clock.NewVirtual(0), Notify: func() {}})
		if err == nil {
			a.Close()
		}
		if got := fmt.Sprint(err); got != c.want && (err != nil || c.want != "") {
			t.Errorf("%s: %v; want %s", c.more, err, c.want)
		}
	}
	for _, path := range []string{`""`, `3`, `null`} {
		if err := kindOf(false).Check([]byte(`{"base_path": ` + path + `}`)); err == nil || err.Error() != "base_path must be a non-empty string" {
			t.Errorf("base_path %s: %v", path, err)
		}
	}
}
