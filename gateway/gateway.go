// Package gateway runs the data plane: it owns the listeners and the current
// snapshot, dispatches every request into the snapshot's chain, and takes down
// what became of it. It is handed compiled snapshots and knows no config.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/h1"
	"github.com/gatehouse-proxy/gatehouse/gateway/h2"
	"github.com/gatehouse-proxy/gatehouse/gateway/listener"
	"github.com/gatehouse-proxy/gatehouse/gateway/pipeline"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
	"github.com/gatehouse-proxy/gatehouse/gateway/socket"
	"github.com/gatehouse-proxy/gatehouse/telemetry/accesslog"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
	"github.com/gatehouse-proxy/gatehouse/telemetry/trace"
)

// Settings are what a gateway reports to. Log and Metrics are required.
type Settings struct {
	Log       *slog.Logger
	Metrics   *metrics.Metrics
	AccessLog *accesslog.Log // nil: none
	Tracer    *trace.Tracer  // nil: no spans
	// Challenge is the answer to a request for a path by which a certificate
	// authority asks; false: it is none that is pending. nil: there are none.
	Challenge func(path string) (answer string, ok bool)
	// Sockets are those the process was started with; nil: none.
	Sockets *socket.Inherited
	// HoldDatagrams says that another process still reads the UDP sockets: nothing
	// is read from any before ReadDatagrams.
	HoldDatagrams bool
}

// Gateway is the data plane of one node. Swap, Drain and Close are for one
// goroutine at a time; everything else is concurrent.
type Gateway struct {
	settings Settings
	run      fasthttp.RequestHandler
	current  atomic.Pointer[snapshot.Snapshot]

	mu        sync.Mutex            // guards doors, datagrams, fading, draining, drained
	doors     map[string]*door      // by key in snapshot.Listeners
	datagrams map[string]*datagrams // the same for UDP
	fading    map[string]*http3     // fronts that are on their way out, the same
	draining  []*door               // after Drain
	drained   bool                  // Drain was called
	leaving   sync.WaitGroup        // doors that are going
	released  atomic.Bool           // the last snapshot
	holding   bool                  // UDP sockets are not read yet; guarded by mu, as is
	held      []func()              // what begins to
}

// door is one address traffic enters by: its socket and its protocol fronts.
type door struct {
	gateway *Gateway
	address string // its key in snapshot.Listeners
	socket  *listener.Listener
	h1      *h1.Server
	h2      *h2.Server
	streams *streams
	http3   *http3  // nil: not served
	fronts  []front // all of them
	floods  sampler // of refused handshakes
	last    atomic.Pointer[binding]
}

// binding is a door together with what one snapshot says about it. It owns the
// exchanges dispatched through it.
type binding struct {
	door     *door
	snapshot *snapshot.Snapshot
	listener *snapshot.Listener
	altSvc   []byte // for replies; nil: none
}

// New returns a gateway without listeners; Swap gives it its first snapshot.
func New(s Settings) *Gateway {
	g := &Gateway{settings: s, doors: map[string]*door{}, datagrams: map[string]*datagrams{}, fading: map[string]*http3{}, holding: s.HoldDatagrams}
	g.run = pipeline.New(func(e *exchange.Exchange, v any, stack []byte) {
		s.Metrics.Panics.Inc()
		s.Log.Error("a plugin panicked; the request was answered with 500",
			"route", e.Route.Name, "plugin", e.RefusedBy, "request_id", e.RequestID, "panic", fmt.Sprint(v), "stack", string(stack))
	})
	return g
}

var errDrained = errors.New("the gateway is shutting down")

