package zmtp

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

func testScanner(src io.Reader) *scanner {
	return &scanner{
		src: src, maxSize: 1 << 20, maxFrames: 8,
		idle: func() {}, command: func([]byte) error { return nil },
	}
}

// FuzzScanner has as property: what was read, encoded, is read again the same,
// and however the bytes arrive; and a buffer holds no more than twice what came.
func FuzzScanner(f *testing.F) {
	f.Add(appendMessage(nil, [][]byte{{0}, {21}}))
	f.Add(appendMessage(appendMessage(nil, [][]byte{{}, make([]byte, 300), []byte("x")}), [][]byte{{1}}))
	f.Add(appendCommand(appendMessage(nil, [][]byte{{0}}), []byte(pingCommand+"\x00\x00abc")))
	f.Add([]byte{1, 1, 'u', 4, 5, 4, 'P', 'O', 'N', 'G', 0, 0})
	f.Add([]byte{2, 0, 0, 0, 0, 0, 1, 0, 0, 'x'})
	f.Add([]byte{2, 255, 255, 255, 255, 255, 255, 255, 255})
	f.Add(bytes.Repeat([]byte{1, 0}, 10))
	read := func(src io.Reader) (messages [][][]byte, s *scanner, err error) {
		s = testScanner(src)
		for {
			frames, err := s.message()
			if err != nil {
				return messages, s, err
			}
			own := make([][]byte, len(frames))
			for i := range frames {
				own[i] = bytes.Clone(frames[i])
			}
			messages = append(messages, own)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		messages, s, err := read(bytes.NewReader(data))
		var wrong *ProtocolError
		if err != io.EOF && err != io.ErrUnexpectedEOF && !errors.As(err, &wrong) {
			t.Errorf("error %v", err)
		}
		if len(s.buf) > max(bufferSize, 2*len(data)) {
			t.Errorf("a buffer of %d bytes for %d", len(s.buf), len(data))
		}
		var again []byte
		for _, m := range messages {
			again = appendMessage(again, m)
		}
		bytewise, _, err := read(iotest.OneByteReader(bytes.NewReader(again)))
		if err != io.EOF || len(bytewise) != len(messages) {
			t.Fatalf("%d messages encoded are read as %d, %v", len(messages), len(bytewise), err)
		}
		for i := range messages {
			if len(messages[i]) != len(bytewise[i]) {
				t.Fatalf("message %d: %d frames read as %d", i, len(messages[i]), len(bytewise[i]))
			}
			for j := range messages[i] {
				if !bytes.Equal(messages[i][j], bytewise[i][j]) {
					t.Errorf("message %d frame %d: %x read as %x", i, j, messages[i][j], bytewise[i][j])
				}
			}
		}
	})
}

func FuzzReady(f *testing.F) {
	f.Add(appendReady(nil, "DEALER")[2:])
	f.Add([]byte(errorCommand + "\x02no"))
	f.Add([]byte(readyCommand + "\x0bSocket-Type\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, body []byte) {
		name, err := parseReady(body)
		if err == nil && len(name) > len(body) {
			t.Errorf("a name of %d bytes in %d", len(name), len(body))
		}
	})
}
