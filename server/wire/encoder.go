package wire

import (
	"time"

	"github.com/tinylib/msgp/msgp"
)

// Encoder makes the frames of requests, as release 0.5.6 sends them. The frames
// that a method returns are valid until the next call. The zero value is ready;
// one goroutine uses it.
type Encoder struct {
	buf    []byte
	ends   []int // of the frames in buf
	frames [][]byte
}

func (e *Encoder) begin(uid uint64, op Op) {
	e.buf = AppendUID(e.buf[:0], uid)
	e.ends = append(e.ends[:0], len(e.buf))
	e.add(AppendOp(e.buf, op))
}

// add ends a frame that was appended to e.buf.
func (e *Encoder) add(b []byte) {
	e.buf = b
	e.ends = append(e.ends, len(b))
}

func (e *Encoder) end() [][]byte {
	e.frames = e.frames[:0]
	start := 0
	for _, end := range e.ends {
		e.frames = append(e.frames, e.buf[start:end:end])
		start = end
	}
	return e.frames
}

// Plain is a request without arguments: noop, get_chunk_size, get_experimental.
func (e *Encoder) Plain(uid uint64, op Op) [][]byte {
	e.begin(uid, op)
	return e.end()
}

// Keyed is a request with a key and a number: lookup and free_lookup_locks with
// the tensor-parallel size; prepare_store, prepare_retrieve and commit_retrieve
// with the instance.
func (e *Encoder) Keyed(uid uint64, op Op, k *Key, n int64) [][]byte {
	e.begin(uid, op)
	e.add(AppendKey(e.buf, k))
	e.add(appendInt(e.buf, n))
	return e.end()
}

// CommitStore commits what was prepared; data is empty with shared memory.
func (e *Encoder) CommitStore(uid uint64, k *Key, instance int64, data []byte) [][]byte {
	e.begin(uid, OpCommitStore)
	e.add(AppendKey(e.buf, k))
	e.add(appendInt(e.buf, instance))
	e.add(msgp.AppendBytes(e.buf, data))
	return e.end()
}

// Session is query_prefetch_status or end_session.
func (e *Encoder) Session(uid uint64, op Op, requestID string) [][]byte {
	e.begin(uid, op)
	e.add(msgp.AppendString(e.buf, requestID))
	return e.end()
}

// Wait is wait_prefetch_status.
func (e *Encoder) Wait(uid uint64, requestID string, timeout time.Duration) [][]byte {
	e.begin(uid, OpWaitPrefetchStatus)
	e.add(msgp.AppendString(e.buf, requestID))
	e.add(msgp.AppendFloat64(e.buf, timeout.Seconds()))
	return e.end()
}

// Register registers an engine.
func (e *Encoder) Register(uid uint64, c *Context) [][]byte {
	e.begin(uid, OpRegister)
	e.add(AppendContext(e.buf, c))
	return e.end()
}

// Unregister takes a registration back.
func (e *Encoder) Unregister(uid uint64, instance int64) [][]byte {
	e.begin(uid, OpUnregister)
	e.add(appendInt(e.buf, instance))
	return e.end()
}

// Ping is a ping of an instance, or of a client that has none.
func (e *Encoder) Ping(uid uint64, instance int64, known bool) [][]byte {
	e.begin(uid, OpPing)
	if known {
		e.add(appendInt(e.buf, instance))
	} else {
		e.add(msgp.AppendNil(e.buf))
	}
	return e.end()
}

// Clear clears L1, of locked objects too with force.
func (e *Encoder) Clear(uid uint64, force bool) [][]byte {
	e.begin(uid, OpClear)
	e.add(msgp.AppendBool(e.buf, force))
	return e.end()
}

// ReportBlockAllocation reports an engine's blocks.
func (e *Encoder) ReportBlockAllocation(uid uint64, instance int64, model string, list []BlockAllocation) [][]byte {
	e.begin(uid, OpReportBlockAllocation)
	e.add(appendInt(e.buf, instance))
	e.add(msgp.AppendString(e.buf, model))
	b := msgp.AppendArrayHeader(e.buf, uint32(len(list)))
	for i := range list {
		b = msgp.AppendMapHeader(b, 3)
		b = msgp.AppendString(b, "req_id")
		b = msgp.AppendString(b, list[i].RequestID)
		b = msgp.AppendString(b, "new_block_ids")
		b = appendInts(b, list[i].Blocks)
		b = msgp.AppendString(b, "new_token_ids")
		b = appendInts(b, list[i].Tokens)
	}
	e.add(b)
	return e.end()
}
