package wire_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/server/wire"
	"github.com/lmcache/lmcache-go/server/wire/golden"
)

const sessions = "../../testdata/zmq/session-*.txt"

func readSessions(t testing.TB) map[string][]golden.Exchange {
	t.Helper()
	names, err := filepath.Glob(sessions)
	if err != nil || len(names) == 0 {
		t.Fatalf("no sessions: %v", err)
	}
	all := map[string][]golden.Exchange{}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := golden.Parse(f)
		_ = f.Close()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		list, err := golden.Exchanges(lines)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all[strings.TrimSuffix(strings.TrimPrefix(filepath.Base(name), "session-"), ".txt")] = list
	}
	return all
}

// refused are the cases of session-errors that this package refuses. The others
// that LMCache does not answer are well formed, and refused by what they mean,
// or answered here on purpose.
var refused = map[string]error{
	"unknown integer operation 99":                     wire.ErrUnknownOp,
	"retired integer operation 11":                     wire.ErrNotServed,
	"integer operation 34":                             wire.ErrUnknownOp,
	"integer operation 0":                              wire.ErrUnknownOp,
	"unknown string operation":                         wire.ErrUnknownOp,
	"operation nil":                                    wire.ErrMalformed,
	"operation float":                                  wire.ErrMalformed,
	"operation true":                                   wire.ErrMalformed,
	"operation not msgpack (c1)":                       wire.ErrMalformed,
	"operation with trailing byte":                     wire.ErrMalformed,
	"ping with two arguments":                          wire.ErrArity,
	"ping with a string":                               wire.ErrMalformed,
	"ping with true":                                   wire.ErrMalformed,
	"get_chunk_size with an argument":                  wire.ErrArity,
	"end_session with an int":                          wire.ErrMalformed,
	"register: num_physical_slots 0":                   wire.ErrMalformed,
	"register: missing field use_mla":                  wire.ErrMalformed,
	"lookup: garbage payload (c1)":                     wire.ErrMalformed,
	"lookup: one argument only":                        wire.ErrArity,
	"lookup: three arguments":                          wire.ErrArity,
	"lookup: key is an array":                          wire.ErrMalformed,
	"lookup: token id is a string":                     wire.ErrMalformed,
	"lookup: token id negative":                        wire.ErrMalformed,
	"lookup: token id 2^32":                            wire.ErrMalformed,
	"lookup: salt with a slash":                        wire.ErrMalformed,
	"lookup: salt of 129 characters":                   wire.ErrMalformed,
	"status: request id is an int":                     wire.ErrMalformed,
	"wait: one argument only":                          wire.ErrArity,
	"commit_store: data as str instead of bin":         wire.ErrMalformed,
	"store (module not loaded in engine_driven mode)":  wire.ErrNotServed,
	"retrieve (module not loaded)":                     wire.ErrNotServed,
	"register_kv_cache (module not loaded)":            wire.ErrNotServed,
	"cb_protocol_handshake (module not loaded)":        wire.ErrNotServed,
	"server_module_call (string operation, no plugin)": wire.ErrUnknownOp,
	"unregister with two arguments":                    wire.ErrArity,
}

// TestGoldenRequests decodes all that LMCache's clients sent, and encodes it to
// the same bytes; and refuses what its server does not answer, by kind.
func TestGoldenRequests(t *testing.T) {
	seen := map[string]bool{}
	var e wire.Encoder
	for name, list := range readSessions(t) {
		for _, x := range list {
			if x.Request.Control() {
				continue
			}
			frames := x.Request.Frames
			op, err := wire.ParseOp(frames[1])
			var r wire.Request
			if err == nil {
				r, err = wire.DecodeRequest(op, frames[2:])
			}
			want, bad := refused[x.Request.Case]
			switch {
			case bad:
				seen[x.Request.Case] = true
				if !errors.Is(err, want) {
					t.Errorf("%s, line %d, %s: got %v; want %v", name, x.Request.Number, x.Request.Case, err, want)
				}
				continue
			case errors.Is(err, wire.ErrNotServed) || errors.Is(err, wire.ErrUnknownOp):
				if name != "handles" && name != "stream" {
					t.Errorf("%s, line %d: %v", name, x.Request.Number, err)
				}
				continue
			case err != nil:
				t.Errorf("%s, line %d: %v", name, x.Request.Number, err)
				continue
			}
			if name == "errors" { // their uids and forms are none of a client's
				continue
			}
			again := encode(&e, uint64(0), &r)
			if again == nil {
				t.Errorf("%s, line %d: no way to encode a %v", name, x.Request.Number, op)
				continue
			}
			if !reflect.DeepEqual(again[1:], frames[1:]) && !bytes.Contains(frames[2], []byte("request_configs\x81")) { // which nobody here needs
				t.Errorf("%s, line %d: got  %x;\nwant %x", name, x.Request.Number, again[1:], frames[1:])
			}
		}
	}
	for c := range refused {
		if !seen[c] {
			t.Errorf("no case %q in the sessions", c)
		}
	}
}