// Swap makes next current. New sockets are bound first: if one cannot be, the
// error, a BindError, names it, nothing has changed and next still belongs to
// the caller.
// Addresses that stay keep their sockets and connections; those that go stop
// accepting and drain for as long as drain says. After Drain it fails.
func (g *Gateway) Swap(ctx context.Context, next *snapshot.Snapshot, drain time.Duration) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.drained {
		return errDrained
	}
	fresh, quic, err := g.bind(ctx, next, drain)
	if err != nil {
		return err
	}
	freshDatagrams, err := g.bindDatagrams(ctx, next)
	if err != nil {
		g.unbind(ctx, fresh, quic, drain)
		return err
	}
	for address, l := range next.Listeners {
		if d := g.doors[address]; d != nil {
			for _, f := range d.fronts {
				f.update(l)
			}
			d.socket.Update(d.socketSettings(l))
		}
	}
	prev := g.current.Swap(next)
	for _, d := range fresh {
		g.doors[d.address] = d
		d.socket.Serve(d)
	}
	for _, f := range quic {
		f.door.serveHTTP3(f, next.Listeners[f.door.address])
	}
	for address, d := range g.doors {
		if l := next.Listeners[address]; l != nil && l.HTTP3 == nil && d.http3 != nil {
			g.endHTTP3(context.WithoutCancel(ctx), d, drain)
		}
		d.last.Store(nil) // or an idle address would keep the old snapshot in memory
		if l := next.Listeners[address]; l != nil {
			g.settings.Metrics.Listener(l.Name).Watch(d.counts())
		}
	}
	for address, d := range g.doors {
		if next.Listeners[address] == nil {
			delete(g.doors, address)
			g.leave(context.WithoutCancel(ctx), d, drain)
		}
	}
	g.swapDatagrams(ctx, freshDatagrams, next, drain)
	if prev != nil {
		prev.Units.Retire(next.Units)
		prev.Release()
	}
	return nil
}

// counts are taken at every scrape, of the fronts that there are now.
func (d *door) counts() func() metrics.Connections {
	fronts, quic := slices.Clone(d.fronts), d.http3
	return func() metrics.Connections {
		s := d.socket.Stats()
		passed := d.streams.server.Stats()
		c := metrics.Connections{
			Open: s.Open, Accepted: s.Accepted, Refused: s.Refused, AcceptFails: s.AcceptErrors,
			Received: uint64(passed.Received), Sent: uint64(passed.Sent),
		}
		if quic != nil {
			s := quic.port.server.Stats()
			c.Open, c.Accepted, c.Refused = c.Open+s.Open, c.Accepted+s.Accepted, c.Refused+s.Refused
		}
		for _, f := range fronts {
			open, _, _ := f.connections()
			c.Protocols = append(c.Protocols, metrics.ProtocolConnections{Protocol: f.name(), Open: open})
		}
		return c
	}
}

func (d *door) socketSettings(l *snapshot.Listener) listener.Settings {
	s := listener.Settings{
		Address:        l.Address,
		Sockets:        d.gateway.settings.Sockets,
		Label:          d.address,
		MaxConnections: l.Server.MaxConnections,
		MaxPerClient:   l.Server.MaxPerClient,
		Filter:         d.announced(l.Proxies, d.sniffed(l, d.secure(l.TLS))),
		Refused:        func(r *reason.Reason, peer netip.AddrPort) { d.refused(r, peer, nil) },
		AcceptFailed: func(err error) {
			d.gateway.settings.Log.Error("connections cannot be accepted; they wait", "listener", l.Name, "error", err)
		},
	}
	if l.Proxies != nil {
		s.Announces = l.Proxies.Trusts
	}
	return s
}

// settleTime is how long a connection may take, once its door is on its way
// out, from being accepted to its first request: for TLS handshakes.
const settleTime = 2 * time.Second

// leave stops accepting at once and gives requests in flight their time.
func (g *Gateway) leave(ctx context.Context, d *door, drain time.Duration) {
	if err := d.socket.Stop(); err != nil {
		g.settings.Log.Warn("closing a listener", "address", d.address, "error", err)
	}
	if d.http3 != nil {
		d.http3.stop()
	}
	d.h1.Retire()
	g.leaving.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, drain)
		defer cancel()
		settling, settled := context.WithTimeout(ctx, settleTime)
		_ = d.socket.Settle(settling) // Stop has returned the error
		settled()
		if err := d.shutdown(ctx); err != nil {
			open, _, _ := d.connections()
			g.settings.Log.Warn("connections were cut at the end of the drain time", "address", d.address, "open", open)
		}
		if err := d.closeFronts(); err != nil {
			g.settings.Log.Error("closing connections", "address", d.address, "error", err)
		}
	})
}

