package wire

import (
	"github.com/tinylib/msgp/msgp"
)

// The results of requests, as the server appends them. A request without a
// result, and one whose result is null, is answered without a frame for it.

// AppendText appends the result of noop, which is OK.
func AppendText(b []byte, s string) []byte { return msgp.AppendString(b, s) }

// AppendCount appends the result of a status query or get_chunk_size.
func AppendCount(b []byte, n int) []byte { return appendInt(b, n) }

// AppendBool appends the result of ping or a commit.
func AppendBool(b []byte, v bool) []byte { return msgp.AppendBool(b, v) }

// AppendNames appends the result of get_experimental.
func AppendNames(b []byte, names []string) []byte {
	b = msgp.AppendArrayHeader(b, uint32(len(names)))
	for _, s := range names {
		b = msgp.AppendString(b, s)
	}
	return b
}

// AppendPool appends the result of a registration.
func AppendPool(b []byte, p Pool) []byte {
	b = msgp.AppendMapHeader(b, 2)
	b = msgp.AppendString(b, "shm_name")
	b = msgp.AppendString(b, p.Name)
	b = msgp.AppendString(b, "pool_size")
	return appendInt(b, p.Size)
}

// AppendPreparedStore appends the result of prepare_store.
func AppendPreparedStore(b []byte, p PreparedStore) []byte {
	b = msgp.AppendMapHeader(b, 1)
	b = msgp.AppendString(b, "context")
	b = msgp.AppendMapHeader(b, 2)
	b = msgp.AppendString(b, "slots")
	b = appendSlots(b, p.Slots)
	b = msgp.AppendString(b, "chunk_indices")
	return appendInts(b, p.Chunks)
}

// AppendPreparedRetrieve appends the result of prepare_retrieve; without ok the
// slots are left out.
func AppendPreparedRetrieve(b []byte, slots []Slot, ok bool) []byte {
	b = msgp.AppendMapHeader(b, 3)
	b = msgp.AppendString(b, "success")
	b = msgp.AppendBool(b, ok)
	b = msgp.AppendString(b, "data")
	b = msgp.AppendBytes(b, nil)
	b = msgp.AppendString(b, "context")
	if !ok {
		return msgp.AppendMapHeader(b, 0)
	}
	b = msgp.AppendMapHeader(b, 1)
	b = msgp.AppendString(b, "slots")
	return appendSlots(b, slots)
}

func appendSlots(b []byte, slots []Slot) []byte {
	b = msgp.AppendArrayHeader(b, uint32(len(slots)))
	for i := range slots {
		s := &slots[i]
		b = msgp.AppendMapHeader(b, 4)
		b = msgp.AppendString(b, "offset")
		b = appendInt(b, s.Offset)
		b = msgp.AppendString(b, "length")
		b = appendInt(b, s.Length)
		b = msgp.AppendString(b, "shape")
		b = appendInts(b, s.Shape)
		b = msgp.AppendString(b, "dtype")
		b = msgp.AppendString(b, s.DType)
	}
	return b
}
