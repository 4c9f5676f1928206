package metrics

import "sync/atomic"

// callNames are the values of the label grpc_status: gRPC's closed list, and
// NONE for calls whose reply ended without a status.
var callNames = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED",
	"NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
	"FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
	"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED", "NONE",
}

const noStatus = len(callNames) - 1

// calls count the gRPC calls of a route by status. They are made with the
// first call: most routes have none.
type calls struct{ p atomic.Pointer[[]callCell] }

// callCell is one shard.
type callCell struct {
	codes [len(callNames)]atomic.Uint64
	_     [64]byte // the next shard starts on its own cache line
}

func (c *calls) record(code uint8, known bool) {
	p := c.p.Load()
	if p == nil {
		fresh := make([]callCell, shards)
		c.p.CompareAndSwap(nil, &fresh)
		p = c.p.Load()
	}
	slot := int(code)
	switch {
	case !known:
		slot = noStatus
	case slot >= noStatus:
		slot = 2 // UNKNOWN, as gRPC's libraries have it
	}
	(*p)[shard()].codes[slot].Add(1)
}

func (c *calls) collect(e *emit, route string) {
	p := c.p.Load()
	if p == nil {
		return
	}
	for i, name := range callNames {
		var n uint64
		for s := range *p {
			n += (*p)[s].codes[i].Load()
		}
		if n > 0 {
			e.counter(grpcCalls, n, route, name)
		}
	}
}

// RecordCall counts a gRPC call by its status code; known is false where the
// reply ended without one. It does not allocate after a route's first call.
func (r *Route) RecordCall(code uint8, known bool) { r.calls.record(code, known) }
