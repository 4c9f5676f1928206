package proxy

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

// MirrorSettings send copies of requests elsewhere and ignore the answers.
type MirrorSettings struct {
	Upstream *upstream.Upstream
	// Percent of the requests, 0 to 100.
	Percent float64
	// MaxBody is the longest body that is copied. Bodies of unknown length are
	// copied only if a plugin has read them.
	MaxBody int
	// MaxConcurrent bounds the copies under way; 0 means 128. More are dropped.
	MaxConcurrent int
	// Timeout of a copy; 0 means 15 s.
	Timeout time.Duration
}

// MirrorStats count copies.
type MirrorStats struct {
	// Sent were answered, Failed were not, Dropped were not sent because too
	// many were under way, TooLong because of their body.
	Sent, Failed, Dropped, TooLong uint64
}

// Drop is why a copy is not sent.
type Drop uint8

// The causes of a drop.
const (
	DropBusy        Drop = iota // too many are under way
	DropTooLong                 // the body, or its length is not known
	DropUnavailable             // the upstream has no endpoint to use, or no room
)

// mirror sends copies. Each has a goroutine, of which there is a bounded number.
type mirror struct {
	proxy    *Proxy
	settings MirrorSettings
	free     chan struct{}
	buffers  sync.Pool

	sent, failed, dropped, tooLong atomic.Uint64

	mu     sync.Mutex // guards closed, under, and wg.Add against wg.Wait
	closed bool
	under  map[*copied]struct{}
	wg     sync.WaitGroup
}

// maxMirrored bounds what is read of a mirror's answer to keep its connection.
const maxMirrored = 1 << 20

func newMirror(p *Proxy, s MirrorSettings) (*mirror, error) {
	if s.Upstream == nil {
		return nil, errors.New("the upstream is missing")
	}
	if s.Percent < 0 || s.Percent > 100 {
		return nil, errors.New("percent: must be 0 to 100")
	}
	if s.MaxConcurrent <= 0 {
		s.MaxConcurrent = 128
	}
	if s.Timeout <= 0 {
		s.Timeout = 15 * time.Second
	}
	m := &mirror{proxy: p, settings: s, free: make(chan struct{}, s.MaxConcurrent), under: map[*copied]struct{}{}}
	m.buffers.New = func() any { return new(copied) }
	return m, nil
}

// MirrorStats counts the copies so far; all zero without a mirror.
func (p *Proxy) MirrorStats() MirrorStats {
	m := p.mirror
	if m == nil {
		return MirrorStats{}
	}
	return MirrorStats{Sent: m.sent.Load(), Failed: m.failed.Load(), Dropped: m.dropped.Load(), TooLong: m.tooLong.Load()}
}

// copied is one copy on its way.
type copied struct {
	mu      sync.Mutex // guards aborter, over
	aborter exchange.Aborter
	over    bool
	leg     leg
}

// OnGone implements transport.Watcher: a copy's client goes when the mirror closes.
func (c *copied) OnGone(a exchange.Aborter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.aborter = a
	if a != nil && c.over {
		a.Abort()
	}
}

func (c *copied) abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.aborter != nil {
		c.aborter.Abort()
	}
}

// offer sends a copy of f's request, if it is its turn and it can be copied.
// It returns an error only if reading the client's body fails.
func (m *mirror) offer(f *forward) error {
	if !hit(m.settings.Percent) {
		return nil
	}
	if _, upgrade := f.upgrade(); upgrade {
		return nil
	}
	req := &f.ctx.Request
	var payload []byte
	if req.IsBodyStream() {
		if n := req.Header.ContentLength(); n < 0 || n > m.settings.MaxBody {
			m.drop(DropTooLong)
			return nil
		}
		b, whole, err := exchange.BufferRequest(f.ctx, m.settings.MaxBody)
		if err != nil {
			return err
		}
		if !whole {
			m.drop(DropTooLong)
			return nil
		}
		payload = b
	} else if payload = req.Body(); len(payload) > m.settings.MaxBody {
		m.drop(DropTooLong)
		return nil
	}
	select {
	case m.free <- struct{}{}:
	default:
		m.drop(DropBusy)
		return nil
	}
	m.send(f, payload)
	return nil
}

// drop takes down that a copy is not sent.
func (m *mirror) drop(why Drop) {
	switch why {
	case DropBusy:
		m.dropped.Add(1)
	case DropTooLong:
		m.tooLong.Add(1)
	case DropUnavailable:
		m.failed.Add(1)
	}
	if o := m.proxy.settings.Observer; o != nil {
		o.Dropped(m.settings.Upstream.Name(), why)
	}
}

// send copies what the goroutine needs and starts it.
func (m *mirror) send(f *forward, payload []byte) {
	ep, err := m.settings.Upstream.Pick(&upstream.PickRequest{})
	if err != nil {
		<-m.free
		m.drop(DropUnavailable)
		return
	}
	c := m.buffers.Get().(*copied)
	l := &c.leg
	l.ep, l.span, l.began = ep, nil, time.Now()
	f.body = body{bytes: payload, length: int64(len(payload)), some: len(payload) > 0}
	f.appendHead(l)
	last := f.last()
	f.body = body{}
	l.head = append(l.head, payload...)
	l.note = Try{Upstream: m.settings.Upstream.Name(), Endpoint: ep.Address, Number: 1, Mirror: true}
	l.call = transport.Call{
		Head: l.head, Watch: c, NoBody: f.ctx.IsHead(), Last: last,
		Deadline: l.began.Add(m.settings.Timeout), Idle: m.settings.Timeout,
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		<-m.free
		ep.Done(upstream.Result{Failure: upstream.NotTried})
		return
	}
	m.under[c] = struct{}{}
	m.wg.Go(func() { m.run(c) })
}

func (m *mirror) run(c *copied) {
	l := &c.leg
	err := m.exchange(l)
	l.note.Latency = time.Since(l.began)
	if err != nil {
		m.failed.Add(1)
		l.note.Failure = failureOf(err)
		l.end(upstream.Result{Failure: l.note.Failure}, err)
	} else {
		m.sent.Add(1)
		l.end(l.result(), nil)
	}
	if o := m.proxy.settings.Observer; o != nil {
		o.Tried(&l.note)
	}
	m.mu.Lock()
	delete(m.under, c)
	m.mu.Unlock()
	if cap(l.head) <= keepHead && !c.over {
		c.aborter, l.ep, l.conn, l.call = nil, nil, nil, transport.Call{}
		m.buffers.Put(c)
	}
	<-m.free
}

// exchange sends the copy and reads the answer, so that the connection can be
// used again.
func (m *mirror) exchange(l *leg) error {
	pool, ok := l.ep.Pool.(transport.Pool)
	if !ok {
		return errors.New("the upstream's pool speaks another protocol")
	}
	conn, err := pool.Get(&l.call, false)
	if err != nil {
		return err
	}
	l.note.Reused, l.note.Protocol = conn.Reused(), conn.Protocol()
	if err := conn.Do(&l.call); err != nil {
		return err
	}
	l.conn = conn
	l.note.Status = l.status()
	_, err = io.CopyN(io.Discard, conn, maxMirrored)
	_ = conn.Release() // a copy has no body stream that could fail
	if err == io.EOF {
		err = nil
	}
	return err
}

// close interrupts the copies under way and waits for them.
func (m *mirror) close() {
	m.mu.Lock()
	m.closed = true
	for c := range m.under {
		c.abort()
	}
	m.mu.Unlock()
	m.wg.Wait()
}
