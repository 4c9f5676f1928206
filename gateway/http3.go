package gateway

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/bridge"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/h3"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
)

// http3 is the front of HTTP/3. Unlike a TCP port its UDP port stays in use
// until the last connection has gone; a front that is wanted again by then takes
// it over.
type http3 struct {
	door   *door
	port   *quicPort
	leaves *h3.Departure // since it was stopped
}

// quicPort is a UDP port with what is served there, and whose it is.
type quicPort struct {
	server *h3.Server
	bridge *bridge.Bridge
	owner  atomic.Pointer[http3] // nil: it is closed
}

// wantHTTP3 prepares for what next says of HTTP/3: it binds what is missing. Its
// error leaves d as it was.
func (d *door) wantHTTP3(l *snapshot.Listener) (f *http3, err error) {
	if l.HTTP3 == nil || d.http3 != nil {
		return nil, nil
	}
	f = &http3{door: d}
	if old := d.gateway.fading[d.address]; old != nil && portOf(old.port.server.Addr()) == portOf(d.socket.Addr()) {
		if f.port = old.port; f.port.owner.CompareAndSwap(old, f) {
			return f, nil
		}
	}
	f.port = &quicPort{bridge: bridge.New(d.bridgeSettings(l))}
	if f.port.server, err = h3.Listen(udpAddress(l.Address, d.socket.Addr()), f.settings(l)); err != nil {
		return nil, err
	}
	f.port.owner.Store(f)
	return f, nil
}

// udpAddress is the address of a listener with the port that TCP was given.
func udpAddress(address string, bound net.Addr) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address // it was bound by TCP: cannot be
	}
	return net.JoinHostPort(host, strconv.Itoa(portOf(bound)))
}

func portOf(a net.Addr) int {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.Port
	case *net.UDPAddr:
		return a.Port
	}
	return 0
}

// serveHTTP3 lets clients in on f, which wantHTTP3 made; l is in use by now.
func (d *door) serveHTTP3(f *http3, l *snapshot.Listener) {
	if old := d.gateway.fading[d.address]; old != nil && old.port == f.port {
		delete(d.gateway.fading, d.address)
		f.update(l)
	}
	d.http3, d.fronts = f, append(d.fronts, f)
	d.gateway.read(func() {
		if err := f.port.server.Serve(); err != nil && d.http3 == f {
			d.gateway.settings.Log.Error("HTTP/3 cannot be served", "listener", l.Name, "error", err)
		}
	})
}

// endHTTP3 takes f from its door and gives its requests their time.
func (g *Gateway) endHTTP3(ctx context.Context, d *door, drain time.Duration) {
	g.abandon(ctx, d.takeHTTP3(), drain)
}

// takeHTTP3 leaves the door without its front of HTTP/3, which it has.
func (d *door) takeHTTP3() *http3 {
	f := d.http3
	d.http3 = nil
	for i, other := range d.fronts {
		if other == front(f) {
			d.fronts = append(d.fronts[:i:i], d.fronts[i+1:]...)
			break
		}
	}
	return f
}

// abandon gives the requests of a front without a door their time.
func (g *Gateway) abandon(ctx context.Context, f *http3, drain time.Duration) {
	f.stop()
	g.leaving.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, drain)
		defer cancel()
		if err := f.shutdown(ctx); err != nil {
			open, _, _ := f.connections()
			g.settings.Log.Warn("HTTP/3 connections were cut at the end of the drain time", "address", f.door.address, "open", open)
		}
		if err := f.close(); err != nil {
			g.settings.Log.Error("closing HTTP/3 connections", "address", f.door.address, "error", err)
		}
	})
}

func (f *http3) name() string { return "h3" }

func (f *http3) update(l *snapshot.Listener) {
	if l.HTTP3 == nil {
		return // it is about to go
	}
	f.port.bridge.Update(f.door.bridgeSettings(l))
	f.port.server.Update(f.settings(l))
}

// stop makes room for a successor: from here on nobody comes to f. It is called
// once, before shutdown, with the gateway's lock held.
func (f *http3) stop() {
	f.leaves = f.port.server.Stop()
	f.door.gateway.fading[f.door.address] = f
}

// shutdown tells tunnels half-way, so that those who use them can say goodbye.
func (f *http3) shutdown(ctx context.Context) error {
	if at, ok := ctx.Deadline(); ok {
		half, cancel := context.WithTimeout(ctx, time.Until(at)/2)
		defer cancel()
		if f.leaves.Wait(half) == nil {
			return nil
		}
		f.leaves.Tell()
	}
	return f.leaves.Wait(ctx)
}

