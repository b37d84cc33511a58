package wire

import (
	"fmt"
	"math"
	"time"

	"github.com/tinylib/msgp/msgp"
)

// Request is a decoded request. Which fields it has depends on Op.
type Request struct {
	Op        Op
	Key       Key               // lookup, free_lookup_locks, prepare and commit
	TPSize    int               // lookup, free_lookup_locks
	RequestID string            // end_session, query and wait; that of the Key
	Timeout   time.Duration     // wait
	Context   Context           // register
	Instance  int64             // ping, unregister, prepare and commit, report
	Known     bool              // ping: the client has an instance
	Data      []byte            // commit_store; points into its frame
	Force     bool              // clear
	Model     string            // report
	Blocks    []BlockAllocation // report
}

// DecodeRequest reads the arguments of a request, each of which is a frame. What
// it returns is the caller's own, but for Data. The error is an ErrNotServed, an
// ErrArity or an ErrMalformed.
func DecodeRequest(op Op, args [][]byte) (Request, error) {
	r := Request{Op: op}
	if !op.Served() {
		return r, ErrNotServed
	}
	if row := &operations[op]; len(args) < row.min || len(args) > row.max {
		return r, fmt.Errorf("%w: %d", ErrArity, len(args))
	}
	var err error
	switch op {
	case OpLookup, OpFreeLookupLocks:
		if r.Key, err = decodeKey(args[0]); err == nil {
			err = argument("tp_size", args[1], readInt, &r.TPSize)
		}
		r.RequestID = r.Key.RequestID
	case OpQueryPrefetchStatus, OpEndSession: // why a session ended is of no use here
		err = argument("request_id", args[0], readText, &r.RequestID)
	case OpWaitPrefetchStatus:
		if err = argument("request_id", args[0], readText, &r.RequestID); err == nil {
			err = argument("timeout", args[1], readTimeout, &r.Timeout)
		}
	case OpRegister:
		r.Context, err = decodeContext(args[0])
	case OpUnregister:
		err = argument("instance_id", args[0], msgp.ReadInt64Bytes, &r.Instance)
	case OpPrepareStore, OpPrepareRetrieve, OpCommitStore, OpCommitRetrieve:
		if r.Key, err = decodeKey(args[0]); err == nil {
			err = argument("instance_id", args[1], msgp.ReadInt64Bytes, &r.Instance)
		}
		if err == nil && op == OpCommitStore {
			err = argument("data", args[2], msgp.ReadBytesZC, &r.Data)
		}
		r.RequestID = r.Key.RequestID
	case OpClear:
		if len(args) > 0 {
			err = argument("force", args[0], readFlag, &r.Force)
		}
	case OpPing:
		if len(args) > 0 {
			var rest []byte
			r.Instance, r.Known, rest, err = readMaybeInt(args[0])
			if err != nil || len(rest) > 0 {
				err = malformed("instance_id", args[0], rest, err)
			}
		}
	case OpReportBlockAllocation:
		if err = argument("instance_id", args[0], msgp.ReadInt64Bytes, &r.Instance); err == nil {
			err = argument("model_name", args[1], readText, &r.Model)
		}
		if err == nil {
			err = argument("blocks", args[2], readAllocations, &r.Blocks)
		}
	}
	return r, err
}

// argument reads a frame that holds one value, and nothing behind it.
func argument[T any](what string, frame []byte, read func([]byte) (T, []byte, error), into *T) error {
	v, rest, err := read(frame)
	if err != nil || len(rest) > 0 {
		return malformed(what, frame, rest, err)
	}
	*into = v
	return nil
}

// maxTimeout is what a longer wait is taken for.
const maxTimeout = 24 * time.Hour

// readTimeout reads seconds.
func readTimeout(b []byte) (time.Duration, []byte, error) {
	s, rest, err := readNumber(b)
	switch {
	case err != nil:
		return 0, b, err
	case math.IsNaN(s):
		return 0, b, errRange
	}
	s = max(0, min(s, maxTimeout.Seconds()))
	return time.Duration(math.Round(s * float64(time.Second))), rest, nil
}

func readAllocations(b []byte) ([]BlockAllocation, []byte, error) {
	n, b, err := readArray(b, 1)
	if err != nil {
		return nil, b, err
	}
	var list []BlockAllocation // an entry of one byte is a large entry of ours: no room in advance
	for range n {
		var a BlockAllocation
		b, err = readFields(b, func(name, b []byte) (rest []byte, err error) {
			switch string(name) {
			case "req_id":
				a.RequestID, rest, err = readText(b)
			case "new_block_ids":
				a.Blocks, rest, err = readInts(b)
			case "new_token_ids":
				a.Tokens, rest, err = readInts(b)
			default:
				err = errUnknownField
			}
			return rest, err
		})
		if err != nil {
			return nil, b, err
		}
		list = append(list, a)
	}
	return list, b, nil
}
