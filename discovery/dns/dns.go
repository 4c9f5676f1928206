// Package dns finds endpoints by a DNS name: its addresses, or what its SRV
// records name. It asks again when the records' time is over.
package dns

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/gatehouse-proxy/gatehouse/discovery"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

// Settings of a Source.
type Settings struct {
	// Name is NAME:PORT, or with SRV the name of the records.
	Name string
	SRV  bool
	// Server is a DNS server HOST:PORT; empty: the system's resolver, which tells
	// no TTL.
	Server string
	// Refresh is the time between two resolutions where no TTL is known, or it is
	// 0; 0 means 30 s. Otherwise it is the TTL, from MinTTL (0 means 5 s) to
	// MaxTTL (0 means 1 h).
	Refresh, MinTTL, MaxTTL time.Duration
}

// Source is a name that stands for endpoints.
type Source struct {
	s       Settings
	resolve resolver
}

var _ upstream.Source = (*Source)(nil)

// answer is what a resolution found. ttl is 0 where it is not known.
type answer struct {
	endpoints []upstream.EndpointSettings
	ttl       time.Duration
	note      string
}

// New makes a source; it asks nobody yet. The names have been checked.
func New(s Settings) *Source {
	for _, d := range []struct {
		v       *time.Duration
		instead time.Duration
	}{{&s.Refresh, 30 * time.Second}, {&s.MinTTL, 5 * time.Second}, {&s.MaxTTL, time.Hour}} {
		if *d.v <= 0 {
			*d.v = d.instead
		}
	}
	return &Source{s: s, resolve: newResolver(s.Server)}
}

// Name implements upstream.Source.
func (s *Source) Name() (kind, target string) { return "dns", s.s.Name }

// Run implements upstream.Source.
func (s *Source) Run(ctx context.Context, report func(upstream.Report)) {
	backoff := discovery.Backoff{Max: s.s.Refresh}
	for {
		a, err := s.ask(ctx)
		if ctx.Err() != nil {
			return
		}
		report(upstream.Report{Endpoints: a.endpoints, Note: a.note, Err: err})
		wait := s.after(a.ttl)
		if err != nil {
			wait = backoff.Next()
		} else {
			backoff.Reset()
		}
		if !discovery.Sleep(ctx, wait) {
			return
		}
	}
}

func (s *Source) after(ttl time.Duration) time.Duration {
	if ttl <= 0 {
		return s.s.Refresh
	}
	return min(max(ttl, s.s.MinTTL), s.s.MaxTTL)
}

func (s *Source) ask(ctx context.Context) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, discovery.AttemptTimeout)
	defer cancel()
	if s.s.SRV {
		return s.services(ctx)
	}
	name, port, err := net.SplitHostPort(s.s.Name)
	if err != nil {
		return answer{}, err
	}
	found, err := s.resolve.addresses(ctx, name)
	if err != nil {
		return answer{}, err
	}
	a := answer{ttl: found.ttl}
	for _, ip := range found.list {
		a.endpoints = append(a.endpoints, upstream.EndpointSettings{Address: net.JoinHostPort(ip.String(), port)})
	}
	return a, nil
}

func join(ip netip.Addr, port uint16) string {
	return net.JoinHostPort(ip.String(), strconv.Itoa(int(port)))
}
