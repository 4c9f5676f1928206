package h1

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/clientaddr"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/live"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// What a connection is doing.
const (
	phaseIdle   = iota // waiting for the first byte of a request
	phaseHead          // waiting for the rest of a head
	phaseBusy          // handler or reply
	phaseTunnel        // upgraded
	phaseEnding        // saying good-bye
)

// outcome is what one turn of a connection's loop came to.
type outcome uint8

const (
	more    outcome = iota // the buffered bytes are no complete head
	served                 // a request was answered, go on
	outside                // a request that needs to read or own the socket
	refused                // c.refusal is to be answered
	http2                  // the connection speaks HTTP/2
	ended                  // nothing more to do but close
)

// longAgo as a deadline interrupts a blocked read or write at once.
var longAgo = time.Unix(1, 0)

var (
	errWriteTimeout = errors.New("h1: the client does not take the reply")
	errInterrupted  = errors.New("h1: reading the request body was interrupted")
	errOver         = errors.New("h1: the request is over")
)

// state is what a connection needs only while a request is in it.
type state struct {
	ctx  fasthttp.RequestCtx
	head wire.Head
	body *requestBody
	in   []byte
	out  []byte

	date, trailers []byte // of the reply
}

// conn is one connection. Its goroutine owns all fields but the atomic ones and
// those under mu; the sweeper owns lastSeq and quiet.
type conn struct {
	exchange.Untouchable // by plugins

	srv  *Server
	nc   net.Conn
	face net.Conn // what plugins see as the connection
	// sock is the socket itself, for watching and parking it; nil where there is none. raw is
	// the same where reading the socket is reading nc, nil otherwise (TLS).
	sock, raw syscall.RawConn
	tls       *exchange.TLS // nil: plain text
	ready     func(fd uintptr) bool
	peer      netip.AddrPort

	settings *Settings // of the request in progress
	s        *state
	// s.in[r:w] is unread; s.in[:keep] is the head of the request in progress.
	r, w, keep int
	scanned    int     // unread bytes that are known to be no complete head
	pastLine   bool    // the scanned bytes hold the first line
	blank      bool    // the one empty line before a request was used up
	one        [1]byte // where a plain connection waits for a request
	drained    bool    // the last read took all there was
	inReady    bool    // inside raw.Read: the socket is read and written by fd
	fd         int     // valid while inReady
	exit       outcome
	refusal    *reason.Reason

	request // of the request in progress

	phase    atomic.Uint32
	seq      atomic.Uint32 // counts requests
	readBy   atomic.Int64  // coarse time by which a read must have succeeded; 0 none
	writeBy  atomic.Int64  // the same for a write; timedOut once it has not
	gone     atomic.Bool   // the client closed its side
	parked   atomic.Bool   // no goroutine: whoever sets it to false starts one
	wantPark atomic.Bool
	leave    atomic.Bool // it is to end unless a request has begun

	mu      sync.Mutex
	aborter exchange.Aborter
	drainer exchange.Aborter // told by Shutdown
	watched atomic.Uint32    // a watchState
	ticket  uint32           // with the watcher
	done    bool

	live.Place
	lastSeq uint32
	quiet   int // ticks without a new request
}

// socketer is a connection around a TCP socket that neither buffers nor changes
// what is read and written: the socket may be used in its place.
type socketer interface{ Socket() *net.TCPConn }

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{srv: s, nc: nc, settings: s.settings.Load()}
	c.face = c
	c.peer = clientaddr.AddrPort(nc.RemoteAddr())
	if s, ok := nc.(exchange.Secured); ok {
		c.tls = s.TLS()
	}
	switch t := nc.(type) {
	case *net.TCPConn:
		c.raw = rawConn(t)
		c.sock = c.raw
	case socketer:
		c.raw = rawConn(t.Socket())
		c.sock = c.raw
	case interface {
		ConnectionState() tls.ConnectionState
		NetConn() net.Conn
	}:
		c.face = secure{c, t}
		switch t := t.NetConn().(type) {
		case *net.TCPConn:
			c.sock = rawConn(t)
		case socketer:
			c.sock = rawConn(t.Socket())
		}
	}
	if c.raw != nil {
		c.ready = c.serveReady
	}
	c.readBy.Store(s.clock.After(c.settings.HeadTimeout))
	return c
}

// serve is the connection's goroutine.
func (c *conn) serve() {
	parked := false // local: once parked, or handed over, others own the connection
	defer func() {
		if v := recover(); v != nil {
			c.panicked(v)
		}
		if !parked {
			c.finish()
		}
	}()
	parked = c.run()
}

