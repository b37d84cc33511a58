package lct

import (
	"errors"
	"fmt"
	"math"

	"github.com/lmcache/lmcache-go/internal/pyfmt"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/trace"
	"github.com/tinylib/msgp/msgp"
)

// argsDecoder decodes the arguments of records of all eras. What it gives out
// refers to its memory, which the next record uses again.
type argsDecoder struct {
	keyReader
	layouts layoutReader
	text    string // the last external_request_id

	flat  flatSpec // a prefetch of the eras E1 to E5
	spec  kv.PrefetchSpec
	cells []kv.ObjectKey // keys of spec's groups, one group after the other
	ends  []int          // where each group ends in cells

	l1Tags, l2Tags []kv.MemoryTag
}

// decode decodes the encoded map b into a. It goes by the arguments that are
// there, never by a version.
//
// Source: reference lct-v1.md, sections 3.1, 3.2 and 3.4.
func (d *argsDecoder) decode(op trace.Op, b []byte, a *trace.Args) error {
	*a = trace.Args{Keys: a.Keys[:0], Raw: a.Raw[:0]}
	d.flat.reset()
	if op == trace.OpUnknown {
		if _, err := checkTags(b); err != nil {
			return err
		}
		a.Raw = append(a.Raw, b...)
		return nil
	}
	n, b, err := fields(b)
	if err != nil {
		return err
	}
	prefetch := op == trace.OpSubmitPrefetchTask
	var keys, layout, spec bool
	locks := int64(1)
	for range n {
		name, rest, err := mapKey(b)
		if err != nil {
			return err
		}
		b = rest
		switch {
		case string(name) == "keys" && prefetch:
			keys = true
			d.flat.keys, b, err = d.keyReader.list(d.flat.keys[:0], b)
		case string(name) == "keys":
			keys = true
			a.Keys, b, err = d.keyReader.list(a.Keys[:0], b)
		case string(name) == "layout_desc":
			layout = true
			a.Layout, b, err = d.layouts.read(b)
			d.flat.layout, d.flat.hasLayout = a.Layout, true
		case string(name) == "mode" && prefetch:
			d.flat.lock, b, err = readPrefetchMode(b)
		case string(name) == "mode":
			a.Mode, b, err = readWriteMode(b)
		case string(name) == "extra_count":
			locks, b, err = readExtra(b)
		case string(name) == "read_locks":
			locks, b, err = readInt(b)
		case string(name) == "spec" && prefetch:
			spec = true
			b, err = d.readSpec(b)
		case string(name) == "external_request_id":
			a.Text, b, err = d.readText(b)
		case string(name) == "skip_l2":
			a.Flag, b, err = readBool(b)
		case string(name) == "policy" && prefetch:
			d.flat.policy, b, err = readTrimPolicy(b)
		case string(name) == "attn_desc" && prefetch:
			b, err = d.flat.readAttn(b)
		default:
			b, err = checkTags(b)
		}
		if err != nil {
			return fmt.Errorf("argument %s: %w", name, err)
		}
	}
	switch {
	case prefetch && !spec && !keys:
		return errors.New("missing argument spec")
	case !prefetch && !keys:
		return errors.New("missing argument keys")
	case !layout && (op == trace.OpReserveWrite || prefetch && !spec):
		return errors.New("missing argument layout_desc")
	}
	switch op {
	case trace.OpSubmitPrefetchTask:
		if !spec {
			d.flat.readers = locks
			if err := d.regroup(); err != nil {
				return err
			}
		}
		a.Spec, a.Layout = &d.spec, 0
	case trace.OpFinishReadPrefetched:
		a.Count = locks
	}
	return nil
}

// readText reads a request id. It is the one thing in a record that has to be
// allocated, where it differs from the last one.
func (d *argsDecoder) readText(b []byte) (text string, rest []byte, err error) {
	if msgp.IsNil(b) {
		return "", b[1:], nil
	}
	v, rest, err := readStr(b)
	if string(v) != d.text {
		d.text = string(v)
	}
	return d.text, rest, err
}

// readExtra reads an extra_count: that many read locks beyond the first.
func readExtra(b []byte) (locks int64, rest []byte, err error) {
	n, rest, err := readInt(b)
	if err == nil && n == math.MaxInt64 {
		err = fmt.Errorf("%d is too large", n)
	}
	return n + 1, rest, err
}

func readBool(b []byte) (v bool, rest []byte, err error) {
	if !isKind(b, kindBool) {
		return false, nil, fmt.Errorf("expected bool, got %s", kindName(b))
	}
	return msgp.ReadBoolBytes(b)
}

func readWriteMode(b []byte) (m kv.WriteMode, rest []byte, err error) {
	v, rest, err := readStr(b)
	if err != nil {
		return 0, nil, err
	}
	for _, m := range []kv.WriteMode{kv.ModeNew, kv.ModeUpdate, kv.ModeAll} {
		if m.String() == string(v) {
			return m, rest, nil
		}
	}
	return 0, nil, fmt.Errorf("unknown mode %s", pyfmt.Repr(string(v)))
}

// readMember reads an enum of Python: a codec whose payload is the name of a
// member.
func readMember(b []byte, tag string) (name, rest []byte, err error) {
	payload, after, err := codec(b, tag)
	if err != nil {
		return nil, nil, err
	}
	name, rest, err = readStr(payload)
	if after != nil {
		rest = after
	}
	return name, rest, err
}

func readTrimPolicy(b []byte) (p kv.FetchPolicy, rest []byte, err error) {
	name, rest, err := readMember(b, tagTrim)
	if err != nil {
		return 0, nil, err
	}
	switch string(name) {
	case "PREFIX":
		return kv.FetchPrefix, rest, nil
	case "SPARSE":
		return kv.FetchFull, rest, nil
	case "SEGMENTED_PREFIX":
		return kv.FetchSegmentedPrefix, rest, nil
	}
	return 0, nil, fmt.Errorf("unknown %s %s", tagTrim, pyfmt.Repr(string(name)))
}

func readPrefetchMode(b []byte) (m kv.LockMode, rest []byte, err error) {
	name, rest, err := readMember(b, tagMode)
	if err != nil {
		return 0, nil, err
	}
	switch string(name) {
	case "LOOKUP":
		return kv.Lock, rest, nil
	case "WARM":
		return kv.NoLock, rest, nil
	}
	return 0, nil, fmt.Errorf("unknown %s %s", tagMode, pyfmt.Repr(string(name)))
}

func readLockMode(b []byte) (m kv.LockMode, rest []byte, err error) {
	name, rest, err := readMember(b, tagLock)
	if err != nil {
		return 0, nil, err
	}
	switch string(name) {
	case "LOCK":
		return kv.Lock, rest, nil
	case "NO_LOCK":
		return kv.NoLock, rest, nil
	}
	return 0, nil, fmt.Errorf("unknown %s %s", tagLock, pyfmt.Repr(string(name)))
}