// close is for a door that has accepted nothing: there is nothing to fail.
func (d *door) close() {
	_ = d.socket.Close()
	_ = d.closeFronts()
}

// Addresses are the addresses bound now, by listener name. With port 0 in the
// config they tell the port the system chose.
func (g *Gateway) Addresses() map[string]net.Addr {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := map[string]net.Addr{}
	s := g.current.Load()
	for address, d := range g.doors {
		if l := s.Listeners[address]; l != nil {
			out[l.Name] = d.socket.Addr()
		}
	}
	for address, d := range g.datagrams {
		if l := s.Listeners[address]; l != nil {
			out[l.Name] = d.server.Addr()
		}
	}
	return out
}

// Current is the snapshot in use, nil before the first Swap. The caller must
// not keep it past the next Swap.
func (g *Gateway) Current() *snapshot.Snapshot { return g.current.Load() }

// closeTime is how long Drain waits for the units of the last snapshot.
const closeTime = 5 * time.Second

// Drain stops accepting, lets requests and tunnels in flight finish until ctx
// is done, and cuts what is left. The gateway cannot be used afterwards;
// draining again does nothing.
func (g *Gateway) Drain(ctx context.Context) error {
	left := time.Hour
	if at, ok := ctx.Deadline(); ok {
		left = time.Until(at)
	}
	g.mu.Lock()
	g.drained = true
	for address, d := range g.doors {
		delete(g.doors, address)
		g.draining = append(g.draining, d)
		g.leave(ctx, d, left)
	}
	for address, d := range g.datagrams {
		delete(g.datagrams, address)
		g.leaveDatagrams(ctx, d, left)
	}
	g.mu.Unlock()
	g.leaving.Wait()
	if s := g.current.Load(); s != nil && g.released.CompareAndSwap(false, true) {
		s.Release()
		select {
		case <-s.Retired():
		case <-time.After(closeTime): // a unit that hangs must not keep the node from stopping
			return errors.New("gateway: units of the last snapshot did not close in time")
		}
	}
	return nil
}

// Connections counts the open client connections of all listeners.
func (g *Gateway) Connections() (open, idle, tunnels int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, d := range slices.AppendSeq(slices.Clone(g.draining), maps.Values(g.doors)) {
		o, i, t := d.connections()
		open, idle, tunnels = open+o, idle+i, tunnels+t
	}
	return open, idle, tunnels
}

// acquire takes a reference to the current snapshot and what it says of this
// door. It is nil once the last snapshot has been released.
func (d *door) acquire() *binding {
	for {
		s := d.gateway.current.Load()
		if !s.TryRef() {
			if d.gateway.current.Load() == s {
				return nil
			}
			continue // retired between the two: there is a newer one
		}
		b := d.last.Load()
		if b == nil || b.snapshot != s {
			b = &binding{door: d, snapshot: s, listener: s.Listeners[d.address]}
			b.altSvc = d.altSvc(b.listener)
			d.last.Store(b)
		}
		return b
	}
}

// refused takes down what was answered, or closed, without a request.
func (d *door) refused(r *reason.Reason, peer netip.AddrPort, head []byte) {
	d.refusedAs("HTTP/1", r, peer, head)
}

func (d *door) refusedAs(protocol string, r *reason.Reason, peer netip.AddrPort, head []byte) {
	name := d.countRefusal(r)
	if d.gateway.settings.AccessLog != nil {
		d.gateway.logProtocolRefusal(protocol, r, name, peer, head)
	}
}

// countRefusal counts what was refused without a request, and names the listener.
func (d *door) countRefusal(r *reason.Reason) (name string) {
	g := d.gateway
	if l := g.current.Load().Listeners[d.address]; l != nil {
		name = l.Name
		g.settings.Metrics.Listener(name).ProtocolRefusal(r.Name)
	}
	g.settings.Metrics.Refusal(r.Name)
	return name
}
