package proxy

import (
	"errors"
	"net"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/splice"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// tunnel hands the connection over to whatever protocol both sides have agreed
// on. The try ends here, the endpoint is given back when the tunnel has ended.
func (f *forward) tunnel(l *leg, conn transport.Hijacker) {
	if l.span != nil {
		l.describe()
	}
	nc, early, done := conn.Hijack()
	ep, span, idle, r := l.ep, l.span, f.proxy.settings.Timeouts.Idle, l.result()
	e := f.e // which lasts as long as the tunnel; f is over before it begins
	e.Front.Upgrade(func(client net.Conn, sent []byte) {
		if client == nil {
			_ = nc.Close() // nothing was said on it
			if span != nil {
				span.End()
			}
			done()
			ep.Done(r)
			return
		}
		t := splice.New(client, nc, splice.Settings{Idle: idle})
		if d, ok := e.Front.(exchange.Drainer); ok {
			d.OnDrain(t)
		}
		if c, ok := client.(interface{ OnGone(exchange.Aborter) }); ok {
			c.OnGone(gone{t})
		}
		o := t.Run(sent, early)
		_ = nc.Close() // both directions have ended; the front closes the client's
		e.Tunnel = exchange.TunnelInfo{Received: o.Up, Sent: o.Down}
		if why := broken(&o); why != nil {
			_ = e.Refuse(why) // the reply has been: it is noted only
		}
		if span != nil {
			span.SetInt("gatehouse.tunnel.received", o.Up)
			span.SetInt("gatehouse.tunnel.sent", o.Down)
			span.End()
		}
		done()
		ep.Done(r)
	})
}

// gone ends a tunnel whose client has gone.
type gone struct{ *splice.Pair }

var errGone = errors.New("the client gave the tunnel up")

// Abort implements exchange.Aborter.
func (g gone) Abort() { g.Gone(errGone) }

var errNotAccepted = errors.New("the reply to the WebSocket handshake has no Sec-WebSocket-Accept for its key")

// accepted reports whether the endpoint has understood the handshake. Over
// HTTP/1 its client looks itself; others have sent no key, and trust our word.
func (f *forward) accepted(conn transport.Conn) bool {
	head, raw := conn.Head()
	if head.Status != 101 || f.version() < 2 {
		return true
	}
	key := f.ctx.Request.Header.Peek("Sec-WebSocket-Key")
	for _, field := range head.Fields {
		if wire.EqualFold(field.Name(raw), "sec-websocket-accept") {
			return wire.EqualFold(head.Upgrade, wire.WebSocket) && wire.Accepts(key, field.Value(raw))
		}
	}
	return false
}

// broken is why a tunnel was not ended by its two sides; nil if it was. What
// happens after one of them has said goodbye is nobody's fault.
func broken(o *splice.Outcome) error {
	switch {
	case o.Told:
		return reason.Draining.Because("the tunnel was told to end")
	case o.First == splice.ServerFailed:
		return reason.UpstreamReset.Wrap(o.Err)
	case o.First == splice.ClientFailed:
		return reason.ClientGone.Wrap(o.Err)
	case o.End == splice.Idle:
		return reason.TunnelIdle.Wrap(o.Err)
	}
	return nil
}
