package udp

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/l4"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

const (
	// maxWaiting and maxWaitingBytes bound what a session keeps until it is
	// connected, which takes long only where a name must be resolved.
	maxWaiting      = 16
	maxWaitingBytes = maxDatagram
)

// session is the datagrams between one client and one endpoint.
type session struct {
	server *Server
	key    key
	to     netip.AddrPort // the client, as the socket wants it
	info   []byte         // by what address it is answered
	job    Job
	choice l4.Choice
	record l4.Record

	mu       sync.Mutex // guards what follows
	leg      *l4.Leg    // nil while connecting
	raw      syscall.RawConn
	waiting  [][]byte // until connected; after that what has not been answered
	bytes    int      // of waiting
	answered bool     // the endpoint has said something
	refused  bool     // the endpoint's machine says that nobody listens
	assured  bool     // the client has written again after that
	over     bool     // the next datagram of the client begins another session
	gaveWay  bool     // it is over because of another one
	last     time.Time
	sent     int // datagrams of the client
	got      int // replies
	out      []byte
	outErr   error
	write    func(fd uintptr) bool // made once: a method value allocates

	served chan struct{} // closed once the endpoint has been given back
	going  bool          // it gave way; guarded by the server's mu

	// Of the session's goroutine.
	in    *[]byte
	n     int
	inErr error
	read  func(fd uintptr) bool
}

func newSession(s *Server, k key, from netip.AddrPort, info []byte, job Job) *session {
	if job.Idle <= 0 {
		job.Idle = time.Minute
	}
	x := &session{server: s, key: k, to: from, job: job, last: time.Now(), served: make(chan struct{})}
	if s.info {
		x.info = replyInfo(slices.Clone(info))
	}
	x.write, x.read = x.writeOnce, x.readReady
	x.record = l4.Record{Began: x.last, Client: k.client, Listener: job.Listener, Protocol: "UDP"}
	return x
}

// forward sends a datagram of the client to the endpoint, or keeps it until
// there is one. It does not wait: what cannot be sent at once is lost, as
// datagrams may be. It returns false when the session is over.
func (x *session) forward(b []byte) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over {
		return false
	}
	x.last = time.Now()
	x.sent++
	x.record.Received += int64(len(b))
	x.assured = x.answered
	x.keep(b)
	if x.leg != nil {
		x.send(b)
	}
	return true
}

// send writes one datagram to the endpoint. x.mu is held.
func (x *session) send(b []byte) {
	for range 2 {
		x.out, x.outErr = b, nil
		if x.raw.Write(x.write) != nil || x.outErr == nil || !errors.Is(x.outErr, syscall.ECONNREFUSED) {
			break
		}
		// It is the answer to an earlier one, and has kept this one from going.
		x.refused = true
		_ = x.leg.SetReadDeadline(longAgo)
	}
	x.out = nil
}

func (x *session) writeOnce(fd uintptr) (done bool) {
	_, x.outErr = syscall.Write(int(fd), x.out)
	return true
}

// longAgo as a deadline interrupts a blocked read at once.
var longAgo = time.Unix(1, 0)

// wake makes the session look up; the server's mu is held.
func (x *session) wake() {
	x.mu.Lock()
	if x.leg != nil {
		_ = x.leg.SetReadDeadline(longAgo)
	}
	x.mu.Unlock()
}

func (x *session) run() {
	refusal := x.serve()
	x.mu.Lock()
	x.over = true
	x.drop()
	x.mu.Unlock()
	close(x.served)
	r := &x.record
	r.Duration, r.Refusal = time.Since(r.Began), refusal
	x.server.settings.Load().Ended(r)
	if x.job.Release != nil {
		x.job.Release()
	}
	x.server.left(x)
}

