package trace

import (
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/lmcache/lmcache-go/kv"
)

// The text form of a trace, FORMAT.md section 9: complete, one fact a line, and
// read back by [TextReader].

// textMagic is the first line of a trace in text form.
const textMagic = "lmcache-trace-text 1"

// AppendTextHeader appends the lines that open a trace in text form.
func AppendTextHeader(b []byte, h *Header) []byte {
	b = append(b, textMagic+"\n"...)
	format := "lmcache"
	if h.Native {
		format = "native"
	}
	b = fmt.Appendf(b, "format %s %d\nschema %d\n", format, h.FormatVersion, h.SchemaVersion)
	text := func(name, value string) {
		if value != "" {
			b = append(strconv.AppendQuoteToASCII(append(append(b, name...), ' '), value), '\n')
		}
	}
	text("level", string(h.Level))
	for _, m := range h.LevelMeta {
		b = strconv.AppendQuoteToASCII(append(b, "level_meta "...), m.Key)
		b = append(strconv.AppendQuoteToASCII(append(b, ' '), m.Value), '\n')
	}
	b = append(appendSeconds(append(b, "t_mono_start "...), h.MonoStartNS), '\n')
	b = append(appendSeconds(append(b, "t_wall_start "...), h.WallStartNS), '\n')
	text("config", h.ConfigJSON)
	text("digest", h.ConfigDigest)
	text("release", h.Release)
	if h.Upstream != nil {
		b = append(appendHex(append(b, "upstream "...), h.Upstream), '\n')
	}
	if h.PID != 0 {
		b = fmt.Appendf(b, "pid %d\n", h.PID)
	}
	text("host", h.Host)
	text("build", h.Build)
	text("ring", h.RingPath)
	if h.BlockBytes != 0 {
		b = fmt.Appendf(b, "block_bytes %d\n", h.BlockBytes)
	}
	return b
}

// AppendTextDrops appends the line that says that total calls were lost from the
// start of the recording to here.
func AppendTextDrops(b []byte, total uint64) []byte {
	return fmt.Appendf(b, "dropped %d\n", total)
}

// AppendText appends a record in text form: a line for the call and one for each
// argument, more for a key list that is no chain of one pattern and for a
// prefetch. argsErr says why there are no arguments; nil if a holds them.
func AppendText(b []byte, rec *Record, a *Args, argsErr error) []byte {
	b = strconv.AppendUint(append(b, "call "...), rec.Seq, 10)
	b = appendSeconds(append(b, ' '), rec.MonoNS)
	b = appendSeconds(append(b, ' '), rec.WallNS)
	b = append(b, ' ')
	switch {
	case rec.Row == nil && rec.Op != OpUnknown:
		b = append(b, strings.TrimPrefix(rec.Op.String(), storageManager)...)
	case rec.Row == nil:
		b = append(strconv.AppendQuoteToASCII(b, rec.Qualname), " ?"...)
	default:
		b = strconv.AppendQuoteToASCII(b, rec.Qualname)
		for _, arg := range rec.Row.Args {
			b = append(append(appendName(append(b, ' '), arg.Name), ':'), arg.Type.String()...)
		}
	}
	b = append(b, '\n')
	if x := rec.Extra; x != nil {
		if x.HasMono {
			b = fmt.Appendf(b, "  exact_t_mono %016x\n", math.Float64bits(x.MonoS))
		}
		if x.HasWall {
			b = fmt.Appendf(b, "  exact_t_wall %016x\n", math.Float64bits(x.WallS))
		}
		if x.Frame != nil {
			b = append(appendHex(append(b, "  frame "...), x.Frame), '\n')
		}
	}
	if argsErr == nil && rec.Row == nil && rec.Op == OpUnknown {
		argsErr = fmt.Errorf("the arguments of %s are not known", rec.Qualname)
	}
	if argsErr != nil {
		return append(strconv.AppendQuoteToASCII(append(b, "  error "...), argsErr.Error()), '\n')
	}
	for _, arg := range rec.Arguments() {
		b = appendName(append(b, "  "...), arg.Name)
		switch arg.Type {
		case ArgKeys:
			b = appendTextKeys(b, "  ", a.Keys)
			continue
		case ArgLayout:
			b = appendTextLayout(append(b, ' '), a.Layout)
		case ArgMode:
			b = append(append(b, ' '), a.Mode.String()...)
		case ArgSpec:
			b = appendTextSpec(b, a.Spec)
			continue
		case ArgText:
			b = strconv.AppendQuoteToASCII(append(b, ' '), a.Text)
		case ArgFlag:
			b = strconv.AppendBool(append(b, ' '), a.Flag)
		case ArgCount:
			b = strconv.AppendInt(append(b, ' '), a.Count, 10)
		case ArgRaw:
			b = appendHex(append(b, ' '), a.Raw)
		default:
			panic("no text form for arguments of type " + arg.Type.String())
		}
		b = append(b, '\n')
	}
	return b
}

// appendSeconds appends a time with all nine digits.
func appendSeconds(b []byte, ns int64) []byte {
	u := uint64(ns)
	if ns < 0 {
		b, u = append(b, '-'), -u
	}
	b = append(strconv.AppendUint(b, u/1e9, 10), '.')
	frac := strconv.AppendUint(nil, 1e9+u%1e9, 10)
	return append(b, frac[1:]...)
}

