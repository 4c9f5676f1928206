package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/gatehouse-proxy/gatehouse/gateway/bridge"
	"github.com/gatehouse-proxy/gatehouse/gateway/h1"
	"github.com/gatehouse-proxy/gatehouse/gateway/h2"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// front is one protocol's server on a door. Which connections it gets is the
// door's affair.
type front interface {
	// name is the protocol's, for metrics: h1, h2, h3 or tcp.
	name() string
	// update makes what l says apply from the next request or connection on.
	update(l *snapshot.Listener)
	// shutdown takes no more connections, and returns once those there have
	// ended in their own way; an error, when ctx was done first.
	shutdown(ctx context.Context) error
	// close cuts what is left and waits for it. Closing twice is allowed.
	close() error
	// connections counts those open now: all, those of them that wait for a
	// request, and those that carry something else than requests.
	connections() (open, idle, tunnels int)
}

// build makes the fronts that a listener needs.
func (d *door) build(l *snapshot.Listener) {
	d.h2 = h2.New(d.h2Settings(l.Server))
	d.streams = newStreams(d, l)
	d.fronts = append(d.fronts, d.streams)
	d.h1 = h1.New(d.h1Settings(l.Server))
	d.fronts = append(d.fronts, http1{d, d.h1}, http2{d, d.h2})
}

// ServeConn implements listener.Handler: a connection goes to the front of the
// protocol that was agreed on. In plain text h1 finds out.
func (d *door) ServeConn(nc net.Conn) {
	if d.streams.take(nc) {
		return
	}
	if c, ok := nc.(*tlsterm.Conn); ok && c.TLS().Protocol == "h2" {
		d.h2.ServeTLS(c.Conn, c.TLS())
		return
	}
	d.h1.ServeConn(nc)
}

// shutdown ends all fronts at the same time.
func (d *door) shutdown(ctx context.Context) error {
	return d.each(func(f front) error { return f.shutdown(ctx) })
}

func (d *door) closeFronts() error { return d.each(front.close) }

func (d *door) each(do func(front) error) error {
	errs := make([]error, len(d.fronts))
	var all sync.WaitGroup
	for i, f := range d.fronts {
		all.Go(func() { errs[i] = do(f) })
	}
	all.Wait()
	return errors.Join(errs...)
}

func (d *door) connections() (open, idle, tunnels int) {
	for _, f := range d.fronts {
		o, i, t := f.connections()
		open, idle, tunnels = open+o, idle+i, tunnels+t
	}
	return open, idle, tunnels
}

// http1 is the front of HTTP/1.0 and 1.1.
type http1 struct {
	door   *door
	server *h1.Server
}

func (f http1) name() string                       { return "h1" }
func (f http1) update(l *snapshot.Listener)        { f.server.Update(f.door.h1Settings(l.Server)) }
func (f http1) shutdown(ctx context.Context) error { return f.server.Shutdown(ctx) }
func (f http1) close() error                       { return f.server.Close() }

func (f http1) connections() (open, idle, tunnels int) {
	s := f.server.Stats()
	return s.Open, s.Idle, s.Tunnels
}

func (d *door) h1Settings(s snapshot.ServerSettings) h1.Settings {
	set := h1.Settings{
		Handler:     d.serve,
		Limits:      limitsOf(s),
		MaxBody:     s.MaxBody,
		HeadTimeout: s.HeadTimeout, BodyTimeout: s.BodyTimeout,
		WriteTimeout: s.WriteTimeout, IdleTimeout: s.IdleTimeout,
		Refused:  d.refused,
		Panicked: d.panicked,
	}
	if s.PriorKnowledge {
		set.Preface = d.h2.ServePlain
	}
	return set
}

func limitsOf(s snapshot.ServerSettings) wire.Limits {
	return wire.Limits{Head: s.HeadBytes, Fields: s.HeadFields, URI: s.URIBytes}
}

// http2 is the front of HTTP/2.
type http2 struct {
	door   *door
	server *h2.Server
}

func (f http2) name() string                       { return "h2" }
func (f http2) update(l *snapshot.Listener)        { f.server.Update(f.door.h2Settings(l.Server)) }
func (f http2) shutdown(ctx context.Context) error { return f.server.Shutdown(ctx) }
func (f http2) close() error                       { return f.server.Close() }

func (f http2) connections() (open, idle, tunnels int) {
	s := f.server.Stats()
	return s.Open, s.Idle, s.Tunnels
}

func (d *door) h2Settings(s snapshot.ServerSettings) h2.Settings {
	return h2.Settings{
		Handler: d.serve,
		Heads:   limitsOf(s), MaxBody: s.MaxBody,
		HeadTimeout: s.HeadTimeout, BodyTimeout: s.BodyTimeout,
		WriteTimeout: s.WriteTimeout, IdleTimeout: s.IdleTimeout,
		Limits: h2.Limits{
			MaxStreams: s.MaxStreams, StreamWindow: s.StreamWindow, ConnectionWindow: s.ConnectionWindow,
		},
		WebSockets: s.WebSockets,
		Refused:    func(r *reason.Reason, peer netip.AddrPort, head []byte) { d.refusedAs("HTTP/2.0", r, peer, head) },
		Panicked:   d.panicked,
	}
}

// bridgeSettings are for the requests of HTTP/3.
func (d *door) bridgeSettings(l *snapshot.Listener) bridge.Settings {
	s := l.Server
	return bridge.Settings{
		Handler: d.serve,
		Limits:  limitsOf(s), MaxBody: s.MaxBody,
		BodyTimeout: s.BodyTimeout, WriteTimeout: s.WriteTimeout, WebSockets: l.HTTP3.WebSockets,
		Refused:  func(r *reason.Reason, peer netip.AddrPort, head []byte) { d.refusedAs("HTTP/3.0", r, peer, head) },
		Panicked: d.panicked,
	}
}

// panicked takes down a panic that nothing in front of a front has caught.
func (d *door) panicked(v any, stack []byte) {
	d.gateway.settings.Metrics.Panics.Inc()
	d.gateway.settings.Log.Error("the server panicked; the connection was cut", "panic", fmt.Sprint(v), "stack", string(stack))
}
