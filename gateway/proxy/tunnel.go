package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

// tunnelBuffer is per direction; a WebSocket that is mostly silent should not
// cost more.
const tunnelBuffer = 4 << 10

var tunnelBuffers = sync.Pool{New: func() any { b := make([]byte, tunnelBuffer); return &b }}

// tunnel hands the connection over to whatever protocol both sides have agreed
// on. The try ends here, the endpoint is given back when the tunnel has ended.
func (f *forward) tunnel(l *leg, conn transport.Hijacker) {
	nc, early, done := conn.Hijack()
	ep, span, idle, r := l.ep, l.span, f.proxy.settings.Timeouts.Idle, l.result()
	front := f.e.Front // f is over before the tunnel begins
	front.Upgrade(func(client net.Conn, sent []byte) {
		t := &pipe{idle: idle, began: time.Now(), client: client}
		if d, ok := front.(exchange.Drainer); ok {
			d.OnDrain(t)
		}
		t.run(client, nc, sent, early)
		if span != nil {
			span.SetInt("gatehouse.tunnel.received", t.up.Load())
			span.SetInt("gatehouse.tunnel.sent", t.down.Load())
			span.End()
		}
		done()
		ep.Done(r)
	})
}

// pipe copies both ways until both have ended, or nothing has come either way
// for the idle time.
type pipe struct {
	idle     time.Duration // 0: any
	began    time.Time
	active   atomic.Int64 // when something last came, in ns since began
	over     atomic.Bool  // both directions are to end
	client   net.Conn
	told     atomic.Bool  // the client's direction is to end
	up, down atomic.Int64 // bytes to the server and to the client
}

func (t *pipe) run(client, server net.Conn, fromClient, fromServer []byte) {
	var wg sync.WaitGroup
	wg.Go(func() { t.copy(server, client, fromClient, &t.up) })
	t.copy(client, server, fromServer, &t.down)
	wg.Wait()
	_ = server.Close() // both directions have ended; the front closes the client's
}

// Abort implements exchange.Aborter: the server sees the end of what the client
// sends, as if the client had ended it, and can say goodbye.
func (t *pipe) Abort() {
	t.told.Store(true)
	_ = t.client.SetReadDeadline(time.Unix(1, 0)) // fails only where it is closed already
}

// ending reports that nothing more of src is wanted.
func (t *pipe) ending(src net.Conn) bool { return t.told.Load() && src == t.client }

// copy passes on what src sends until it ends, then says so to dst by
// half-closing it. An error, or an idle time, ends both directions.
func (t *pipe) copy(dst, src net.Conn, first []byte, count *atomic.Int64) {
	b := tunnelBuffers.Get().(*[]byte)
	defer tunnelBuffers.Put(b)
	if t.pass(dst, src, first, *b, count) == nil {
		if h, ok := dst.(interface{ CloseWrite() error }); ok && h.CloseWrite() == nil {
			return
		}
	}
	t.over.Store(true)
	_ = src.SetDeadline(time.Unix(1, 0)) // fails only where it is closed already
	_ = dst.SetDeadline(time.Unix(1, 0))
}

var errIdle = errors.New("the tunnel was idle for too long")

// pass returns nil when src has ended.
func (t *pipe) pass(dst, src net.Conn, first, b []byte, count *atomic.Int64) error {
	if err := t.write(dst, first, count); err != nil {
		return err
	}
	for {
		if err := t.await(src); err != nil {
			return err
		}
		if t.ending(src) {
			return nil
		}
		n, err := src.Read(b)
		if n > 0 {
			t.active.Store(int64(time.Since(t.began)))
			if err := t.write(dst, b[:n], count); err != nil {
				return err
			}
		}
		switch {
		case err == nil:
		case err == io.EOF, t.ending(src):
			return nil
		case !errors.Is(err, os.ErrDeadlineExceeded) || t.idle <= 0:
			return err
		}
		// A deadline may have passed only because the other direction was busy.
	}
}

// await sets the time until which src may be silent.
func (t *pipe) await(src net.Conn) error {
	if t.idle > 0 {
		left := t.idle - (time.Since(t.began) - time.Duration(t.active.Load()))
		if left <= 0 {
			return errIdle
		}
		if err := src.SetReadDeadline(time.Now().Add(left)); err != nil {
			return err
		}
	}
	if t.over.Load() { // the other direction has set another deadline: do not undo that
		return net.ErrClosed
	}
	return nil
}

func (t *pipe) write(dst net.Conn, p []byte, count *atomic.Int64) error {
	if len(p) == 0 {
		return nil
	}
	if t.idle > 0 {
		if err := dst.SetWriteDeadline(time.Now().Add(t.idle)); err != nil {
			return err
		}
	}
	n, err := dst.Write(p)
	count.Add(int64(n))
	return err
}
