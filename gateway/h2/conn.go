package h2

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/gatehouse-proxy/gatehouse/gateway/clientaddr"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
	"github.com/gatehouse-proxy/gatehouse/gateway/live"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

const (
	// tableSize is the memory of the client's header compression (RFC 7541, 4.2).
	tableSize = frames.DefaultTable
	// lastWords is how long a connection that ends may take over what was said
	// last, and its client over closing its side.
	lastWords = time.Second
	// farewell is how long after the first GOAWAY a client may still begin
	// streams, unless it answers the PING that goes with it sooner.
	farewell = time.Second
)

// longAgo as a deadline interrupts a blocked read or write at once.
var longAgo = time.Unix(1, 0)

// What a connection has said of its end.
const (
	staying = iota
	leaving // the first GOAWAY: streams may still come
	left    // the last one
)

// conn is one connection. Its reader owns what is above mu, but for the atomic
// fields.
type conn struct {
	srv    *Server
	nc     net.Conn
	limits Limits
	// extended says that the client has been told of extended CONNECT.
	extended bool
	peer     netip.AddrPort
	tls      *exchange.TLS // nil: plain text
	face     exchange.Face

	frames   *frames.Reader // nil before the preface
	settled  bool           // the client's first SETTINGS have come
	dec      *hpack.Decoder
	head     heading
	taken    uint64    // frames
	marked   uint64    // the same, when headBy was set
	starting []*stream // their handlers are to be started before the next read
	toAbort  []aborting

	busy    atomic.Int32  // streams
	idleAt  atomic.Int64  // coarse time since when there is none
	cameAt  atomic.Int64  // coarse time of the last bytes
	midway  atomic.Uint32 // the stream of a DATA frame of which something has come
	headBy  atomic.Int64  // coarse time by which a head must be complete; 0 none
	writeBy atomic.Int64  // the same for a write; timedOut once it has not been

	mu      sync.Mutex // guards what follows
	streams map[uint32]*stream
	running int    // handlers
	highest uint32 // stream that the client has begun
	lastID  uint32 // the same, whose head has come whole while that was welcome
	cut     ring   // streams that we have reset: their client may not know yet
	served  int    // streams that have ended
	resets  int    // of them, by a reset that was the client's doing
	calm    int    // frames that ask for nothing which the client may still send

	ending  uint8
	leaveBy int64          // coarse time at which leaving becomes left
	over    bool           // nothing is read any more
	dead    bool           // nor written
	why     *reason.Reason // who is to be told of it when the reader has ended
	gone    bool           // the reader has ended

	receive, owed int64 // what the client may still send; what it may send more, and does not know
	output

	live.Place
}

func newConn(s *Server, nc net.Conn, about *exchange.TLS, state *tls.ConnectionState) *conn {
	set := s.settings.Load()
	c := &conn{
		srv: s, nc: nc, limits: set.orDefault(), extended: set.WebSockets, tls: about,
		face:    exchange.Face{Local: nc.LocalAddr(), Remote: nc.RemoteAddr(), State: state},
		peer:    clientaddr.AddrPort(nc.RemoteAddr()),
		streams: map[uint32]*stream{}, calm: maxCalm,
	}
	c.receive = int64(c.limits.ConnectionWindow)
	c.output.init(c)
	c.dec = hpack.NewDecoder(tableSize, c.field)
	c.idleAt.Store(s.clock.Now())
	c.headBy.Store(s.clock.After(set.HeadTimeout))
	return c
}

// serve is the reader.
func (c *conn) serve(early []byte) {
	c.mu.Lock()
	c.greet()
	c.kick()
	c.mu.Unlock()
	err := c.read(early)
	c.hangUp()
	c.goodbye(err)
	c.mu.Lock()
	for c.flushing || c.running > 0 {
		c.quiet.Wait()
	}
	giveOut(c.out)
	c.out = nil
	c.mu.Unlock()
	c.srv.conns.Remove(c)
	c.srv.conns.Leave()
}

// refused tells of what is not answered by a handler.
func (c *conn) refused(why *reason.Reason, head []byte) {
	if f := c.srv.settings.Load().Refused; f != nil {
		f(why, c.peer, head)
	}
}

// hangUp tells all handlers that their client has gone.
func (c *conn) hangUp() {
	c.mu.Lock()
	c.gone = true
	for _, s := range c.streams {
		c.drop(s)
	}
	c.running -= len(c.starting) // their handlers will not be
	for _, s := range c.starting {
		s.body.end() // of which something may have come
	}
	c.mu.Unlock()
	c.abort()
	for _, s := range c.starting {
		c.srv.recycle(s)
	}
	c.starting = nil
}

