package s3

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"io"
	"sync"
	"sync/atomic"
)

// payload is an object's bytes in L1, or only their number where they mean
// nothing: then zeros are written, and what is read is dropped.
type payload struct {
	size  int
	bytes []byte // nil: they mean nothing
}

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)

	zeros   [readStep]byte
	dropped = sync.Pool{New: func() any { return new([ioBuffer]byte) }}
)

// at returns bytes from off, as many as there are in one piece, at most n.
func (p payload) at(off, n int) []byte {
	n = min(n, p.size-off)
	if p.bytes == nil {
		return zeros[:min(n, len(zeros))]
	}
	return p.bytes[off : off+n]
}

// checksum returns the bytes' CRC-32C as S3 writes it.
func (p payload) checksum() string {
	var sum uint32
	for off := 0; off < p.size; {
		b := p.at(off, readStep)
		sum = crc32.Update(sum, castagnoli, b)
		off += len(b)
	}
	return checksumText(sum)
}

func checksumText(sum uint32) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum))
}

// fill reads exactly the payload from r, to its end, and holds it against the
// checksum, if there is one. An r that ends early is an error of the connection,
// one that goes on a *sizeError.
func (p payload) fill(r io.Reader, checksum string, moved *atomic.Int64) error {
	var room *[ioBuffer]byte
	if p.bytes == nil {
		room = dropped.Get().(*[ioBuffer]byte)
		defer dropped.Put(room)
	}
	var sum uint32
	for off := 0; off < p.size; {
		var b []byte
		if room != nil {
			b = room[:min(len(room), p.size-off)]
		} else {
			b = p.at(off, readStep)
		}
		n, err := r.Read(b)
		sum = crc32.Update(sum, castagnoli, b[:n])
		off += n
		moved.Add(int64(n))
		switch {
		case err == io.EOF && off < p.size:
			return io.ErrUnexpectedEOF
		case err != nil && err != io.EOF:
			return err
		}
	}
	var more [1]byte
	if n, err := io.ReadFull(r, more[:]); n > 0 {
		return &sizeError{-1, int64(p.size)}
	} else if err != io.EOF {
		return err
	}
	if checksum != "" && checksum != checksumText(sum) {
		return errChecksum
	}
	return nil
}

// upload reads a payload once. The transport may go on reading a body after its
// request has failed; Close waits for a read in progress and ends all others, so
// that nobody looks at L1 afterwards.
type upload struct {
	payload
	moved *atomic.Int64

	mu     sync.Mutex
	off    int
	closed bool
}

func (u *upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.closed:
		return 0, errCut
	case u.off == u.size:
		return 0, io.EOF
	}
	n := copy(p, u.at(u.off, len(p)))
	u.off += n
	u.moved.Add(int64(n))
	return n, nil
}

func (u *upload) Close() error {
	u.mu.Lock()
	u.closed = true
	u.mu.Unlock()
	return nil
}
