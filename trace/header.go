package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/cespare/xxhash/v2"
)

// FormatVersion is the format_version of the native files that this build
// writes and reads.
const FormatVersion = 1

// Magic opens a native trace file.
const Magic = "LMCTRACE"

// FORMAT.md, section 2.
const (
	fixedHeaderSize = 64
	countersOffset  = 4096 // of copy 0; copy 1 is a page further
	countersStride  = 4096
	fieldsOffset    = 12288
)

// The tags of header fields, FORMAT.md 2.2.
const (
	tagLevel = iota + 1
	tagLevelMeta
	tagHost
	tagBuild
	tagRingPath
	tagConfigJSON
	tagConfigDigest

	tagRelease  = 32
	tagUpstream = 33
	tagClock    = 48
)

// headSize returns the bytes that the head of a file with header h needs: the
// offset of its body, a multiple of align (a power of two, at least 8).
func headSize(h *Header, align int) int {
	return (fieldsOffset + len(appendFields(nil, h)) + align - 1) &^ (align - 1)
}

// appendFields appends the variable part of the header.
func appendFields(b []byte, h *Header) []byte {
	field := func(tag uint32, s string) {
		if s == "" {
			return
		}
		b = binary.LittleEndian.AppendUint32(b, tag)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
		for len(b)%8 != 0 {
			b = append(b, 0)
		}
	}
	field(tagLevel, string(h.Level))
	for _, m := range h.LevelMeta {
		field(tagLevelMeta, string(appendStr(appendStr(nil, m.Key), m.Value)))
	}
	field(tagHost, h.Host)
	field(tagBuild, h.Build)
	field(tagRingPath, h.RingPath)
	field(tagConfigJSON, h.ConfigJSON)
	field(tagConfigDigest, h.ConfigDigest)
	field(tagRelease, h.Release)
	field(tagUpstream, string(h.Upstream))
	if h.Clock != "" {
		field(tagClock, string(appendStr(binary.AppendUvarint(nil, uint64(h.ClockBound)), h.Clock)))
	}
	return b
}

// putHeader writes the header of a new file to head, the file's first bytes up
// to its body. The magic is written last.
func putHeader(head []byte, h *Header, blockBytes int64) error {
	fields := appendFields(nil, h)
	if need := fieldsOffset + len(fields); need > len(head) {
		return fmt.Errorf("header of %d bytes in a head of %d", need, len(head))
	}
	if len(head)%8 != 0 {
		return fmt.Errorf("head of %d bytes is no multiple of 8", len(head))
	}
	if h.PID < 0 || int64(h.PID) > math.MaxUint32 {
		return fmt.Errorf("process id %d does not fit 32 bits", h.PID)
	}
	var fixed [fixedHeaderSize]byte
	copy(fixed[:], Magic)
	le := binary.LittleEndian
	le.PutUint32(fixed[8:], FormatVersion)
	le.PutUint32(fixed[12:], SchemaVersion)
	le.PutUint64(fixed[16:], uint64(len(head)))
	le.PutUint64(fixed[24:], uint64(h.MonoStartNS))
	le.PutUint64(fixed[32:], uint64(h.WallStartNS))
	le.PutUint64(fixed[40:], uint64(blockBytes))
	le.PutUint32(fixed[48:], uint32(h.PID))
	le.PutUint32(fixed[52:], uint32(len(fields)))
	le.PutUint64(fixed[56:], headerChecksum(fixed[:], fields))
	copy(head[fieldsOffset:], fields)
	copy(head[8:], fixed[8:])
	copy(head, fixed[:8])
	return nil
}

func headerChecksum(fixed, fields []byte) uint64 {
	d := xxhash.New()
	d.Write(fixed[:56])
	d.Write(fields)
	return d.Sum64()
}

// parseHeader reads the header of a native file and returns the offset of its
// body.
func parseHeader(data []byte) (h *Header, body int64, err error) {
	if n := len(data); 0 < n && n < len(Magic) && Magic[:n] == string(data) {
		return nil, 0, fmt.Errorf("%w: file has %d bytes", ErrTruncatedHeader, n)
	}
	if len(data) < len(Magic) || string(data[:len(Magic)]) != Magic {
		return nil, 0, fmt.Errorf("%w: bad magic (got %q, expected %q)", ErrNotNative, data[:min(len(data), len(Magic))], Magic)
	}
	if len(data) < 16 {
		return nil, 0, fmt.Errorf("%w: file has %d bytes", ErrTruncatedHeader, len(data))
	}
	le := binary.LittleEndian
	format, schema := le.Uint32(data[8:]), le.Uint32(data[12:])
	if format != FormatVersion {
		return nil, 0, &VersionError{"format_version", format, FormatVersion}
	}
	if schema != SchemaVersion {
		return nil, 0, &VersionError{"trace_schema_version", schema, SchemaVersion}
	}
	if len(data) < fieldsOffset {
		return nil, 0, fmt.Errorf("%w: file has %d bytes", ErrTruncatedHeader, len(data))
	}
	size := int64(le.Uint32(data[52:]))
	if size > int64(len(data))-fieldsOffset {
		return nil, 0, fmt.Errorf("%w: fields of %d bytes end behind the file's %d", ErrTruncatedHeader, size, len(data))
	}
	fields := data[fieldsOffset : fieldsOffset+size]
	corrupt := func(format string, args ...any) error {
		return &CorruptError{Offset: 0, Field: "header", Err: fmt.Errorf(format, args...)}
	}
	if got, want := headerChecksum(data, fields), le.Uint64(data[56:]); got != want {
		return nil, 0, corrupt("checksum: computed %016x, file has %016x", got, want)
	}
	b := le.Uint64(data[16:])
	if b < uint64(fieldsOffset+size) || b%8 != 0 {
		return nil, 0, corrupt("body at offset %d", b)
	}
	if b > uint64(len(data)) {
		return nil, 0, fmt.Errorf("%w: body at offset %d, file has %d bytes", ErrTruncatedHeader, b, len(data))
	}
	h = &Header{
		Native:        true,
		FormatVersion: int(format),
		SchemaVersion: int(schema),
		MonoStartNS:   int64(le.Uint64(data[24:])),
		WallStartNS:   int64(le.Uint64(data[32:])),
		BlockBytes:    int64(le.Uint64(data[40:])),
		PID:           int(le.Uint32(data[48:])),
	}
	if err := h.parseFields(fields); err != nil {
		return nil, 0, corrupt("fields: %w", err)
	}
	return h, int64(b), nil
}