// appendHex appends bytes; none are a minus sign, so that every value has a text.
func appendHex(b, v []byte) []byte {
	if len(v) == 0 {
		return append(b, '-')
	}
	return hex.AppendEncode(b, v)
}

// appendName appends the name of an argument, quoted where it is no word, or one
// that stands for something else.
func appendName(b []byte, name string) []byte {
	switch name { // the last two stand in the line of an outcome
	case "error", "exact_t_mono", "exact_t_wall", "frame", "duration", "failed":
		return strconv.AppendQuoteToASCII(b, name)
	}
	if isWord(name) {
		return append(b, name...)
	}
	return strconv.AppendQuoteToASCII(b, name)
}

const wordBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"

func isWord(s string) bool { return s != "" && strings.Trim(s, wordBytes) == "" }

// appendTextKeys appends a key list behind its name, in segments as in a native
// file: contexts, then the hashes that each of them has. A further segment is a
// line of its own.
func appendTextKeys(b []byte, indent string, keys []kv.ObjectKey) []byte {
	for first := true; len(keys) > 0; first = false {
		if !first {
			b = append(append(b, indent...), '+')
		}
		width := patternWidth(keys)
		for i := range width {
			b = appendTextContext(append(b, ' '), &keys[i])
		}
		b = append(b, ':')
		at := 0
		for at+width <= len(keys) && (at == 0 || continues(keys[:width], keys[at:at+width])) {
			b = appendHex(append(b, ' '), keys[at].ChunkHash())
			at += width
		}
		if keys = keys[at:]; len(keys) > 0 {
			b = append(b, '\n')
		}
	}
	return append(b, '\n')
}

func appendTextContext(b []byte, k *kv.ObjectKey) []byte {
	b = strconv.AppendQuoteToASCII(b, k.Scope.Model())
	b = fmt.Appendf(b, "@%08x@%d", k.Rank, k.Group)
	if salt := k.Scope.Salt(); salt != "" {
		b = strconv.AppendQuoteToASCII(append(b, '@'), salt)
	}
	return b
}

func appendTextLayout(b []byte, l kv.Layout) []byte {
	if l == 0 {
		return append(b, '-')
	}
	return append(b, l.Desc().String()...)
}

func appendTextSpec(b []byte, s *kv.PrefetchSpec) []byte {
	if s == nil {
		return append(b, " -\n"...)
	}
	b = fmt.Appendf(b, " policy=%v lock=%v readers=%d flat=%t groups=%d\n", s.Policy, s.Lock, s.Readers, s.Flat, len(s.Groups))
	b = appendTextTags(b, "l1_tags", s.L1Tags)
	b = appendTextTags(b, "l2_tags", s.L2Tags)
	for i := range s.Groups {
		g := &s.Groups[i]
		b = fmt.Appendf(b, "    group=%d window=%d layout=", g.Group, g.Window)
		b = append(appendTextLayout(b, g.Layout), "\n      keys"...)
		b = appendTextKeys(b, "      ", g.Keys)
	}
	return b
}

// appendTextTags appends a list of memory tags; none for nil, which allows all.
func appendTextTags(b []byte, name string, tags []kv.MemoryTag) []byte {
	if tags == nil {
		return b
	}
	b = append(append(b, "    "...), name...)
	for _, t := range tags {
		b = strconv.AppendQuoteToASCII(append(b, ' '), t.Segment)
		b = strconv.AppendQuoteToASCII(append(b, '/'), t.Residency)
	}
	return append(b, '\n')
}

// AppendTextOutcome appends what came of a call: a line, and one for each bitmap.
func AppendTextOutcome(b []byte, o *OutcomeRecord) []byte {
	b = strconv.AppendUint(append(b, "outcome "...), o.Seq, 10)
	b = appendSeconds(append(b, ' '), o.MonoNS)
	b = appendSeconds(append(b, ' '), o.WallNS)
	b = append(b, ' ')
	if o.Op != OpUnknown {
		b = append(b, strings.TrimPrefix(o.Qualname, storageManager)...)
	} else {
		b = strconv.AppendQuoteToASCII(b, o.Qualname)
	}
	b = appendSeconds(append(b, " duration="...), o.DurationNS)
	b = strconv.AppendBool(append(b, " failed="...), o.Failed)
	for i, n := range o.Counts {
		b = append(appendName(append(b, ' '), o.Names[i]), '=')
		b = strconv.AppendInt(b, n, 10)
	}
	b = append(b, '\n')
	for _, bits := range o.Bits {
		b = append(b, "  bitmap"...)
		b = strconv.AppendInt(append(b, ' '), int64(bits.Len()), 10)
		b = append(b, ' ')
		if bits.Len() == 0 {
			b = append(b, '-')
		}
		for i := range (bits.Len() + 7) / 8 {
			b = fmt.Appendf(b, "%02x", byte(bits.Words()[i/8]>>(i%8*8)))
		}
		b = append(b, '\n')
	}
	return b
}
