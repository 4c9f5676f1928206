package gateway

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
	"github.com/gatehouse-proxy/gatehouse/telemetry/accesslog"
)

// secure is the listener's filter where TLS is spoken; nil where it is not.
func (d *door) secure(t *tlsterm.Terminator) func(net.Conn) (net.Conn, error) {
	if t == nil {
		return nil
	}
	return func(nc net.Conn) (net.Conn, error) {
		c, err := t.Handshake(nc)
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, tlsterm.ErrNothingSaid) {
			d.refusedHandshake(reason.From(err), nc)
		}
		return nil, err
	}
}

// maxDetail keeps what a client had crypto/tls say from filling the log.
const maxDetail = 256

// refusedHandshake takes down a connection that never came to HTTP.
func (d *door) refusedHandshake(f *reason.Refusal, nc net.Conn) {
	name := d.countRefusal(f.Reason)
	log := d.gateway.settings.AccessLog
	if log == nil {
		return
	}
	var peer netip.AddrPort
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		p := a.AddrPort()
		peer = netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	log.Write(&accesslog.Record{
		Time: time.Now(), Client: peer.Addr(), Peer: peer, Listener: name, Protocol: "TLS", Scheme: "https",
		Status: f.Reason.Status, Flags: f.Reason.Flag, Reason: f.Reason.Name,
		Detail: f.Detail[:min(len(f.Detail), maxDetail)], Step: "handshake",
	})
}
