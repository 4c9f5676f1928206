// Package splice joins two connections: what one side sends the other receives,
// until both have ended, an error ends both, or nothing has come either way for
// too long. Between two sockets the kernel moves long streams itself (splice(2));
// everything else goes through pooled buffers, which idle connections between
// sockets do not hold. Ends of one direction are passed on as such (half-close).
package splice

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// End is how a pair of connections came to its end.
type End uint8

// The ends. The last four are premature: one side may have been told more, or
// less, than the other one said.
const (
	ClientEnded  End = iota // both have ended, the client first
	ServerEnded             // both have ended, the server first
	ClientFailed            // the client broke off, or takes nothing any more
	ServerFailed            // the server did
	Idle                    // nothing came either way for the idle time
	Stopped                 // by Stop
	Refused                 // by Settings.Screen
)

// Clean reports that each side has been told all that the other one said.
func (e End) Clean() bool { return e <= ServerEnded }

// Outcome is what became of a pair of connections.
type Outcome struct {
	// First is what began the end. End is the first premature end there was, if
	// any: after the server has ended, the client may still break off.
	First, End End
	// Err is why, unless End is clean.
	Err error
	// Told says that Abort was called.
	Told bool
	// Up and Down are the bytes passed to the server and to the client.
	Up, Down int64
}

// Settings of a pair.
type Settings struct {
	// Idle is how long nothing may come either way; 0 or less: for ever. Bytes
	// that one side takes count as well as those it sends.
	Idle time.Duration
	// Screen, if set, sees the first bytes of the client, at most Screened of
	// them, before the server does: again and again with more of them until it
	// is decided. Its error ends both connections. Those that stay undecided
	// for ScreenTime are passed on.
	Screen     func(first []byte) (decided bool, err error)
	ScreenTime time.Duration
}

// Screened is how many bytes a Screen gets at most.
const Screened = 32

// Pair is two connections to be joined. Use New.
type Pair struct {
	settings       Settings
	client, server end
	began          time.Time
	active         atomic.Int64 // when something last moved, in ns since began
	over           atomic.Bool  // both directions are to end
	told           atomic.Bool  // the client's direction is to end
	up, down       flow

	mu    sync.Mutex // guards what follows
	ended bool       // out.First is set
	out   Outcome
}

// end is one of the connections.
type end struct {
	net.Conn
	raw syscall.RawConn // its socket, where reading it is reading the connection
	// parts says that a write which was interrupted half-way can go on: in TLS it
	// cannot.
	parts bool
}

func newEnd(nc net.Conn) end {
	e := end{Conn: nc}
	if t := socket(nc); t != nil {
		if rc, err := t.SyscallConn(); err == nil {
			e.raw = rc
		}
	}
	_, e.parts = nc.(interface{ InParts() })
	e.parts = e.parts || e.raw != nil
	return e
}

// socket is the TCP connection that nc is; nil if it is something else.
func socket(nc net.Conn) *net.TCPConn {
	switch t := nc.(type) {
	case *net.TCPConn:
		return t
	case interface{ Socket() *net.TCPConn }:
		return t.Socket()
	}
	return nil
}

// New returns a pair that Run joins.
func New(client, server net.Conn, s Settings) *Pair {
	p := &Pair{settings: s, client: newEnd(client), server: newEnd(server), began: time.Now()}
	p.up.init(p, &p.client, &p.server, ClientEnded, ClientFailed, ServerFailed)
	p.down.init(p, &p.server, &p.client, ServerEnded, ServerFailed, ClientFailed)
	return p
}

// Bytes are those passed to the server and to the client so far.
func (p *Pair) Bytes() (up, down int64) { return p.up.count.Load(), p.down.count.Load() }

// Run joins the connections until both have ended. fromClient and fromServer
// are what has been read of them already. It closes neither.
func (p *Pair) Run(fromClient, fromServer []byte) Outcome {
	var wg sync.WaitGroup
	wg.Go(func() { p.up.run(fromClient) })
	p.down.run(fromServer)
	wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out.Told = p.told.Load()
	p.out.Up, p.out.Down = p.Bytes()
	return p.out
}

// Abort makes the server see the end of what the client sends, as if the client
// had ended it, so that the server can say goodbye. Concurrent, also with Run.
func (p *Pair) Abort() {
	p.told.Store(true)
	_ = p.client.SetReadDeadline(longAgo) // fails only where it is closed already
}

var errStopped = errors.New("the connection was ended by the gateway")

// Stop ends both directions. Concurrent, also with Run.
func (p *Pair) Stop() { p.fail(Stopped, errStopped) }

// Gone ends both directions because the client has gone, for one whose going a
// read would not show: it may have ended its side long before. Concurrent, also
// with Run.
func (p *Pair) Gone(err error) { p.fail(ClientFailed, err) }

// longAgo as a deadline interrupts a blocked read or write at once.
var longAgo = time.Unix(1, 0)

var errIdle = errors.New("nothing came either way for the idle time")

// note keeps the first end that is told, and the first premature one.
func (p *Pair) note(e End, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		p.ended, p.out.First, p.out.End, p.out.Err = true, e, e, err
	} else if p.out.End.Clean() && !e.Clean() {
		p.out.End, p.out.Err = e, err
	}
}

// fail ends both directions.
func (p *Pair) fail(e End, err error) {
	p.note(e, err)
	p.over.Store(true)
	_ = p.client.SetDeadline(longAgo) // fails only where it is closed already
	_ = p.server.SetDeadline(longAgo)
}

// touch notes that something has moved.
func (p *Pair) touch(now time.Time) { p.active.Store(int64(now.Sub(p.began))) }

// left is the idle time that is left.
func (p *Pair) left(now time.Time) time.Duration {
	return p.settings.Idle - (now.Sub(p.began) - time.Duration(p.active.Load()))
}

// Reset closes nc so that its other side sees an error: a stream that was cut
// must not look whole. Of TLS it closes the socket below, which says no goodbye.
func Reset(nc net.Conn) {
	below := nc
	for {
		t, ok := below.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		below = t.NetConn()
	}
	if t := socket(below); t != nil {
		_ = t.SetLinger(0) // closed already: as good
	}
	if below != nc {
		_ = below.Close()
	}
	_ = nc.Close()
}

// timedOut reports that err is a deadline's.
func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// halfClose tells dst that nothing more comes.
func halfClose(dst net.Conn) error {
	if h, ok := dst.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return io.ErrClosedPipe
}
