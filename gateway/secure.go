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
			d.refusedConnection(reason.From(err), nc, secured)
		}
		return nil, err
	}
}

// maxDetail keeps what a client had crypto/tls say from filling the log.
const maxDetail = 256

// layer is what a connection was at when it was refused, in the words of the
// access log.
type layer struct{ protocol, scheme, step string }

var (
	secured  = layer{"TLS", "https", "handshake"}
	proxying = layer{"PROXY", "", "proxy_protocol"}
)

// refusedConnection takes down a connection that never came to HTTP.
func (d *door) refusedConnection(f *reason.Refusal, nc net.Conn, at layer) {
	name := d.countRefusal(f.Reason)
	log := d.gateway.settings.AccessLog
	if log == nil {
		return
	}
	peer := addrPort(nc.RemoteAddr())
	log.Write(&accesslog.Record{
		Time: time.Now(), Client: peer.Addr(), Peer: peer, Listener: name, Protocol: at.protocol, Scheme: at.scheme,
		Status: f.Reason.Status, Flags: f.Reason.Flag, Reason: f.Reason.Name,
		Detail: f.Detail[:min(len(f.Detail), maxDetail)], Step: at.step,
	})
}

func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	p := t.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}
