package l4

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/proxyproto"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

// Backend is an upstream with its share of a route's connections.
type Backend struct {
	Upstream *upstream.Upstream
	// Weight is relative to the other backends; 0: none.
	Weight int
	// HashClient makes the choice of an endpoint depend on the client's address.
	HashClient bool
	// Dial opens a connection, Timeout bounds that; nil and 0 mean plain TCP or
	// UDP and 5 s. It calls begin, if that is not nil, with the TCP connection
	// before anything else is written to it.
	Dial    func(ctx context.Context, network, address string, begin func(net.Conn) error) (net.Conn, error)
	Timeout time.Duration
	// Header is the PROXY header that begins a connection.
	Header proxyproto.Version
}

// Try is one attempt to connect, for those who count.
type Try struct {
	Upstream, Endpoint string
	// Number counts a connection's tries from 1.
	Number  int
	Failure upstream.Failure
	Took    time.Duration
}

// Route is where connections go. It never changes.
type Route struct {
	broken   string // why it cannot be used; empty: it can
	backends []Backend
	total    uint64
	tried    func(*Try)
}

// NewRoute makes a route. tried is told of every attempt, by many at once; it
// may be nil. The error is for a program's mistake, not a config's.
func NewRoute(backends []Backend, tried func(*Try)) (*Route, error) {
	r := &Route{backends: append([]Backend(nil), backends...), tried: tried}
	for i := range r.backends {
		b := &r.backends[i]
		if b.Upstream == nil || b.Weight < 0 {
			return nil, errors.New("a backend without an upstream, or with a negative weight")
		}
		r.total += uint64(b.Weight)
		if b.Timeout <= 0 {
			b.Timeout = 5 * time.Second
		}
		if b.Dial == nil {
			b.Dial = dialPlain
		}
	}
	if r.total == 0 {
		return nil, errors.New("all weights are 0")
	}
	return r, nil
}

// BrokenRoute is one that cannot be used on this node: it refuses connections.
func BrokenRoute(why string) *Route { return &Route{broken: why} }

func dialPlain(ctx context.Context, network, address string, begin func(net.Conn) error) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 15 * time.Second}}
	d.SetMultipathTCP(false)
	nc, err := d.DialContext(ctx, network, address)
	if err != nil || begin == nil {
		return nc, err
	}
	if err := begin(nc); err != nil {
		_ = nc.Close() // it is of no use
		return nil, err
	}
	return nc, nil
}

func (r *Route) backend() *Backend {
	n := rand.Uint64N(r.total)
	for i := range r.backends {
		w := uint64(r.backends[i].Weight)
		if n < w {
			return &r.backends[i]
		}
		n -= w
	}
	panic("BUG: weights do not add up")
}

// maxTries bounds the endpoints that one client's connection is tried on.
const maxTries = 3

// Choice is a client's way to an endpoint of one backend, over all tries.
type Choice struct {
	route        *Route
	backend      *Backend
	client, here netip.AddrPort
	pick         upstream.PickRequest
	tried        [maxTries]*upstream.Endpoint
	tries        int
}

// Choose picks a backend for a client that has come to the address here.
func (r *Route) Choose(client, here netip.AddrPort) Choice {
	c := Choice{route: r, client: client, here: here}
	if r.broken != "" {
		return c
	}
	c.backend = r.backend()
	if c.backend.HashClient && client.IsValid() {
		var text [64]byte
		c.pick.Hash, c.pick.HasHash = upstream.Hash(string(client.Addr().AppendTo(text[:0]))), true
	}
	return c
}

// Upstream is the name of the backend's upstream; empty for a broken route.
func (c *Choice) Upstream() string {
	if c.backend == nil {
		return ""
	}
	return c.backend.Upstream.Name()
}

// Tries is how many endpoints have been tried.
func (c *Choice) Tries() int { return c.tries }

// Leg is a connection to an endpoint. Done must be called once.
type Leg struct {
	net.Conn
	ep       *upstream.Endpoint
	upstream *upstream.Upstream
}

// Endpoint is the endpoint's address.
func (l *Leg) Endpoint() string { return l.ep.Address }

