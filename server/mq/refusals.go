package mq

import (
	"encoding/hex"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tinylib/msgp/msgp"

	"github.com/lmcache/lmcache-go/server/wire"
)

// Reason is why a request was not answered.
type Reason uint8

const (
	NoOperation Reason = iota // a message of one frame
	UnknownOp                 // a number or name that LMCache does not have either
	NotServed                 // an operation that needs a GPU, or another module
	WrongArity                // a wrong number of arguments
	Malformed                 // an operation or an argument that cannot be read
	Failed                    // the service returned an error
	Panicked                  // the service panicked
	Undelivered               // the client was gone, or did not read
	Closing                   // it came while the server was being closed

	reasons = Closing + 1
)

var reasonNames = [reasons]string{
	"no operation", "unknown operation", "operation not served", "wrong number of arguments", "malformed", "failed",
	"panicked", "undelivered", "closing",
}

func (r Reason) String() string { return reasonNames[r] }

// MarshalText makes a Reason a key of JSON.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// reasonOf returns the reason of an error of package wire.
func reasonOf(err error) Reason {
	switch {
	case errors.Is(err, wire.ErrUnknownOp):
		return UnknownOp
	case errors.Is(err, wire.ErrNotServed):
		return NotServed
	case errors.Is(err, wire.ErrArity):
		return WrongArity
	}
	return Malformed
}

// summaryEvery is the time between two log lines about requests that went the
// same way.
const summaryEvery = time.Minute

// refusals counts requests that are not answered, and logs the first of each
// kind, which is a reason with an operation; the others of the kind are summed
// up. It is safe for concurrent use.
type refusals struct {
	log    *slog.Logger
	counts [reasons]atomic.Uint64

	mu    sync.Mutex
	kinds map[refusalKind]*refusalLog
}

type refusalKind struct {
	reason Reason
	op     wire.Op // 0 if it is not known
}

type refusalLog struct {
	since  uint64 // those that no line has told of
	logged time.Time
	last   error
}

func newRefusals(log *slog.Logger) *refusals {
	return &refusals{log: log, kinds: map[refusalKind]*refusalLog{}}
}

// add counts a request. The client is the number of its connection.
func (r *refusals) add(reason Reason, op wire.Op, uid []byte, client uint64, err error) {
	r.counts[reason].Add(1)
	now := time.Now()
	kind := refusalKind{reason, op}
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.kinds[kind]
	if k == nil {
		r.kinds[kind] = &refusalLog{logged: now, last: err}
		r.log.Warn("request not answered; others of the kind will be summed up",
			"reason", reason.String(), "op", opName(op), "uid", uidText(uid), "client", client, "error", err)
		return
	}
	k.since++
	k.last = err
	if now.Sub(k.logged) >= summaryEvery {
		k.logged = now
		r.summary(kind, k)
	}
}

// close logs what no line has told of.
func (r *refusals) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for kind, k := range r.kinds {
		r.summary(kind, k)
	}
}

func (r *refusals) summary(kind refusalKind, k *refusalLog) {
	if k.since > 0 {
		r.log.Warn("more requests not answered", "reason", kind.reason.String(), "op", opName(kind.op), "count", k.since, "last", k.last)
		k.since = 0
	}
}

func opName(op wire.Op) string {
	if op == 0 {
		return "unknown"
	}
	return op.String()
}

// uidText returns a request's number, or the bytes that stand for it.
func uidText(uid []byte) string {
	if v, rest, err := msgp.ReadUint64Bytes(uid); err == nil && len(rest) == 0 {
		return strconv.FormatUint(v, 10)
	}
	return "0x" + hex.EncodeToString(uid[:min(len(uid), 16)])
}
