package gateway

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/clientaddr"
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
			d.countHandshake(c.TLS().Resumed, c.UnknownName())
			return c, nil
		}
		if !errors.Is(err, tlsterm.ErrNothingSaid) && !errors.Is(err, tlsterm.ErrChallenge) {
			d.refusedConnection(reason.From(err), clientaddr.AddrPort(nc.RemoteAddr()), secured)
		}
		return nil, err
	}
}

// countHandshake takes down one that succeeded, over TCP or QUIC.
func (d *door) countHandshake(resumed, unknownName bool) {
	l := d.gateway.current.Load().Listeners[d.address]
	if l == nil {
		return // it is going
	}
	m := d.gateway.settings.Metrics.Listener(l.Name)
	if resumed {
		m.ResumedHandshakes.Inc()
	} else {
		m.FullHandshakes.Inc()
	}
	if unknownName {
		m.UnknownNames.Inc()
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
	overUDP  = layer{"QUIC", "https", "handshake"}
)

// refusedConnection takes down a connection that never came to HTTP. Of floods
// it logs samples; the metrics have them all.
func (d *door) refusedConnection(f *reason.Refusal, peer netip.AddrPort, at layer) {
	name := d.countRefusal(f.Reason)
	log := d.gateway.settings.AccessLog
	if log == nil {
		return
	}
	detail := f.Detail[:min(len(f.Detail), maxDetail)]
	if f.Reason == reason.TLSHandshakesLimited {
		left, ok := d.floods.take(time.Now())
		if !ok {
			return
		}
		if left > 0 {
			detail = fmt.Sprintf("%d more since the last such line", left)
		}
	}
	log.Write(&accesslog.Record{
		Time: time.Now(), Client: peer.Addr(), Peer: peer, Listener: name, Protocol: at.protocol, Scheme: at.scheme,
		Status: f.Reason.Status, Flags: f.Reason.Flag, Reason: f.Reason.Name,
		Detail: detail, Step: at.step,
	})
}

// sampler lets one line a second through and counts the others.
type sampler struct {
	second  atomic.Int64
	skipped atomic.Uint64
}

// take says whether to write a line now, and how many were left out before it.
func (s *sampler) take(now time.Time) (skipped uint64, ok bool) {
	last, this := s.second.Load(), now.Unix()
	if last == this || !s.second.CompareAndSwap(last, this) {
		s.skipped.Add(1)
		return 0, false
	}
	return s.skipped.Swap(0), true
}
