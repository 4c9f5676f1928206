package compile

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/alpn"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/dial"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http1"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http2"
)

// pools make the connections of one upstream's endpoints by what these speak.
// They outlive the build, of which they keep nothing.
type pools struct {
	name     string
	protocol string
	scheme   string
	config   config.Connection
	dialer   *dial.Dialer
	http1    *http1.Manager
	http2    *http2.Manager
	log      *slog.Logger
}

func (b *build) pools(name string, c config.Upstream, d *dial.Dialer) *pools {
	p := &pools{
		name: name, protocol: c.Protocol, scheme: "http", config: c.Connection, dialer: d,
		http1: b.http1, http2: b.http2, log: b.settings.Log,
	}
	if c.TLS != nil {
		p.scheme = "https"
	}
	return p
}

// of makes the pool of one endpoint.
func (p *pools) of(address string, b *upstream.Breaker) upstream.Pool {
	switch p.protocol {
	case "h2", "h2c":
		return p.newHTTP2(address, b, p.dialer.Dial)
	case "auto":
		return alpn.New(alpn.Settings{
			Both: p.dialer.Dial, HTTP1: p.dialer.Offering("http/1.1").Dial,
			NewHTTP2: func(d alpn.Dial) upstream.CountingPool { return p.newHTTP2(address, b, d) },
			NewHTTP1: func(d alpn.Dial) upstream.CountingPool { return p.newHTTP1(address, b, d) },
		})
	}
	return p.newHTTP1(address, b, p.dialer.Dial)
}

func (p *pools) newHTTP2(address string, b *upstream.Breaker, d alpn.Dial) *http2.Pool {
	return http2.NewPool(http2.Settings{
		Address: address, Scheme: p.scheme, DialTimeout: p.config.Timeout.D(), IdleTimeout: p.config.Idle.D(),
		KeepNone: p.config.MaxIdle == 0, Limiter: b, Manager: p.http2, Dial: d,
	})
}

func (p *pools) newHTTP1(address string, b *upstream.Breaker, d alpn.Dial) *http1.Pool {
	maxIdle := p.config.MaxIdle
	if maxIdle == 0 {
		maxIdle = -1
	}
	return http1.NewPool(http1.Settings{
		Address: address, DialTimeout: p.config.Timeout.D(), IdleTimeout: p.config.Idle.D(), MaxIdle: maxIdle,
		Limiter: b, Manager: p.http1, Dial: d,
		OnIdleClosed: func(idle time.Duration) {
			p.log.Debug("an upstream closed an idle connection before we did", "upstream", p.name, "endpoint", address,
				"idle", idle.Round(time.Millisecond), "hint", fmt.Sprintf("set upstreams.%s.connection.idle below it", p.name))
		},
	})
}
