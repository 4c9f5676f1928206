package upstream

import (
	"crypto/sha256"
	"encoding/base64"
	"sync/atomic"
	"time"
)

// Failure is how a try ended without a usable reply.
type Failure uint8

// The failures. NoFailure means that a reply arrived; its status decides.
const (
	NoFailure      Failure = iota
	FailedConnect          // no connection could be made
	FailedReset            // the connection broke before the reply was complete
	FailedTimeout          // no reply in time
	FailedProtocol         // the reply was garbage
	FailedTLS              // a connection could be made, but not be trusted
	// NotTried says that the endpoint is not to blame: the client went away,
	// a limit of ours refused a connection, a hedge was not needed.
	NotTried
)

// String is the failure as a label.
func (f Failure) String() string {
	switch f {
	case NoFailure:
		return "none"
	case FailedConnect:
		return "connect"
	case FailedReset:
		return "reset"
	case FailedTimeout:
		return "timeout"
	case FailedProtocol:
		return "protocol"
	case FailedTLS:
		return "tls"
	case NotTried:
		return "not_tried"
	default:
		return "unknown"
	}
}

// Result is what became of a picked request.
type Result struct {
	Failure Failure
	// Status of the reply; 0 without one.
	Status int
	// Latency from the first byte sent to the reply's head; 0: not known.
	Latency time.Duration
}

// bad says whether the result counts against the endpoint (Envoy's
// consecutive_5xx with local errors mapped to 5xx).
func (r Result) bad() bool {
	return r.Failure != NoFailure || r.Status >= 500
}

// Endpoint is one address of an upstream. Its methods are safe for concurrent use.
type Endpoint struct {
	// Address is HOST:PORT. It never changes.
	Address string
	// Pool holds the connections; what Settings.NewPool made. It never changes.
	Pool Pool

	id   string
	up   *Upstream
	host *host

	errorsInRow atomic.Int32
	// lastFailure is Failure<<16 | status of the last bad result, failedAt when.
	lastFailure atomic.Uint32
	failedAt    atomic.Int64 // Unix nanoseconds
	ended       atomic.Uint64

	state // guarded by up.mu
}

// ID is a short text that stands for the address: the same on every node and
// after every restart, safe in a cookie, different between upstreams.
func (e *Endpoint) ID() string { return e.id }

// Active is how many requests are with the endpoint now, from all revisions.
func (e *Endpoint) Active() int64 { return e.host.active.Load() }

func endpointID(upstream, address string) string {
	sum := sha256.Sum256([]byte(upstream + "\x00" + address))
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}

// host is what all revisions share of one address: its connections and load.
type host struct {
	active atomic.Int64
	ewma   ewma
	_      [48]byte // active and ewma are written by every request: one cache line per host

	pool    Pool
	poolKey string
	refs    atomic.Int32 // Upstreams that hold it; the last one closes the pool
}

// hold takes h for one more upstream; false once its pool was closed.
func (h *host) hold() bool {
	for {
		n := h.refs.Load()
		if n == 0 {
			return false
		}
		if h.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (h *host) release() {
	if h.refs.Add(-1) == 0 && h.pool != nil {
		h.pool.Close()
	}
}

func (e *Endpoint) begin() { e.host.active.Add(1) }

// Done ends a request that Pick began. It must be called exactly once for each
// endpoint that Pick returned, also after the Upstream was closed.
func (e *Endpoint) Done(r Result) {
	u := e.up
	e.host.active.Add(-1)
	u.breaker.requests.release()
	if r.Failure == NotTried {
		return
	}
	e.ended.Add(1)
	if u.settings.Algorithm == PeakEWMA {
		u.observeLatency(e, r)
	}
	if !r.bad() {
		if e.errorsInRow.Load() != 0 {
			e.errorsInRow.Store(0)
		}
		return
	}
	e.lastFailure.Store(uint32(r.Failure)<<16 | uint32(r.Status)&0xffff)
	e.failedAt.Store(time.Now().UnixNano())
	n := e.errorsInRow.Add(1)
	if o := &u.settings.Outlier; o.Enabled && int(n) >= o.ConsecutiveErrors &&
		e.errorsInRow.CompareAndSwap(n, 0) { // one of many that fail at once tries to eject
		u.eject(e, int(n))
	}
}