// Done gives the endpoint back with what became of the connection. It closes
// nothing.
func (l *Leg) Done(f upstream.Failure) {
	l.upstream.Breaker().ReleaseConnection()
	l.ep.Done(upstream.Result{Failure: f})
}

// Connect opens a connection of the network "tcp" or "udp" to an endpoint that
// has not been tried, and to the next one where that fails. Its error is a
// *reason.Refusal; endpoint is the one it came to, also then.
func (c *Choice) Connect(ctx context.Context, network string) (leg *Leg, endpoint string, err error) {
	failed := retryable{errNoOther}
	for {
		leg, endpoint, err = c.try(ctx, network, endpoint)
		switch {
		case errors.As(err, &failed):
			if ctx.Err() != nil {
				return nil, endpoint, failed.Refusal
			}
		case errors.Is(err, errNoOther), c.tries > 0 && errors.Is(err, reason.NoEndpoint):
			return nil, endpoint, failed.Refusal // what happened tells more than that nobody is left
		default:
			return leg, endpoint, err
		}
	}
}

var errNoOther = reason.UpstreamConnect.Because("no endpoint is left to be tried")

// retryable is a refusal that another endpoint may turn into a success.
type retryable struct{ *reason.Refusal }

func (c *Choice) try(ctx context.Context, network, before string) (*Leg, string, error) {
	if why := c.route.broken; why != "" {
		return nil, "", reason.RouteBroken.Because("%s", why)
	}
	if c.tries == maxTries {
		return nil, before, errNoOther
	}
	up := c.backend.Upstream
	c.pick.Exclude = c.tried[:c.tries]
	ep, err := up.Pick(&c.pick)
	if err != nil {
		return nil, before, reason.From(err)
	}
	for _, t := range c.tried[:c.tries] {
		if t == ep { // there is no other
			ep.Done(upstream.Result{Failure: upstream.NotTried})
			return nil, before, errNoOther
		}
	}
	if !up.Breaker().TryConnection() {
		ep.Done(upstream.Result{Failure: upstream.NotTried})
		return nil, ep.Address, reason.UpstreamOverflow.Because("circuit_breaker.max_connections of upstream %s", up.Name())
	}
	c.tried[c.tries] = ep
	c.tries++
	began := time.Now()
	dctx, cancel := context.WithTimeout(ctx, c.backend.Timeout)
	nc, err := c.backend.Dial(dctx, network, ep.Address, c.header())
	cancel()
	failure := upstream.NoFailure
	if err != nil {
		failure = blame(ctx, err)
	}
	if c.route.tried != nil {
		c.route.tried(&Try{Upstream: up.Name(), Endpoint: ep.Address, Number: c.tries, Failure: failure, Took: time.Since(began)})
	}
	leg := &Leg{Conn: nc, ep: ep, upstream: up}
	if err == nil {
		return leg, ep.Address, nil
	}
	leg.Done(failure)
	if failure == upstream.NotTried {
		why := reason.Draining
		if reason.OwnFault(err) {
			why = reason.Overloaded
		}
		return nil, ep.Address, why.Wrap(err)
	}
	why := reason.UpstreamConnect
	switch {
	case failure == upstream.FailedTimeout:
		why = reason.UpstreamTimeout
	case errors.Is(err, reason.UpstreamTLS):
		why = reason.UpstreamTLS
	}
	return nil, ep.Address, retryable{why.Wrap(err)}
}

// blame says whether the endpoint is at fault for a connection that was not made.
func blame(ctx context.Context, err error) upstream.Failure {
	switch {
	case ctx.Err() != nil, reason.OwnFault(err):
		return upstream.NotTried
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return upstream.FailedTimeout
	}
	return upstream.FailedConnect
}

// header writes the PROXY header; nil where there is none.
func (c *Choice) header() func(net.Conn) error {
	if c.backend.Header == proxyproto.None {
		return nil
	}
	return func(nc net.Conn) error {
		_, err := nc.Write(proxyproto.Append(make([]byte, 0, 108), c.backend.Header, c.client, c.here))
		return err
	}
}