// run serves requests until the connection ends or is parked.
func (c *conn) run() (parked bool) {
	for {
		var err error
		if c.raw != nil {
			c.exit = more
			err = c.raw.Read(c.ready)
		} else {
			c.exit, err = c.servePlain()
		}
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return false
			}
			switch c.kicked() {
			case parkIt:
				if c.park() {
					return true
				}
			case endIt:
				return false
			}
			continue
		}
		switch c.exit {
		case outside:
			if !c.serveOutside() {
				return false
			}
		case refused:
			c.refuse(c.refusal)
			c.linger()
			return false
		case http2:
			return c.handOver()
		default:
			if c.r < c.w && c.s != nil && !c.cut {
				c.linger() // unread bytes would make the kernel reset the reply away
			}
			return false
		}
	}
}

// handOver lets a connection of HTTP/2 go, unless the server is about to end.
func (c *conn) handOver() (gone bool) {
	c.mu.Lock()
	if c.gone.Load() || c.srv.leaving.Load() {
		c.mu.Unlock()
		return false
	}
	c.done = true // nobody sets a deadline from here on
	c.unwatch()
	c.mu.Unlock()
	early := bytes.Clone(c.s.in[c.r:c.w])
	take, nc := c.settings.Preface, c.nc
	c.srv.conns.Remove(c)
	c.putState()
	_ = nc.SetDeadline(time.Time{}) // closed meanwhile: whoever gets it will see
	take(nc, early)
	c.srv.conns.Leave()
	return true
}

// serveOutside answers a request whose handler may read from the socket.
func (c *conn) serveOutside() (keep bool) {
	keep = c.handle()
	c.drained = false
	if c.upgrade != nil {
		c.tunnel()
		return false
	}
	if keep && c.leftover {
		keep = c.drain()
	}
	c.endBody() // before lingering: nobody else reads the socket from here on
	if !keep && c.leftover && !c.cut {
		c.linger()
	}
	return keep
}

// verdict on why a blocked read was interrupted.
type verdict uint8

const (
	goOn verdict = iota
	parkIt
	endIt
)

// kicked finds out why the wait for a request was interrupted. A kick is only a
// hint: a request may have begun since it was given.
func (c *conn) kicked() verdict {
	_ = c.nc.SetReadDeadline(time.Time{}) // before looking: a kick from now on counts
	c.drained = false
	if d := c.readBy.Load(); d != 0 && c.srv.clock.Now() >= d {
		if c.phase.Load() == phaseHead && !c.gone.Load() {
			c.refuse(reason.HeadTimeout)
			c.linger()
		}
		return endIt
	}
	if c.phase.Load() != phaseIdle {
		return goOn
	}
	if c.leave.Load() {
		return endIt
	}
	if c.wantPark.Swap(false) && !c.gone.Load() {
		return parkIt
	}
	return goOn
}

// kick makes the connection's goroutine look up from waiting for bytes.
func (c *conn) kick() {
	c.mu.Lock()
	if p := c.phase.Load(); p != phaseTunnel && p != phaseEnding && !c.done {
		_ = c.nc.SetReadDeadline(longAgo) // closed meanwhile: nothing to interrupt
		c.unpark()
	}
	c.mu.Unlock()
}

// dismiss ends the connection unless a request has begun.
func (c *conn) dismiss() {
	c.leave.Store(true)
	c.kick()
}

// hungUp is called when the client has closed its side, or both.
func (c *conn) hungUp() {
	c.gone.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch p := c.phase.Load(); {
	case c.done || p == phaseTunnel:
	case p == phaseBusy:
		if a := c.aborter; a != nil {
			c.aborter = nil
			a.Abort()
		}
	case p != phaseEnding:
		_ = c.nc.SetReadDeadline(longAgo)
	}
}

// abandon ends the connection under whatever is going on on it; its goroutine
// finds it ended and closes it.
func (c *conn) abandon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done {
		return
	}
	c.gone.Store(true)
	if c.sock != nil {
		// Closing it would wait for a loop inside RawConn.Read, and that for us.
		shutdown(c.sock)
	} else {
		_ = c.nc.Close() // finish closes it again; its error matters to nobody
	}
	if a := c.aborter; a != nil {
		c.aborter = nil
		a.Abort()
	}
	c.unpark()
}

// finish closes the connection and gives back all it has.
func (c *conn) finish() {
	c.mu.Lock()
	c.done = true
	c.unwatch()
	c.mu.Unlock()
	c.srv.conns.Remove(c)
	_ = c.nc.Close() // nothing depends on it any more
	c.putState()
	c.srv.conns.Leave()
}

func (c *conn) getState() {
	if c.s != nil {
		return
	}
	if s, _ := c.srv.states.Get().(*state); s != nil {
		c.s = s
		return
	}
	c.s = &state{in: make([]byte, firstBuffer), out: make([]byte, 0, 1024), body: new(requestBody)}
}

func (c *conn) putState() {
	s := c.s
	if s == nil || c.dirty { // a dirty one may still be in use: it stays here for ever
		return
	}
	c.s = nil
	c.r, c.w = 0, 0
	if len(s.in) > maxPooledBuffer {
		s.in = make([]byte, firstBuffer)
	}
	if cap(s.out) > maxPooledBuffer {
		s.out = make([]byte, 0, 1024)
	}
	c.srv.states.Put(s)
}
