package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/lmcache/lmcache-go/server/httpapi"
	"github.com/lmcache/lmcache-go/trace"
	"github.com/lmcache/lmcache-go/trace/tracefile"
)

// RecordingOptions says how recordings are made.
type RecordingOptions struct {
	Level  string // whose calls
	Path   string // of the first recording, which begins with the server; empty: it begins without
	Folder string // of those that begin later; the temporary folder if empty
	// Create opens a recorder; nil: the server never records.
	Create func(path string) (*trace.Recorder, error)
}

// recordings are the recordings of a server, one at a time. It implements
// httpapi.Recordings.
type recordings struct {
	opt RecordingOptions
	// install makes a recorder that of the storage manager's calls, nil nobody's,
	// and returns who it was. It is set before the first call.
	install func(*trace.Recorder) *trace.Recorder

	mu       sync.Mutex // guards all below; held while a recording begins or ends
	recorder *trace.Recorder
	last     httpapi.RecordingState // Calls and Dropped as of its end
	closed   bool                   // nothing begins any more
}

var errShutdown = errors.New("the server is shutting down")

// open begins the recording that Options.Path names, before there is anything to
// record.
func (r *recordings) open() error {
	if r.opt.Create == nil || r.opt.Path == "" {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.begin(r.opt.Path)
}

// begin opens a recorder. The caller holds mu.
func (r *recordings) begin(path string) (err error) {
	if r.recorder, err = r.opt.Create(path); err != nil {
		return err
	}
	if full, err := filepath.Abs(path); err == nil {
		path = full
	}
	r.last = httpapi.RecordingState{Recording: true, Level: r.opt.Level, Path: path, Started: time.Now()}
	return nil
}

// Start begins a recording.
func (r *recordings) Start(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return errShutdown
	case r.recorder != nil:
		return httpapi.ErrRecording
	}
	path, err := r.newPath(name)
	if err != nil {
		return err
	}
	if err := r.begin(path); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	r.install(r.recorder)
	return nil
}

// newPath returns the path of a file that it has created. Clients choose no more
// than a name: nobody is authenticated.
func (r *recordings) newPath(name string) (string, error) {
	if name != "" && (name != filepath.Base(name) || strings.HasPrefix(name, ".") || strings.ContainsAny(name, "\"\x00\r\n")) {
		return "", fmt.Errorf("%w: %q", httpapi.ErrName, name)
	}
	given := trace.DefaultPath(time.Now().UnixNano())
	folder := r.opt.Folder
	if folder == "" {
		folder = filepath.Dir(given)
	}
	stem, ext := strings.TrimSuffix(filepath.Base(given), ".lct"), ".lct"
	for n := 1; ; n++ {
		path := filepath.Join(folder, stem+ext)
		if name != "" {
			path = filepath.Join(folder, name)
		} else if n > 1 { // another one in this second
			path = filepath.Join(folder, fmt.Sprintf("%s-%d%s", stem, n, ext))
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		switch {
		case err == nil:
			return path, f.Close()
		case !errors.Is(err, fs.ErrExist):
			return "", err
		case name != "":
			return "", fmt.Errorf("%w: %s", httpapi.ErrExists, path)
		}
	}
}

// Stop seals the recording.
func (r *recordings) Stop() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.recorder == nil {
		return httpapi.ErrNotRecording
	}
	return r.end()
}

// end takes the recorder from the storage manager, and closes it. The caller holds
// mu.
func (r *recordings) end() error {
	if r.install != nil {
		r.install(nil)
	}
	rec := r.recorder
	err := rec.Close()
	r.recorder = nil
	r.last = r.described(rec)
	r.last.Recording = false
	return err
}

// State describes the recording that runs, else the last one.
func (r *recordings) State() httpapi.RecordingState {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.recorder == nil {
		return r.last
	}
	return r.described(r.recorder)
}

func (r *recordings) described(rec *trace.Recorder) httpapi.RecordingState {
	s := r.last
	stats := rec.Stats()
	s.Calls, s.Dropped = stats.Recorded, stats.Dropped
	if info, err := os.Stat(s.Path); err == nil {
		s.Bytes = info.Size()
	}
	return s
}

// Open returns the calls of the present or last recording so far.
func (r *recordings) Open() (httpapi.RecordingFile, error) {
	path := r.State().Path
	if path == "" {
		return nil, httpapi.ErrNoRecording
	}
	p, err := tracefile.OpenPrefix(path)
	if err != nil {
		return nil, err
	}
	return recordingFile{p, filepath.Base(path)}, nil
}

type recordingFile struct {
	*tracefile.Prefix
	name string
}

func (f recordingFile) Name() string { return f.name }

// close ends the recording that runs; none begins after it.
func (r *recordings) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.recorder == nil {
		return nil
	}
	return r.end()
}