// encode makes the frames of a decoded request, as a client would.
func encode(e *wire.Encoder, uid uint64, r *wire.Request) [][]byte {
	switch r.Op {
	case wire.OpNoop, wire.OpGetChunkSize, wire.OpGetExperimental:
		return e.Plain(uid, r.Op)
	case wire.OpLookup, wire.OpFreeLookupLocks:
		return e.Keyed(uid, r.Op, &r.Key, int64(r.TPSize))
	case wire.OpPrepareStore, wire.OpPrepareRetrieve, wire.OpCommitRetrieve:
		return e.Keyed(uid, r.Op, &r.Key, r.Instance)
	case wire.OpCommitStore:
		return e.CommitStore(uid, &r.Key, r.Instance, r.Data)
	case wire.OpQueryPrefetchStatus, wire.OpEndSession:
		return e.Session(uid, r.Op, r.RequestID)
	case wire.OpWaitPrefetchStatus:
		return e.Wait(uid, r.RequestID, r.Timeout)
	case wire.OpRegister:
		return e.Register(uid, &r.Context)
	case wire.OpUnregister:
		return e.Unregister(uid, r.Instance)
	case wire.OpPing:
		return e.Ping(uid, r.Instance, r.Known)
	case wire.OpClear:
		return e.Clear(uid, r.Force)
	case wire.OpReportBlockAllocation:
		return e.ReportBlockAllocation(uid, r.Instance, r.Model, r.Blocks)
	}
	return nil
}

// TestGoldenReplies decodes all that LMCache's server answered, and encodes it to
// the same bytes.
func TestGoldenReplies(t *testing.T) {
	for name, list := range readSessions(t) {
		for _, x := range list {
			op, err := wire.ParseOp(x.Request.Frames[1])
			if err != nil || !op.Served() {
				continue
			}
			for _, reply := range x.Replies {
				if name == "errors" { // uids that are no numbers
					reply.Frames[0] = []byte{0}
				}
				r, err := wire.ParseReply(reply.Frames)
				if err != nil {
					t.Errorf("%s, line %d: %v", name, reply.Number, err)
					continue
				}
				again, err := reencode(op, &r)
				if err != nil {
					t.Errorf("%s, line %d: %v", name, reply.Number, err)
				}
				if !bytes.Equal(again, r.Result) {
					t.Errorf("%s, line %d: got  %x;\nwant %x", name, reply.Number, again, r.Result)
				}
			}
		}
	}
}

func reencode(op wire.Op, r *wire.Reply) ([]byte, error) {
	switch op {
	case wire.OpNoop:
		s, err := r.Text()
		return wire.AppendText(nil, s), err
	case wire.OpGetChunkSize, wire.OpQueryPrefetchStatus, wire.OpWaitPrefetchStatus:
		n, ok, err := r.Count()
		if !ok {
			return nil, err
		}
		return wire.AppendCount(nil, n), err
	case wire.OpPing, wire.OpCommitStore, wire.OpCommitRetrieve:
		v, err := r.Bool()
		return wire.AppendBool(nil, v), err
	case wire.OpGetExperimental:
		names, err := r.Names()
		return wire.AppendNames(nil, names), err
	case wire.OpRegister:
		p, err := r.Pool()
		return wire.AppendPool(nil, p), err
	case wire.OpPrepareStore:
		p, _, err := r.PreparedStore()
		return wire.AppendPreparedStore(nil, p), err
	case wire.OpPrepareRetrieve:
		slots, ok, err := r.PreparedRetrieve()
		return wire.AppendPreparedRetrieve(nil, slots, ok), err
	}
	return nil, nil
}
