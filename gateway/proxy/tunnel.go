package proxy

import (
	"net"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/splice"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

// tunnel hands the connection over to whatever protocol both sides have agreed
// on. The try ends here, the endpoint is given back when the tunnel has ended.
func (f *forward) tunnel(l *leg, conn transport.Hijacker) {
	nc, early, done := conn.Hijack()
	ep, span, idle, r := l.ep, l.span, f.proxy.settings.Timeouts.Idle, l.result()
	front := f.e.Front // f is over before the tunnel begins
	front.Upgrade(func(client net.Conn, sent []byte) {
		t := splice.New(client, nc, splice.Settings{Idle: idle})
		if d, ok := front.(exchange.Drainer); ok {
			d.OnDrain(t)
		}
		o := t.Run(sent, early)
		_ = nc.Close() // both directions have ended; the front closes the client's
		if span != nil {
			span.SetInt("gatehouse.tunnel.received", o.Up)
			span.SetInt("gatehouse.tunnel.sent", o.Down)
			span.End()
		}
		done()
		ep.Done(r)
	})
}
