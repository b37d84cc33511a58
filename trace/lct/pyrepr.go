package lct

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// pyReprBytes quotes p as the repr of a Python bytes object.
func pyReprBytes(p []byte) string {
	quote := byte('\'')
	if s := string(p); strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = '"'
	}
	var b strings.Builder
	b.WriteByte('b')
	b.WriteByte(quote)
	for _, c := range p {
		writeReprByte(&b, c, quote)
	}
	b.WriteByte(quote)
	return b.String()
}

func writeReprByte(b *strings.Builder, c, quote byte) {
	switch {
	case c == quote || c == '\\':
		b.WriteByte('\\')
		b.WriteByte(c)
	case c == '\n':
		b.WriteString(`\n`)
	case c == '\r':
		b.WriteString(`\r`)
	case c == '\t':
		b.WriteString(`\t`)
	case c < 0x20 || c >= 0x7f:
		fmt.Fprintf(b, `\x%02x`, c)
	default:
		b.WriteByte(c)
	}
}

// utf8Error says what is wrong with p in the words of Python's decoder: the
// bytes that were a valid beginning of a character, and why it went no further.
// p must not be valid UTF-8.
func utf8Error(p []byte) error {
	at := 0
	for at < len(p) {
		if r, n := utf8.DecodeRune(p[at:]); r != utf8.RuneError || n != 1 {
			at += n
			continue
		}
		break
	}
	first, rest := p[at], p[at+1:]
	need, lo, hi := 0, byte(0x80), byte(0xbf)
	switch {
	case first >= 0xc2 && first <= 0xdf:
		need = 1
	case first >= 0xe0 && first <= 0xef:
		need = 2
	case first >= 0xf0 && first <= 0xf4:
		need = 3
	}
	switch first { // no overlong forms, no surrogates, nothing above U+10FFFF
	case 0xe0:
		lo = 0xa0
	case 0xed:
		hi = 0x9f
	case 0xf0:
		lo = 0x90
	case 0xf4:
		hi = 0x8f
	}
	good := 0
	for good < need && good < len(rest) && rest[good] >= lo && rest[good] <= hi {
		good++
		lo, hi = 0x80, 0xbf
	}
	why := "invalid continuation byte"
	switch {
	case need == 0:
		why = "invalid start byte"
	case good == len(rest):
		why = "unexpected end of data"
	}
	if good == 0 {
		return fmt.Errorf("'utf-8' codec can't decode byte 0x%02x in position %d: %s", first, at, why)
	}
	return fmt.Errorf("'utf-8' codec can't decode bytes in position %d-%d: %s", at, at+good, why)
}
