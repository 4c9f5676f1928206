// Package proxy is the last handler of a route's chain: it forwards the request
// to an endpoint of an upstream and passes the reply back as it comes. Which
// endpoint is the upstream's choice, what goes over a connection is http1's;
// the proxy knows what may be tried again, what concerns only one hop, and how
// a reply that breaks off must look to the client.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

// Target says what the upstream is asked for; a route's rewrite is one.
type Target interface {
	// AppendTarget appends path and query.
	AppendTarget(dst []byte, ctx *fasthttp.RequestCtx, e *exchange.Exchange) []byte
}

// Key appends the value of a request attribute.
type Key func(dst []byte, ctx *fasthttp.RequestCtx, e *exchange.Exchange) []byte

// HostMode says which Host header the upstream gets.
type HostMode uint8

// The modes.
const (
	HostClient   HostMode = iota // the client's, as sent
	HostEndpoint                 // the endpoint's HOST:PORT
	HostFixed                    // Settings.Host
)

// Backend is an upstream with its share of the route's requests.
type Backend struct {
	Upstream *upstream.Upstream
	// Weight relative to the other backends'; 0: none.
	Weight int
	// HashOn is what the hashing algorithms go by; nil: at random.
	HashOn Key
	// Sticky keeps a client on its endpoint; nil: no.
	Sticky *StickySettings
}

// Timeouts of a route; zero means none.
type Timeouts struct {
	// Request is how long the reply's head may take, over all tries, from when
	// the request has come and been sent whole. Bodies in either direction may
	// take any time as long as they keep coming (Idle).
	Request time.Duration
	// Idle is between two bytes of a reply, a stream or a tunnel.
	Idle time.Duration
	// PerTry is for one try up to the reply's head.
	PerTry time.Duration
}

// Settings of a route's proxy. Backends and Route are required.
type Settings struct {
	// Route is the route's name.
	Route    string
	Backends []Backend
	// Rewrite changes what is asked for; nil: the exchange's path and query.
	Rewrite  Target
	HostMode HostMode
	Host     string
	Timeouts Timeouts
	Retries  RetrySettings
	// Hedge sends a second try when the first has not answered after this
	// time: only idempotent requests without a body; 0: never.
	Hedge  time.Duration
	Mirror *MirrorSettings
	Fault  *FaultSettings
	// Via is the name in the Via header; empty: "gatehouse".
	Via string
	// Observer is told of every try; nil: nobody.
	Observer Observer
}

// Try is what became of one try.
type Try struct {
	Upstream, Endpoint string
	// Status of the reply, 0 without one.
	Status int
	// Failure is why there is no reply; upstream.NoFailure with one.
	Failure upstream.Failure
	// Latency to the reply's head, or to the failure.
	Latency time.Duration
	// Number is 1 for the first try of a request.
	Number int
	// Protocol is what is spoken on the connection; empty without one.
	Protocol string
	// Reused says that a pooled connection was used.
	Reused bool
	// Mirror says that it was a copy whose reply is ignored.
	Mirror bool
	// Hedge says that it was sent because the first was slow.
	Hedge bool
}

// Observer counts tries. Calls are concurrent and must be quick. The strings
// are not borrowed.
type Observer interface {
	// Tried is called for every try.
	Tried(t *Try)
	// RetryDenied is called for every retry the budget does not allow.
	RetryDenied(upstream string)
	// Dropped is called for every copy that is not sent to a mirror.
	Dropped(upstream string, why Drop)
}

// Proxy forwards a route's requests. It never changes and is safe for
// concurrent use.
type Proxy struct {
	settings Settings
	backends []backend
	total    uint64 // of the weights
	host     []byte
	via      [4][]byte // complete lines, by protocol: 1.0, 1.1, 2.0, 3.0
	retrying atomic.Int64
	mirror   *mirror
	forwards sync.Pool
}

// New builds a proxy. Errors name the path in the config.
func New(s Settings) (*Proxy, error) {
	p := &Proxy{settings: s, host: []byte(s.Host)}
	var errs []error
	bad := func(path, format string, args ...any) {
		errs = append(errs, fmt.Errorf("routes.%s.%s: %w", s.Route, path, fmt.Errorf(format, args...)))
	}
	if len(s.Backends) == 0 {
		bad("backends", "at least one is needed")
	}
	for i, b := range s.Backends {
		made, err := newBackend(b)
		if err != nil {
			bad(fmt.Sprintf("backends[%d]", i), "%w", err)
			continue
		}
		if b.Weight > 0 {
			p.total += uint64(b.Weight)
			made.upTo = p.total
			p.backends = append(p.backends, made)
		}
	}
	if len(errs) == 0 && len(p.backends) == 0 {
		bad("backends", "every weight is 0")
	}
	if s.HostMode == HostFixed && (s.Host == "" || strings.ContainsAny(s.Host, "\r\n \t")) {
		bad("rewrite.host", "%q is not a host", s.Host)
	}
	via := s.Via
	if via == "" {
		via = "gatehouse"
	}
	if strings.ContainsFunc(via, notToken) {
		bad("via", "%q must be a token", via)
	}
	for i, version := range []string{"1.0", "1.1", "2.0", "3.0"} {
		p.via[i] = []byte("Via: " + version + " " + via + "\r\n")
	}
	if s.Mirror != nil {
		m, err := newMirror(p, *s.Mirror)
		if err != nil {
			bad("mirror", "%w", err)
		}
		p.mirror = m
	}
	if s.Fault != nil {
		if err := s.Fault.check(); err != nil {
			bad("fault", "%w", err)
		}
	}
	p.forwards.New = func() any { return newForward(p) }
	return p, errors.Join(errs...)
}

func notToken(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"(),/:;<=>?@[\\]{}", r)
}

// Start does nothing; with Close it makes the proxy a unit of the snapshot.
func (p *Proxy) Start(context.Context) error { return nil }

// Close ends the mirror's requests and waits for them. Safe twice, and without
// Start.
func (p *Proxy) Close(context.Context) error {
	if p.mirror != nil {
		p.mirror.close()
	}
	return nil
}

// Handle is the chain's last handler.
func (p *Proxy) Handle(c *fiber.Ctx) error {
	ctx := c.Context()
	e := exchange.From(c)
	if p.settings.Fault != nil {
		if err := p.settings.Fault.apply(e); err != nil {
			return err
		}
	}
	f := p.forwards.Get().(*forward)
	f.ctx, f.e = ctx, e
	kept, err := f.run()
	if !kept {
		f.free()
	}
	return err
}
