package httpapi

import (
	"errors"
	"io"
	"net/http"
	"time"
)

// Recordings starts and stops the recording of a trace. Implementations are safe
// for concurrent use.
type Recordings interface {
	// Start begins a recording in a new file: name in the folder of recordings, or
	// a name with process id and time if name is empty.
	Start(name string) error
	// Stop seals the recording.
	Stop() error
	// State describes the recording that runs, else the last one; the zero state
	// if there was none.
	State() RecordingState
	// Open returns its calls so far, as a file. The caller must Close it.
	Open() (RecordingFile, error)
}

// Errors of Recordings.
var (
	ErrRecording    = errors.New("a recording runs already")
	ErrNotRecording = errors.New("no recording runs")
	ErrNoRecording  = errors.New("nothing was recorded yet")
	ErrName         = errors.New("not a plain file name")
	ErrExists       = errors.New("that file exists already")
)

// RecordingState describes a recording.
type RecordingState struct {
	Recording bool   // it runs
	Level     string // whose calls
	Path      string
	Started   time.Time
	Calls     uint64 // in the file
	Dropped   uint64 // that are not and will not be
	Bytes     int64  // of the file
}

// RecordingFile is a trace that does not change.
type RecordingFile interface {
	io.ReaderAt
	io.Closer
	Size() int64
	Name() string // of the file, without its folder
}

type recordingJSON struct {
	Recording bool    `json:"recording"`
	Level     string  `json:"level,omitempty"`
	Path      string  `json:"path,omitempty"`
	Started   *string `json:"started,omitempty"`
	Calls     uint64  `json:"calls"`
	Dropped   uint64  `json:"dropped_calls"`
	Bytes     int64   `json:"size_bytes"`
}

func (a *API) answerRecording(w http.ResponseWriter) {
	s := a.opt.Recordings.State()
	out := recordingJSON{Recording: s.Recording, Level: s.Level, Path: s.Path, Calls: s.Calls, Dropped: s.Dropped, Bytes: s.Bytes}
	if !s.Started.IsZero() {
		text := s.Started.UTC().Format(time.RFC3339Nano)
		out.Started = &text
	}
	answer(w, http.StatusOK, out)
}

// canRecord answers and reports false for a server that cannot.
func (a *API) canRecord(w http.ResponseWriter) bool {
	if a.opt.Recordings == nil {
		refuse(w, http.StatusNotImplemented, "this server does not record")
	}
	return a.opt.Recordings != nil
}

func (a *API) recording(w http.ResponseWriter, _ *http.Request) {
	if a.canRecord(w) {
		a.answerRecording(w)
	}
}

func (a *API) startRecording(w http.ResponseWriter, r *http.Request) {
	if !a.canRecord(w) {
		return
	}
	b, ok := readBody(w, r, true)
	if !ok {
		return
	}
	name := b.text("name", false)
	if !b.ok(w) {
		return
	}
	a.recordingDone(w, a.opt.Recordings.Start(name))
}

func (a *API) stopRecording(w http.ResponseWriter, _ *http.Request) {
	if a.canRecord(w) {
		a.recordingDone(w, a.opt.Recordings.Stop())
	}
}

func (a *API) recordingDone(w http.ResponseWriter, err error) {
	switch {
	case err == nil:
		a.answerRecording(w)
	case errors.Is(err, ErrName):
		refuse(w, http.StatusBadRequest, err.Error())
	case errors.Is(err, ErrRecording), errors.Is(err, ErrNotRecording), errors.Is(err, ErrExists):
		refuse(w, http.StatusConflict, err.Error())
	default:
		refuse(w, http.StatusInternalServerError, err.Error())
	}
}

// downloadTime bounds a download, in place of the server's limit for answers.
const downloadTime = time.Hour

func (a *API) downloadRecording(w http.ResponseWriter, r *http.Request) {
	if !a.canRecord(w) {
		return
	}
	f, err := a.opt.Recordings.Open()
	switch {
	case errors.Is(err, ErrNoRecording):
		refuse(w, http.StatusNotFound, err.Error())
		return
	case err != nil:
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	defer f.Close()
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(downloadTime)) // not all writers have one
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", `attachment; filename="`+f.Name()+`"`)
	http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(f, 0, f.Size()))
}
