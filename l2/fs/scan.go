package fs

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
)

// leftoverAge is how long ago a temporary file of LMCache must have been
// written before it counts as left behind: it has no lock that would say so.
const leftoverAge = 10 * 60 // seconds

// recover counts the objects that the folder has, and tells of them in the order
// in which they were written.
func (s *Store) recover() error {
	type file struct {
		key     kv.ObjectKey
		size    int64
		written int64 // ns of Unix time
	}
	var files []file
	err := eachFile(s.c.BasePath, func(e fs.DirEntry) bool {
		if k, ok := parseName(e.Name()); ok && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				s.know(s.shard(&k), k, info.Size())
				if s.env.Found != nil {
					files = append(files, file{k, info.Size(), info.ModTime().UnixNano()})
				}
			}
		}
		return true
	})
	if len(files) > 0 {
		slices.SortFunc(files, func(a, b file) int { return cmp.Compare(a.written, b.written) })
		keys, sizes := make([]kv.ObjectKey, len(files)), make([]int64, len(files))
		for i, f := range files {
			keys[i], sizes[i] = f.key, f.size
		}
		s.env.Found(keys, sizes)
	}
	return err
}

// Report counts what this process knows: with a capacity or a policy that evicts
// all files, else none.
func (s *Store) Report() l2.Report {
	r := l2.Report{Err: s.outage.Err(), Backend: s.c.BasePath, Objects: -1}
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		if r.Locked += int64(len(sh.locks)); sh.sizes != nil {
			r.Objects = max(r.Objects, 0) + int64(len(sh.sizes))
		}
		sh.mu.Unlock()
	}
	return r
}

// List implements l2.Lister. It reads the folder for every page, whoever wrote
// the files.
func (s *Store) List(model, token string, limit int) (l2.Page, error) {
	p := l2.NewPager(model, token, limit)
	err := eachFile(s.c.BasePath, func(e fs.DirEntry) bool {
		if k, ok := parseName(e.Name()); ok && e.Type().IsRegular() && p.Wants(&k) {
			if info, err := e.Info(); err == nil { // else it went meanwhile
				p.Add(k, info.Size())
			}
		}
		return !s.closed()
	})
	return p.Page(), err
}

// eachFile calls f for the entries of a folder, in no order, until it says false.
func eachFile(folder string, f func(fs.DirEntry) bool) error {
	d, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		entries, err := d.ReadDir(1024)
		for _, e := range entries {
			if !f(e) {
				return nil
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// removeLeftovers removes the temporary files of writers that died. A folder
// that cannot be written keeps them.
func (s *Store) removeLeftovers() {
	now := int64(0) // by the clock of the file system: it may be another machine's
	_ = eachFile(s.temp, func(e fs.DirEntry) bool {
		if s.closed() {
			return false
		}
		if !e.Type().IsRegular() {
			return true
		}
		ours, ok := isTempName(e.Name())
		if !ok {
			return true
		}
		path := filepath.Join(s.temp, e.Name())
		if !ours {
			if now == 0 {
				if now = fileTime(s.temp); now == 0 {
					return false
				}
			}
			if info, err := e.Info(); err == nil && now-info.ModTime().Unix() >= leftoverAge {
				_ = unix.Unlink(path)
			}
			return true
		}
		removeUnlocked(path)
		return true
	})
}

// removeUnlocked removes a file that nobody holds a lock on.
func removeUnlocked(path string) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	// A writer that has made the file and not locked it yet fails to, and then
	// to rename it, and writes another.
	if again(func() error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) }) == nil {
		_ = unix.Unlink(path)
	}
}

// fileTime returns the Unix time of a file that is written now; 0 if none can be.
func fileTime(folder string) int64 {
	f, err := os.CreateTemp(folder, "now-*"+tempSuffix)
	if err != nil {
		return 0
	}
	defer os.Remove(f.Name())
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	return info.ModTime().Unix()
}