// aborting is a stream whose handler is to be told, unless it is another
// request's by then.
type aborting struct {
	s   *stream
	seq uint32
}

// drop takes s, which the client has given up, away. c.mu is held; abort is
// called when it is not any more.
func (c *conn) drop(s *stream) {
	s.reset = true
	s.wakeAll()
	c.forget(s)
	c.toAbort = append(c.toAbort, aborting{s, s.seq.Load()})
}

// forget takes s out of the streams. c.mu is held.
func (c *conn) forget(s *stream) {
	if c.streams[s.id] != s {
		return
	}
	delete(c.streams, s.id)
	if c.busy.Add(-1) == 0 {
		c.idleAt.Store(c.srv.clock.Now())
	}
	c.served++
}

// abort tells the handlers of dropped streams.
func (c *conn) abort() {
	for _, a := range c.toAbort {
		a.s.hungUp(a.seq)
	}
	clear(c.toAbort)
	c.toAbort = c.toAbort[:0]
}

// goodbye ends the connection. err is why the reader has.
func (c *conn) goodbye(err error) {
	var b *broken
	c.mu.Lock()
	if errors.As(err, &b) && !c.dead {
		c.out = frames.AppendGoAway(c.room(), c.lastID, b.code, "")
		c.ending = left
	}
	why := c.why
	if b != nil {
		why = b.why
	}
	said := c.ending == left && !c.dead
	if said {
		// Whoever writes is to come to an end.
		_ = c.nc.SetWriteDeadline(time.Now().Add(lastWords))
		c.kick()
		for c.flushing {
			c.quiet.Wait()
		}
		said = !c.dead
	}
	c.mu.Unlock()
	if why != nil {
		c.refused(why, nil)
	}
	if said {
		c.linger()
	}
	c.mu.Lock()
	hard := c.dead
	c.dead = true
	c.wakeAll()
	c.mu.Unlock()
	if t, ok := c.nc.(*tls.Conn); ok && hard {
		_ = t.NetConn().Close() // closing TLS would wait for the client to take an alert
		return
	}
	_ = c.nc.Close() // nothing depends on it any more
}

// linger lets the client read our last words: closing while it sends would make
// the kernel throw them away.
func (c *conn) linger() {
	t, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || t.CloseWrite() != nil {
		return
	}
	c.mu.Lock()
	if !c.dead { // Close wants no more of this
		_ = c.nc.SetReadDeadline(time.Now().Add(lastWords))
	}
	c.mu.Unlock()
	b := make([]byte, 4<<10)
	for n := 0; n < maxLinger; {
		m, err := c.nc.Read(b)
		if err != nil {
			return
		}
		n += m
	}
}

const maxLinger = 64 << 20

// drain announces that the connection is to end.
func (c *conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending != staying || c.over || c.dead {
		return
	}
	c.ending = leaving
	c.leaveBy = c.srv.clock.After(farewell)
	c.out = frames.AppendGoAway(c.room(), frames.MaxWindow, frames.NoError, "")
	c.out = frames.AppendPing(c.out, false, farewellPing)
	c.kick()
}

// farewellPing goes with the first GOAWAY: once it has been answered the client
// has read that as well.
var farewellPing = [8]byte{'g', 'o', 'o', 'd', ' ', 'b', 'y', 'e'}

// leave says which stream was the last. c.mu is held.
func (c *conn) leave() {
	if c.ending == left || c.over || c.dead {
		return
	}
	c.ending = left
	c.out = frames.AppendGoAway(c.room(), c.lastID, frames.NoError, "")
	c.endIfDone()
	c.kick()
}

// endIfDone ends the reader once the last stream has. c.mu is held.
func (c *conn) endIfDone() {
	if c.ending == left && len(c.streams) == 0 && c.running == 0 && !c.over {
		c.stopReading()
	}
}

// stopReading makes the reader end. c.mu is held.
func (c *conn) stopReading() {
	c.over = true
	_ = c.nc.SetReadDeadline(longAgo) // closed meanwhile: nobody is blocked then
}

// refuseLater has the reader tell of why, once it has ended. c.mu is held.
func (c *conn) refuseLater(why *reason.Reason) {
	if c.why == nil {
		c.why = why
	}
}

// fail ends the connection under whatever is going on on it. c.mu is held.
func (c *conn) fail() {
	c.dead = true
	c.wakeAll()
	_ = c.nc.SetDeadline(longAgo) // closed meanwhile: nobody is blocked then
}

// abandon is fail, for others.
func (c *conn) abandon() {
	c.mu.Lock()
	c.fail()
	c.mu.Unlock()
}

// wakeAll lets everybody look at what has become of the connection. c.mu is held.
func (c *conn) wakeAll() {
	for _, s := range c.streams {
		s.wakeAll()
	}
}
