package replay

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// PrepareOutput creates dir with its parents, and makes sure that the named
// files can be written there, so that a replay of hours does not end in
// nothing. Existing files keep their contents.
func PrepareOutput(dir string, files ...string) error {
	if dir == "" {
		dir = "."
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return fmt.Errorf("create output folder %s: %w", dir, err)
	}
	for _, name := range files {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() && !info.IsDir() {
			continue // a pipe's reader would see it opened and closed
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err == nil {
			err = f.Close()
		} else if errors.Is(err, fs.ErrNotExist) {
			err = probe(dir)
		}
		if err != nil {
			return fmt.Errorf("output folder %s is not writable: %w", dir, err)
		}
	}
	return nil
}

// probe makes and removes a file in dir: permission bits do not tell of a
// read-only file system or a full one.
func probe(dir string) error {
	f, err := os.CreateTemp(dir, ".trace_replay_*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// OpenJSONL opens the JSONL output: path "-" is stdout, which Close leaves
// open; any other file is created with its parent folders, or truncated.
func OpenJSONL(path string, stdout io.Writer) (io.WriteCloser, error) {
	if path == "-" {
		return keepOpen{stdout}, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return nil, fmt.Errorf("create folder of JSONL output: %w", err)
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("open JSONL output: %w", err)
	}
	return f, nil
}

type keepOpen struct{ io.Writer }

func (keepOpen) Close() error { return nil }

// LogBanner warns that a replay may miss what the recording hit. It comes
// before the trace is opened. LMCache always colours it; here it is as coloured
// as the log is.
//
// Source: reference lct-v1.md, section 5.4, "Banner".
func LogBanner(log *slog.Logger, color bool) {
	var yellow, reset string
	if color {
		yellow, reset = "\x1b[1;33m", "\x1b[0m"
	}
	log.Warn(banner(yellow, reset))
}

func banner(yellow, reset string) string {
	rule := strings.Repeat("=", 78)
	return "\n" + yellow + rule + "\n" +
		"  !! REPLAY ENVIRONMENT MISMATCH MAY CAUSE RETRIEVE MISSES !!\n" +
		rule + reset + "\n" +
		"  * The replay runs with the configuration of its own command line, which may\n" +
		"    differ from the one that was recorded (L1 size, eviction, L2 adapters).\n" +
		"  * This host may be faster or slower than the recording host, so that calls\n" +
		"    and background work meet in another order.\n" +
		"  * Storage calls are asynchronous and KV payloads are not captured: an L2 load\n" +
		"    that had finished by the time the recorded retrieve was issued may still be\n" +
		"    in flight when the replayed retrieve fires, and a retrieve that hit at\n" +
		"    record time then misses here.\n" +
		"\n" +
		"  Treat retrieve-miss counts as a signal about the replay environment, not as\n" +
		"  a defect in the trace.\n" +
		rule + reset
}
