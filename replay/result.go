package replay

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/lmcache/lmcache-go/trace"
)

// ResultVersion is the version of the result file: raised when a key changes
// its meaning or goes, not when one is added.
const ResultVersion = 1

// Result is all that a replay found out. Its JSON form, with the names below,
// is the file ResultName, by which replays are compared.
type Result struct {
	ResultVersion int           `json:"result_version"`
	Trace         TraceIdentity `json:"trace"`

	Config       json.RawMessage `json:"config,omitempty"` // of the replay's storage manager
	ConfigDigest string          `json:"config_digest"`    // of that
	DigestRow    string          `json:"config_match"`     // as in the table; empty if the trace has no digest
	Differences  []string        `json:"config_differences,omitempty"`

	Records     Records `json:"records"`
	Interrupted bool    `json:"interrupted"`
	// DurationS is from just before the first record was due until the last
	// open read was left, in seconds of the replay's clock.
	DurationS float64 `json:"duration_s"`

	Outcome Outcome    `json:"outcome"`
	Storage Storage    `json:"storage"`
	Lag     Latency    `json:"dispatch_lag"` // of every record behind its due time
	Ops     []OpResult `json:"ops"`          // replayed or failed at least once, sorted by name

	// Recorded is what came of the calls when they were recorded, by name of
	// the operation; none where the trace does not say.
	Recorded []Recorded `json:"recorded_outcome,omitempty"`
}

// TraceIdentity tells one trace from another without reading it whole.
type TraceIdentity struct {
	Path         string      `json:"path"`
	Native       bool        `json:"native"`
	Level        trace.Level `json:"level"`
	ConfigDigest string      `json:"config_digest"` // recorded
	WallStartNS  int64       `json:"wall_start_ns"`
	MonoStartNS  int64       `json:"mono_start_ns"`
}

// sameRecording reports whether two traces are of one recording, converted or
// not.
func (t *TraceIdentity) sameRecording(u *TraceIdentity) bool {
	return t.WallStartNS == u.WallStartNS && t.MonoStartNS == u.MonoStartNS && t.ConfigDigest == u.ConfigDigest
}

// Records counts the records of a trace by what became of them. Those that an
// interruption left out are in Total alone.
type Records struct {
	Total    int64 `json:"total"`
	Replayed int64 `json:"replayed"` // the call returned
	Skipped  int64 `json:"skipped"`  // no handler, or the arguments do not decode
	Failed   int64 `json:"failed"`   // the call returned an error
}

// OpResult is the figures of one operation. Latency is that of the calls that
// returned no error.
type OpResult struct {
	Qualname string `json:"qualname"`
	Errors   int64  `json:"errors"`
	Latency
	Outcome map[string]int64 `json:"outcome,omitempty"` // the operation's part of Result.Outcome
}

// ReadResult reads a result file.
func ReadResult(path string) (*Result, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r Result
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%s: not the result of a replay: %w", path, err)
	}
	if r.ResultVersion == 0 {
		return nil, fmt.Errorf("%s: not the result of a replay: it has no result_version", path)
	}
	if r.ResultVersion != ResultVersion {
		return nil, fmt.Errorf("%s: result_version %d, this build reads %d", path, r.ResultVersion, ResultVersion)
	}
	return &r, nil
}