// close ends what is left, unless somebody has taken it over. The gateway's lock
// must not be held.
func (f *http3) close() error {
	if !f.port.owner.CompareAndSwap(f, nil) {
		return nil
	}
	err := f.port.server.Close()
	if e := f.port.bridge.Close(); err == nil {
		err = e
	}
	g := f.door.gateway
	g.mu.Lock()
	if g.fading[f.door.address] == f {
		delete(g.fading, f.door.address)
	}
	g.mu.Unlock()
	return err
}

func (f *http3) connections() (open, idle, tunnels int) {
	s := f.port.server.Stats()
	return s.Open, s.Idle, f.port.bridge.Tunnels()
}

func (f *http3) settings(l *snapshot.Listener) h3.Settings {
	d := f.door
	return h3.Settings{
		Sockets: d.gateway.settings.Sockets, Label: quicLabel(d),
		Handler: http.HandlerFunc(f.serve), TLS: l.TLS,
		MaxConnections: l.Server.MaxConnections, MaxPerClient: l.Server.MaxPerClient,
		MaxStreams: l.HTTP3.MaxStreams, HeadBytes: l.Server.HeadBytes, HeadFields: l.Server.HeadFields,
		IdleTimeout: l.Server.IdleTimeout,
		Secured: func(s tls.ConnectionState) {
			d.countHandshake(s.DidResume, !s.DidResume && !l.TLS.Knows(s.ServerName))
		},
		Refused:   d.refusedQUIC,
		Malformed: d.malformed,
		Log:       d.gateway.settings.Log,
	}
}

// serve hands a request to the bridge, with what it is to know of the connection.
func (f *http3) serve(w http.ResponseWriter, r *http.Request) {
	c := h3.Of(r.Context())
	q := r.WithContext(bridge.NewContext(r.Context(), about(c)))
	if r.Body != http.NoBody {
		q.Body = &trailing{r.Body, r, q}
	}
	f.port.bridge.ServeHTTP(w, q)
	if r.Method == http.MethodHead && len(w.Header()["Content-Length"]) == 0 {
		// Or quic-go would say that there is nothing to be had by GET either.
		_ = http.NewResponseController(w).Flush() // it fails where the reply has
	}
}

// trailing hands on the trailers, which come with the end of the body to the
// request that quic-go knows.
type trailing struct {
	io.ReadCloser
	from, to *http.Request
}

// Read implements io.Reader.
func (t *trailing) Read(b []byte) (int, error) {
	n, err := t.ReadCloser.Read(b)
	if err == io.EOF {
		t.to.Trailer = t.from.Trailer
	}
	return n, err
}

// about is one description for all requests of a connection, until its client
// moves to another address.
func about(c *h3.Conn) *bridge.Conn {
	peer := c.Peer()
	if b, _ := c.Attached().(*bridge.Conn); b != nil && b.Face.Remote.(*net.TCPAddr).AddrPort() == peer {
		return b
	}
	state := c.ConnectionState()
	b := &bridge.Conn{
		Face: exchange.Face{Local: asTCP(c.LocalAddr()), Remote: net.TCPAddrFromAddrPort(peer), State: &state},
		TLS:  c.TLS(), Flooded: c.Flooded, Ending: c.Ending,
	}
	c.Attach(b)
	return b
}

// asTCP makes a the kind of address that plugins know.
func asTCP(a net.Addr) net.Addr {
	if u, ok := a.(*net.UDPAddr); ok {
		return net.TCPAddrFromAddrPort(u.AddrPort())
	}
	return a
}

// refusedQUIC takes down a connection that never came to HTTP, or broke its rules.
func (d *door) refusedQUIC(why *reason.Refusal, peer netip.AddrPort) {
	d.refusedConnection(why, peer, overUDP)
}

// malformed takes down a request that was refused before there was one.
func (d *door) malformed(why *reason.Reason, peer netip.AddrPort, method, target string) {
	d.refusedAs("HTTP/3.0", why, peer, []byte(method+" "+target+"\r\n"))
}

// altSvc is what clients of l are told about HTTP/3; nil for nothing.
func (d *door) altSvc(l *snapshot.Listener) []byte {
	if l == nil || l.HTTP3 == nil || l.HTTP3.AltSvcAge <= 0 {
		return nil
	}
	p := l.HTTP3.AltSvcPort
	if p == 0 {
		p = portOf(d.socket.Addr())
	}
	return fmt.Appendf(nil, `h3=":%d"; ma=%d`, p, int64(l.HTTP3.AltSvcAge/time.Second))
}
