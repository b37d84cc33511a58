// Package tracefile opens a trace of either format: the first bytes tell the
// project's own from upstream's.
package tracefile

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/lmcache/lmcache-go/mmapio"
	"github.com/lmcache/lmcache-go/trace"
	"github.com/lmcache/lmcache-go/trace/lct"
)

// Open opens the trace at path. What is wrong with the file but does not end
// the reading is told to warn, which may be nil. The caller must Close the
// source.
func Open(path string, warn func(string)) (trace.Source, error) {
	isNative, err := sniff(path)
	if err != nil {
		return nil, err
	}
	if isNative {
		r, err := trace.OpenNative(path, warn)
		if err != nil {
			return nil, err // not r: a nil *NativeReader is no nil Source
		}
		return r, nil
	}
	r, err := lct.Open(path, warn)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Summarize says what is in the trace at path, without decoding it.
func Summarize(path string, warn func(string)) (*trace.Summary, error) {
	isNative, err := sniff(path)
	if err != nil {
		return nil, err
	}
	if isNative {
		s, err := trace.SummarizeNative(path, warn)
		if err == nil && s.Header.Level == trace.LevelEvents {
			err = addEvents(s, path)
		}
		return s, err
	}
	return lct.Summarize(path, warn)
}

// addEvents adds what the records of level events say.
func addEvents(s *trace.Summary, path string) (err error) {
	src, err := trace.OpenNative(path, nil)
	if err != nil {
		return err
	}
	defer src.Close()
	if s.Events, err = lct.SummarizeEvents(src); s.Damage != nil {
		return nil // it is told already
	}
	return err
}

// sniff reports whether the file is a native one, if need be one whose magic is
// damaged. What is empty, or begins as neither does, is left to upstream's
// reader, which says what is wrong.
func sniff(path string) (isNative bool, err error) {
	head, err := readHead(path, 12288)
	return trace.ResemblesNative(head), err
}

// readHead returns the first n bytes of a file, or as many as it has.
func readHead(path string, n int) (head []byte, err error) {
	f, err := mmapio.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fault := mmapio.Guard(func() { head = bytes.Clone(f.Bytes()[:min(n, len(f.Bytes()))]) })
	return head, fault
}

// about makes an error say which file it is about, if it does not say so already.
func about(path string, err error) error {
	if strings.Contains(err.Error(), path) {
		return err
	}
	return fmt.Errorf("%s: %w", path, err)
}
