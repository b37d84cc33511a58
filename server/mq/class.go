package mq

import "github.com/lmcache/lmcache-go/server/wire"

// class says where a request runs.
//
// Source: reference server-protocol.md, section 1.5. Where LMCache lets requests
// wait for each other without need, this does not: a ping runs on the reader, a
// status poll that waits has a goroutine of its own, and the normal class has as
// many workers as there are cores.
type class uint8

const (
	// onReader runs on the goroutine that reads the client's connection, before
	// the client's next request.
	onReader class = iota
	// normal runs on a worker; requests of one client with the same request id run
	// in their order, others at the same time.
	normal
	// status runs on the reader if nothing of the same request id waits or runs,
	// else as normal. It never holds a worker while it waits.
	status
	// affinity runs on a worker of its own kind; those of one client run in order.
	affinity
	// barrier runs on the reader once the client's affine requests are through.
	barrier
)

var classes = [wire.MaxOp + 1]class{
	wire.OpNoop:                  onReader,
	wire.OpPing:                  onReader,
	wire.OpGetChunkSize:          onReader,
	wire.OpGetExperimental:       onReader,
	wire.OpReportBlockAllocation: onReader,
	wire.OpRegister:              onReader,
	wire.OpUnregister:            barrier,
	wire.OpLookup:                normal,
	wire.OpFreeLookupLocks:       normal,
	wire.OpEndSession:            normal,
	wire.OpClear:                 normal,
	wire.OpQueryPrefetchStatus:   status,
	wire.OpWaitPrefetchStatus:    status,
	wire.OpPrepareStore:          affinity,
	wire.OpCommitStore:           affinity,
	wire.OpPrepareRetrieve:       affinity,
	wire.OpCommitRetrieve:        affinity,
}
