package wire

import (
	"fmt"

	"github.com/tinylib/msgp/msgp"
)

// Op is the number of an operation.
//
// Source: reference server-protocol.md, section 2.1.
type Op uint8

// The operations that LMCache gives a number. Those that need a GPU, or another
// server, are here for their names.
const (
	OpRegisterKVCache         Op = 1
	OpUnregisterKVCache       Op = 2
	OpRegisterQCache          Op = 3
	OpUnregisterQCache        Op = 4
	OpStoreQ                  Op = 5
	OpStore                   Op = 6
	OpRetrieve                Op = 7
	OpLookup                  Op = 8
	OpQueryPrefetchStatus     Op = 9
	OpWaitPrefetchStatus      Op = 10
	OpQueryPrefetchLookupHits Op = 11 // retired
	OpFreeLookupLocks         Op = 12
	OpEndSession              Op = 13
	OpRegister                Op = 14 // engine-driven, as the next
	OpUnregister              Op = 15
	OpPrepareStore            Op = 16
	OpCommitStore             Op = 17
	OpPrepareRetrieve         Op = 18
	OpCommitRetrieve          Op = 19
	OpClear                   Op = 20
	OpGetChunkSize            Op = 21
	OpPing                    Op = 22
	OpReportBlockAllocation   Op = 23
	OpNoop                    Op = 24
	OpCBRegisterRope          Op = 25
	OpCBUnregisterRope        Op = 26
	OpCBRetrievePreComputed   Op = 27
	OpCBUnifiedLookup         Op = 28
	OpP2PLookupAndLock        Op = 29
	OpP2PQueryLookupResults   Op = 30
	OpP2PUnlockObjects        Op = 31
	OpGetExperimental         Op = 32
	OpCBProtocolHandshake     Op = 33

	// MaxOp is the highest number.
	MaxOp = OpCBProtocolHandshake
)

// operation is a row of the table of operations.
type operation struct {
	name string
	// served says that DecodeRequest knows the operation's arguments, of which it
	// takes between min and max frames: the forms of eras C and D.
	served   bool
	min, max int
}

// Source: reference server-protocol.md, sections 2.1 and 2.3.
var operations = [MaxOp + 1]operation{
	OpRegisterKVCache:         {name: "register_kv_cache"},
	OpUnregisterKVCache:       {name: "unregister_kv_cache"},
	OpRegisterQCache:          {name: "register_q_cache"},
	OpUnregisterQCache:        {name: "unregister_q_cache"},
	OpStoreQ:                  {name: "store_q"},
	OpStore:                   {name: "store"},
	OpRetrieve:                {name: "retrieve"},
	OpLookup:                  {"lookup", true, 2, 2},
	OpQueryPrefetchStatus:     {"query_prefetch_status", true, 1, 1},
	OpWaitPrefetchStatus:      {"wait_prefetch_status", true, 2, 2},
	OpQueryPrefetchLookupHits: {name: "query_prefetch_lookup_hits"},
	OpFreeLookupLocks:         {"free_lookup_locks", true, 2, 2},
	OpEndSession:              {"end_session", true, 1, 2}, // development versions say why it ended
	OpRegister:                {"register_kv_cache_engine_driven_context", true, 1, 1},
	OpUnregister:              {"unregister_kv_cache_engine_driven_context", true, 1, 1},
	OpPrepareStore:            {"prepare_store", true, 2, 2},
	OpCommitStore:             {"commit_store", true, 3, 3},
	OpPrepareRetrieve:         {"prepare_retrieve", true, 2, 2},
	OpCommitRetrieve:          {"commit_retrieve", true, 2, 2},
	OpClear:                   {"clear", true, 0, 1}, // era C: none
	OpGetChunkSize:            {"get_chunk_size", true, 0, 0},
	OpPing:                    {"ping", true, 0, 1}, // era C: none
	OpReportBlockAllocation:   {"report_block_allocation", true, 3, 3},
	OpNoop:                    {"noop", true, 0, 0},
	OpCBRegisterRope:          {name: "cb_register_rope"},
	OpCBUnregisterRope:        {name: "cb_unregister_rope"},
	OpCBRetrievePreComputed:   {name: "cb_retrieve_pre_computed"},
	OpCBUnifiedLookup:         {name: "cb_unified_lookup"},
	OpP2PLookupAndLock:        {name: "p2p_lookup_and_lock"},
	OpP2PQueryLookupResults:   {name: "p2p_query_lookup_results"},
	OpP2PUnlockObjects:        {name: "p2p_unlock_objects"},
	OpGetExperimental:         {"get_experimental", true, 0, 0},
	OpCBProtocolHandshake:     {name: "cb_protocol_handshake"},
}

var opsByName = func() map[string]Op {
	m := make(map[string]Op, len(operations))
	for op, row := range operations {
		if row.name != "" {
			m[row.name] = Op(op)
		}
	}
	return m
}()

// String returns LMCache's name of the operation.
func (op Op) String() string {
	if op == 0 || op > MaxOp {
		return fmt.Sprintf("op %d", uint8(op))
	}
	return operations[op].name
}

// MarshalText makes an Op a key of JSON.
func (op Op) MarshalText() ([]byte, error) { return []byte(op.String()), nil }

// Served says whether DecodeRequest knows the operation's arguments.
func (op Op) Served() bool { return op <= MaxOp && operations[op].served }

// ParseOp reads an operation frame: the number, or the name that newer clients
// may send. The error is an ErrUnknownOp that names what came, or an
// ErrMalformed.
func ParseOp(frame []byte) (Op, error) {
	if len(frame) == 1 && frame[0] >= 1 && frame[0] <= byte(MaxOp) { // as every client sends it
		return Op(frame[0]), nil
	}
	switch msgp.NextType(frame) {
	case msgp.IntType, msgp.UintType:
		n, rest, err := msgp.ReadInt64Bytes(frame)
		if err != nil || len(rest) > 0 {
			return 0, malformed("operation", frame, rest, err)
		}
		if n < 1 || n > int64(MaxOp) {
			return 0, fmt.Errorf("%w %d", ErrUnknownOp, n)
		}
		return Op(n), nil
	case msgp.StrType:
		name, rest, err := msgp.ReadStringZC(frame)
		if err != nil || len(rest) > 0 {
			return 0, malformed("operation", frame, rest, err)
		}
		if op, ok := opsByName[string(name)]; ok {
			return op, nil
		}
		return 0, fmt.Errorf("%w %.40q", ErrUnknownOp, name)
	}
	return 0, fmt.Errorf("operation of %d bytes: %w: neither integer nor text", len(frame), ErrMalformed)
}

// AppendOp appends the number of op.
func AppendOp(b []byte, op Op) []byte { return msgp.AppendUint8(b, uint8(op)) }

// AppendUID appends a request's number.
func AppendUID(b []byte, uid uint64) []byte { return msgp.AppendUint64(b, uid) }