func (h *Header) parseFields(b []byte) error {
	for len(b) > 0 {
		if len(b) < 8 {
			return errShort
		}
		tag, size := binary.LittleEndian.Uint32(b), uint64(binary.LittleEndian.Uint32(b[4:]))
		padded := (size + 7) &^ 7
		if padded > uint64(len(b)-8) {
			return errShort
		}
		value := string(b[8 : 8+size])
		b = b[8+padded:]
		switch tag {
		case tagLevel:
			h.Level = Level(value)
		case tagLevelMeta:
			c := cursor{b: []byte(value)}
			m := LevelMeta{Key: string(c.str()), Value: string(c.str())}
			if err := c.end(); err != nil {
				return err
			}
			h.LevelMeta = append(h.LevelMeta, m)
		case tagHost:
			h.Host = value
		case tagBuild:
			h.Build = value
		case tagRingPath:
			h.RingPath = value
		case tagConfigJSON:
			h.ConfigJSON = value
		case tagConfigDigest:
			h.ConfigDigest = value
		case tagRelease:
			h.Release = value
		case tagUpstream:
			h.Upstream = []byte(value)
		case tagClock:
			c := cursor{b: []byte(value)}
			h.ClockBound, h.Clock = time.Duration(c.uv()), string(c.str())
			if err := c.end(); err != nil {
				return err
			}
		}
	}
	return nil
}

// counters is one copy of the changing part of the header, FORMAT.md 2.3.
type counters struct {
	generation uint64
	records    uint64
	dropped    uint64
	end        int64 // offset behind the last frame
	nextSeq    uint64
	footer     int64 // offset, 0 if not sealed
	maxMonoNS  int64
	clean      bool
}

const (
	countersSize = 72
	flagClean    = 1 << 0
)

var errCounters = errors.New("no valid copy of the counters")

// put writes c to its place in head: the copy that the generation before did
// not use.
func (c *counters) put(head []byte) {
	var b [countersSize]byte
	le := binary.LittleEndian
	var flags uint64
	if c.clean {
		flags |= flagClean
	}
	for i, v := range []uint64{c.generation, c.records, c.dropped, uint64(c.end), c.nextSeq, uint64(c.footer), uint64(c.maxMonoNS), flags} {
		le.PutUint64(b[8*i:], v)
	}
	le.PutUint64(b[countersSize-8:], xxhash.Sum64(b[:countersSize-8]))
	copy(head[countersOffset+countersStride*(c.generation&1):], b[:])
}

// validCounters reports for each copy whether its checksum is right.
func validCounters(head []byte) (valid [2]bool) {
	for i := range valid {
		b := head[countersOffset+countersStride*i:][:countersSize]
		valid[i] = binary.LittleEndian.Uint64(b[countersSize-8:]) == xxhash.Sum64(b[:countersSize-8])
	}
	return valid
}

// parseCounters returns the current counters. head holds at least the part
// before the fields.
func parseCounters(head []byte) (counters, error) {
	var best counters
	found := false
	for copyNo := range uint64(2) {
		var b [countersSize]byte // the writer may change the original beneath us
		copy(b[:], head[countersOffset+countersStride*copyNo:])
		le := binary.LittleEndian
		if le.Uint64(b[countersSize-8:]) != xxhash.Sum64(b[:countersSize-8]) {
			continue
		}
		c := counters{
			generation: le.Uint64(b[0:]),
			records:    le.Uint64(b[8:]),
			dropped:    le.Uint64(b[16:]),
			end:        int64(le.Uint64(b[24:])),
			nextSeq:    le.Uint64(b[32:]),
			footer:     int64(le.Uint64(b[40:])),
			maxMonoNS:  int64(le.Uint64(b[48:])),
			clean:      le.Uint64(b[56:])&flagClean != 0,
		}
		if c.generation&1 != copyNo || c.end < 0 || c.footer < 0 {
			continue
		}
		if !found || c.generation > best.generation {
			best, found = c, true
		}
	}
	if !found {
		return counters{}, errCounters
	}
	return best, nil
}