// serve connects, and connects again where nobody listens and nothing has been
// answered.
func (x *session) serve() *reason.Refusal {
	if x.job.Route == nil {
		return reason.L4NoRoute.Because("the listener has no backends")
	}
	local, _ := netip.ParseAddrPort(x.server.Addr().String())
	x.choice = x.job.Route.Choose(x.key.client, local)
	room := true
	for {
		leg, endpoint, err := x.choice.Connect(x.server.ctx, "udp")
		if room && errors.Is(err, reason.UpstreamOverflow) && x.server.awaitRoom(x.choice.Upstream()) {
			room = false
			continue
		}
		x.record.Upstream, x.record.Endpoint, x.record.Attempts = x.choice.Upstream(), endpoint, x.choice.Tries()
		if err != nil {
			return reason.From(err)
		}
		if x.record.Attempts == 1 {
			x.record.Connected = time.Since(x.record.Began)
		}
		again, refusal := x.converse(leg)
		if !again {
			return refusal
		}
	}
}

// converse passes datagrams on until the session has ended, or, with again,
// another endpoint is to be tried.
func (x *session) converse(leg *l4.Leg) (again bool, refusal *reason.Refusal) {
	conn, ok := leg.Conn.(syscall.Conn)
	if !ok {
		leg.Done(upstream.NotTried)
		_ = leg.Close()
		return false, reason.Internal.Because("a connection for datagrams is a %T", leg.Conn)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		leg.Done(upstream.NotTried)
		return false, reason.Internal.Wrap(err)
	}
	x.mu.Lock()
	x.leg, x.raw, x.refused = leg, raw, false
	for _, b := range x.waiting {
		x.send(b)
	}
	x.mu.Unlock()
	failure := upstream.NoFailure
	switch err := x.replies(raw); {
	case errors.Is(err, syscall.ECONNREFUSED):
		failure = upstream.FailedConnect
		refusal = reason.UpstreamConnect.Wrap(err)
	case errors.Is(err, errGaveWay):
		refusal = reason.TooManyConnections.Wrap(err)
	case x.server.ctx.Err() != nil:
		refusal = reason.Draining.Because("the session was cut")
	}
	x.mu.Lock()
	x.leg = nil
	again = failure != upstream.NoFailure && !x.answered && !x.gaveWay && x.server.ctx.Err() == nil
	x.over = !again
	x.mu.Unlock()
	_ = leg.Close()
	leg.Done(failure)
	return again, refusal
}

// errOver says that all replies there should be have come.
var errOver = errors.New("the session has all its replies")

// replies passes the endpoint's datagrams to the client until the session ends.
func (x *session) replies(raw syscall.RawConn) error {
	for {
		if err := x.await(); err != nil {
			return err
		}
		err := raw.Read(x.read)
		if err == nil {
			err = x.inErr
		}
		switch {
		case err == nil:
			x.reply((*x.in)[:x.n])
			buffers.Put(x.in)
			x.in = nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		}
	}
}

// await sets the time until which the session may be idle, and says if it is over.
func (x *session) await() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	left := x.job.Idle - time.Since(x.last)
	switch {
	case x.gaveWay:
		return errGaveWay
	case x.refused:
		return syscall.ECONNREFUSED
	case x.server.ctx.Err() != nil:
		return x.server.ctx.Err()
	case left <= 0:
		x.over = true
		return os.ErrDeadlineExceeded
	case x.job.Replies > 0 && x.got > 0 && x.got >= x.sent*x.job.Replies:
		x.over = true
		return errOver
	}
	return x.leg.SetReadDeadline(time.Now().Add(left))
}

// readReady reads one datagram; the buffer is taken only when there is one.
func (x *session) readReady(fd uintptr) (done bool) {
	x.in, x.inErr = buffers.Get().(*[]byte), nil
	for {
		n, err := syscall.Read(int(fd), *x.in)
		switch {
		case err == syscall.EINTR:
			continue
		case err == nil:
			x.n = n
			return true
		}
		buffers.Put(x.in)
		x.in = nil
		if err == syscall.EAGAIN {
			return false
		}
		x.inErr = err
		return true
	}
}

// reply sends a datagram to the client.
func (x *session) reply(b []byte) {
	x.mu.Lock()
	x.last = time.Now()
	x.got++
	if !x.answered {
		x.answered = true
		x.drop()
	}
	x.record.Sent += int64(len(b))
	x.mu.Unlock()
	if _, _, err := x.server.socket.WriteMsgUDPAddrPort(b, x.info, x.to); err == nil {
		x.server.sent.Add(uint64(len(b)))
	}
}
