// Package eureka finds endpoints in a registry that speaks Eureka's REST API.
// It reads the whole registry once and then the changes, and begins anew where
// the registry's hash code says that some were missed, as Netflix's client does.
package eureka

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/discovery"
	"github.com/gatehouse-proxy/gatehouse/discovery/remote"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

// maxBody bounds an answer: a registry of 32 768 instances with 3 KiB each.
const maxBody = 96 << 20

// timeout is for one question: a whole registry can be large.
const timeout = 15 * time.Second

// Settings of a Source.
type Settings struct {
	Client remote.Settings
	// App is the application's name; case does not matter.
	App string
	// Refresh is the time between two questions; 0 means 30 s.
	Refresh time.Duration
	// Secure takes the secure port.
	Secure bool
	// Hostname connects to the instances' host names instead of their addresses.
	Hostname bool
	// ZoneMeta is the key in an instance's metadata that has its zone.
	ZoneMeta string
	// Username and Password authenticate; empty: nobody does.
	Username, Password string
}

// Source is an application in the registry.
type Source struct {
	s      Settings
	client *remote.Client
}

var _ upstream.Source = (*Source)(nil)

// New makes a source; it asks nobody yet.
func New(s Settings) (*Source, error) {
	if s.Refresh <= 0 {
		s.Refresh = 30 * time.Second
	}
	s.App = strings.ToUpper(s.App) // as the registry has them
	if s.Username != "" {
		basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(s.Username+":"+s.Password))
		s.Client.Header = func() (http.Header, error) { return http.Header{"Authorization": {basic}}, nil }
	}
	c, err := remote.New(s.Client)
	return &Source{s: s, client: c}, err
}

// Name implements upstream.Source.
func (s *Source) Name() (kind, target string) { return "eureka", s.s.App }

// Run implements upstream.Source.
func (s *Source) Run(ctx context.Context, report func(upstream.Report)) {
	s.client.Start(ctx)
	defer s.client.Close()
	var (
		known   *registry // nil: to be read as a whole
		list    []upstream.EndpointSettings
		note    string
		backoff = discovery.Backoff{Max: s.s.Refresh}
	)
	for {
		next, changed, err := s.ask(ctx, known)
		if ctx.Err() != nil {
			return
		}
		wait := s.s.Refresh
		if err != nil {
			// Changes are kept by the server for minutes only.
			known, wait = nil, backoff.Next()
			report(upstream.Report{Err: err})
		} else {
			known = next
			if changed {
				list, note = known.endpoints(&s.s)
			}
			report(upstream.Report{Endpoints: list, Note: note})
			backoff.Reset()
		}
		if !discovery.Sleep(ctx, wait) {
			return
		}
	}
}

// ask brings known up to date. changed: it may be another list.
func (s *Source) ask(ctx context.Context, known *registry) (r *registry, changed bool, err error) {
	if known != nil {
		delta, err := s.get(ctx, "/apps/delta")
		switch {
		case err == nil:
			if changed, whole := known.apply(delta, s.s.App); whole {
				return known, changed, nil
			}
		case !hasNoDelta(err):
			return nil, false, err
		}
	}
	all, err := s.get(ctx, "/apps")
	if err != nil {
		return nil, false, err
	}
	return newRegistry(all, s.s.App), true, nil
}

// hasNoDelta is true of servers that give no changes away, as they may be set
// to do.
func hasNoDelta(err error) bool {
	var e *remote.StatusError
	return errors.As(err, &e) && (e.Status == http.StatusForbidden || e.Status == http.StatusNotFound)
}

func (s *Source) get(ctx context.Context, path string) (*applications, error) {
	a, err := s.client.Get(ctx, remote.Request{Path: path, Timeout: timeout, Limit: maxBody})
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	all, err := parse(a.Body)
	if err != nil {
		s.client.Next()
	}
	return all, err
}
