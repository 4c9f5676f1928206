package gateway

import (
	"context"
	"errors"
	"net"
	"sync/atomic"

	"github.com/gatehouse-proxy/gatehouse/gateway/clientaddr"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/l4"
	"github.com/gatehouse-proxy/gatehouse/gateway/listener"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
	"github.com/gatehouse-proxy/gatehouse/telemetry/accesslog"
)

// streams is the front of connections that are passed on unread.
type streams struct {
	door   *door
	server *l4.Server
	all    atomic.Bool // every connection is, not only those that were picked
}

func newStreams(d *door, l *snapshot.Listener) *streams {
	f := &streams{door: d, server: l4.New(l4.Settings{Ended: d.gateway.streamEnded, Panicked: d.panicked})}
	f.update(l)
	return f
}

func (f *streams) update(l *snapshot.Listener)        { f.all.Store(l.Protocol != snapshot.HTTP) }
func (f *streams) shutdown(ctx context.Context) error { return f.server.Shutdown(ctx) }
func (f *streams) close() error                       { return f.server.Close() }

func (f *streams) name() string { return "tcp" }

func (f *streams) connections() (open, idle, tunnels int) {
	n := f.server.Stats().Open
	return n, 0, n
}

// picked is a connection whose ClientHello has been read, with what is to
// become of it.
type picked struct {
	net.Conn
	job l4.Job
}

// Close also gives back what the job holds: it is not done.
func (p *picked) Close() error {
	p.job.Release()
	return p.Conn.Close()
}

// take takes over a connection that is to be passed on; false: it is not.
func (f *streams) take(nc net.Conn) bool {
	if p, ok := nc.(*picked); ok {
		f.server.Serve(p.Conn, p.job)
		return true
	}
	if !f.all.Load() {
		return false
	}
	b := f.door.acquire()
	if b == nil {
		_ = nc.Close() // the node is gone already
		return true
	}
	l := b.listener
	if l == nil || l.Streams == nil { // the listener has gone, or become another, since the connection came
		b.snapshot.Release()
		_ = nc.Close()
		return true
	}
	job := l4.Job{Route: l.Streams.Default, Idle: l.Streams.Idle, Listener: l.Name, Protocol: "TCP", Release: b.snapshot.Release}
	if s, ok := nc.(exchange.Secured); ok && s.TLS() != nil {
		job.Name = s.TLS().ServerName
	} else if l.Proxies != nil {
		a, ok := nc.(listener.Announcer)
		job.Screen = !ok || !a.Announced()
	}
	f.server.Serve(nc, job)
	return true
}

var sniffing = layer{"TLS", "", "client_hello"}

// sniffed is the listener's filter where names in TLS handshakes choose what
// is passed on unopened: all, or, where next ends TLS, those listed alone.
func (d *door) sniffed(l *snapshot.Listener, next func(net.Conn) (net.Conn, error)) func(net.Conn) (net.Conn, error) {
	if l.Streams == nil || l.Protocol == snapshot.TCP || l.Protocol == snapshot.HTTP && next == nil {
		return next
	}
	t, opens := l.Streams, l.Protocol == snapshot.HTTP
	return func(nc net.Conn) (net.Conn, error) {
		hello, read, err := l4.ReadHello(nc, t.HelloTimeout)
		switch {
		case err == nil:
		case errors.Is(err, l4.ErrNothingSaid):
			return nil, err
		case opens && !errors.Is(err, reason.TLSHandshakeTimeout):
			return next(again(nc, read)) // whoever ends TLS knows best what to say
		default:
			d.refusedConnection(reason.From(err), clientaddr.AddrPort(nc.RemoteAddr()), sniffing)
			return nil, err
		}
		b := d.acquire()
		if b == nil {
			return nil, errDrained
		}
		if l := b.listener; l != nil && l.Streams != nil {
			route := l.Streams.Find(hello.ServerName)
			if route == nil && !opens {
				route = l.Streams.Default
			}
			if route != nil || !opens {
				return &picked{nc, l4.Job{
					Route: route, Idle: l.Streams.Idle, Listener: l.Name, Protocol: "TLS", Name: hello.ServerName,
					First: read, Release: b.snapshot.Release,
				}}, nil
			}
		}
		b.snapshot.Release()
		if !opens {
			return nil, errDrained // the listener has gone
		}
		return next(again(nc, read))
	}
}

// socketed are the connections that a listener accepts.
type socketed interface {
	net.Conn
	CloseWrite() error
	SetLinger(sec int) error
	Socket() *net.TCPConn
}

// replayed gives what has been read of a connection once more. Its socket is
// for who watches or closes it: those who read it must have read that much.
type replayed struct {
	socketed
	first []byte
}

// Read implements net.Conn.
func (r *replayed) Read(b []byte) (int, error) {
	if len(r.first) == 0 {
		return r.socketed.Read(b)
	}
	n := copy(b, r.first)
	if r.first = r.first[n:]; len(r.first) == 0 {
		r.first = nil // it may have been much
	}
	return n, nil
}

// again returns nc with what has been read of it in front.
func again(nc net.Conn, read []byte) net.Conn {
	if s, ok := nc.(socketed); ok {
		return &replayed{s, read}
	}
	return nc // a listener accepts nothing else
}

// streamEnded takes down a connection, or a session of datagrams, that was
// passed on. The status stands for the outcome, as HTTP's would.
func (g *Gateway) streamEnded(r *l4.Record) {
	if f := r.Refusal; f != nil {
		g.settings.Metrics.Listener(r.Listener).ProtocolRefusal(f.Reason.Name)
		g.settings.Metrics.Refusal(f.Reason.Name)
	}
	log := g.settings.AccessLog
	if log == nil {
		return
	}
	line := accesslog.Record{
		Time: r.Began, Duration: r.Duration, Client: r.Client.Addr(), Peer: r.Client, Listener: r.Listener,
		Protocol: r.Protocol, Host: r.Name, Status: 200, BytesIn: r.Received, BytesOut: r.Sent,
		Upstream: r.Upstream, Endpoint: r.Endpoint, Attempts: r.Attempts, UpstreamTook: r.Connected,
	}
	if f := r.Refusal; f != nil {
		line.Status, line.Flags, line.Reason = f.Reason.Status, f.Reason.Flag, f.Reason.Name
		line.Detail, line.Step = f.Detail[:min(len(f.Detail), maxDetail)], "stream"
	}
	log.Write(&line)
}
