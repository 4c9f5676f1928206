package registry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

// confirmEvery is how often an unchanged list is said to be right still.
const confirmEvery = 5 * time.Second

// Source is the instances of a service as the endpoints of an upstream, which
// speaks TLS with them or not. It starts the registry only when it is run.
func (r *Registry) Source(service string, secure bool) upstream.Source {
	return &source{r: r, service: strings.ToLower(service), secure: secure}
}

type source struct {
	r       *Registry
	service string
	secure  bool
}

// Name implements upstream.Source.
func (s *source) Name() (kind, target string) { return "mesh", s.service }

// Run implements upstream.Source.
func (s *source) Run(ctx context.Context, report func(upstream.Report)) {
	changed, stop := s.r.Changed(s.service)
	defer stop()
	s.r.Looked(ctx)
	tick := time.NewTicker(confirmEvery)
	defer tick.Stop()
	list, note := s.endpoints()
	for ctx.Err() == nil {
		out := upstream.Report{Endpoints: list, Note: note}
		if up, asOf, why := s.r.trust(); !up {
			out.Err, out.AsOf = errors.New(why), asOf
		}
		report(out)
		select {
		case <-ctx.Done():
		case <-tick.C:
		case <-changed:
			list, note = s.endpoints()
		}
	}
}

// endpoints are the instances that are up.
func (s *source) endpoints() (list []upstream.EndpointSettings, note string) {
	without, idle := 0, 0
	for _, e := range s.r.table.list(s.service) {
		address := e.Address(s.secure)
		switch {
		case e.Effective() != Up:
			idle++
		case address == "":
			without++
		default:
			list = append(list, upstream.EndpointSettings{Address: address, Weight: max(1, e.Weight), Zone: e.Zone})
		}
	}
	if without > 0 {
		note = fmt.Sprintf("%d instances have no port for what this upstream speaks", without)
	}
	if len(list) == 0 && idle > 0 {
		note = fmt.Sprintf("of %d instances none is up", idle+without)
	}
	return list, note
}

// Looked waits until the store has been asked once, whatever came of it.
func (r *Registry) Looked(ctx context.Context) {
	r.Use()
	select {
	case <-r.looked:
	case <-ctx.Done():
	}
}

// trust says whether the store answers, and if not, since when and why.
func (r *Registry) trust() (up bool, asOf time.Time, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	asOf = r.status.Answered
	if asOf.IsZero() {
		asOf = r.status.Saved
	}
	return r.status.StoreUp, asOf, r.status.Error
}
