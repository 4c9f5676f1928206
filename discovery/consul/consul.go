// Package consul finds endpoints in the catalog of Consul: the instances of a
// service and their health, by blocking queries, so that a change is known at
// once. It needs no library of Consul's, only one path of its HTTP API.
package consul

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/discovery"
	"github.com/gatehouse-proxy/gatehouse/discovery/remote"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

const (
	// maxBody bounds an answer. An instance with a dozen checks has 2 KiB.
	maxBody = 64 << 20
	// pause is the shortest time between two queries: a service that changes all
	// the time must not keep a node busy.
	pause = 250 * time.Millisecond
	// poll is the pause where the server tells no index to wait for.
	poll = 10 * time.Second
)

// Settings of a Source.
type Settings struct {
	Client remote.Settings
	// Service is the name in the catalog; instances must have all of Tags.
	Service string
	Tags    []string
	// Datacenter, Namespace and Partition; empty: the server's own.
	Datacenter, Namespace, Partition string
	// Warning takes instances too whose checks warn.
	Warning bool
	// ZoneMeta is the key in a node's metadata that has its zone; without it
	// Consul's own locality counts.
	ZoneMeta string
	// Stale lets any server answer instead of the leader.
	Stale bool
	// Wait is how long a query waits for a change; 0 means 5 min.
	Wait time.Duration
	// Token authenticates; empty: anonymous.
	Token string
}

// Source is a service in the catalog.
type Source struct {
	s      Settings
	client *remote.Client
}

var _ upstream.Source = (*Source)(nil)

// New makes a source; it asks nobody yet.
func New(s Settings) (*Source, error) {
	if s.Wait <= 0 {
		s.Wait = 5 * time.Minute
	}
	if s.Token != "" {
		s.Client.Header = func() (http.Header, error) { return http.Header{"X-Consul-Token": {s.Token}}, nil }
	}
	c, err := remote.New(s.Client)
	return &Source{s: s, client: c}, err
}

// Name implements upstream.Source.
func (s *Source) Name() (kind, target string) {
	target = s.s.Service
	if s.s.Partition != "" || s.s.Namespace != "" {
		target += " in " + s.s.Partition + "/" + s.s.Namespace
	}
	if s.s.Datacenter != "" {
		target += " at " + s.s.Datacenter
	}
	return "consul", target
}

// errHidden: what the token may not read Consul leaves out without a word. A
// service that cannot be seen is not an empty one.
var errHidden = errors.New("the token shows no instance, it needs service:read for the service and node:read for its nodes")

// state is how far a Source has read.
type state struct {
	index uint64 // to wait for a change of; 0: do not wait
	list  []upstream.EndpointSettings
	note  string
	known bool // list is that of index
	// over: a query has waited in vain, so one that does not wait comes next. What
	// waits is served by the agent's own copy, which is neither told of rights that
	// the token has lost nor of changes since.
	over bool
}

// Run implements upstream.Source.
func (s *Source) Run(ctx context.Context, report func(upstream.Report)) {
	s.client.Start(ctx)
	defer s.client.Close()
	var (
		now     state
		backoff discovery.Backoff
	)
	for {
		began := time.Now()
		next, err := s.ask(ctx, now)
		if ctx.Err() != nil {
			return
		}
		var wait time.Duration
		if err != nil {
			report(upstream.Report{Err: err})
			next, wait = state{}, backoff.Next() // begin anew: what is missed meanwhile is not known
		} else {
			report(upstream.Report{Endpoints: next.list, Note: next.note})
			backoff.Reset()
			wait = pause - time.Since(began)
			if next.index == 0 && now.index == 0 {
				wait = poll
			}
		}
		now = next
		if !discovery.Sleep(ctx, wait) {
			return
		}
	}
}

// ask waits for what comes after now.
func (s *Source) ask(ctx context.Context, now state) (state, error) {
	timeout, waits := discovery.AttemptTimeout, now.index > 0 && !now.over
	q := s.query()
	if waits {
		timeout += s.s.Wait + s.s.Wait/16 // Consul adds up to a sixteenth by chance
		q.Set("index", strconv.FormatUint(now.index, 10))
		q.Set("wait", strconv.FormatInt(s.s.Wait.Milliseconds(), 10)+"ms")
	}
	a, err := s.client.Get(ctx, remote.Request{
		Path: "/v1/health/service/" + url.PathEscape(s.s.Service), Query: q, Timeout: timeout, Limit: maxBody,
	})
	if err != nil {
		return state{}, err
	}
	defer a.Body.Close()
	index, hides := indexOf(a.Header), a.Header.Get("X-Consul-Results-Filtered-By-ACLs") == "true"
	if now.known && index == now.index && index > 0 && !hides { // the time was over, or the list is still right
		now.over = waits
		return now, nil
	}
	list, note, err := parse(a.Body, &s.s)
	if err == nil && hides {
		if len(list) == 0 {
			err = errHidden
		} else {
			note = strings.TrimPrefix(note+"; the token may not read all instances", "; ")
		}
	}
	if err != nil {
		s.client.Next()
		return state{}, err
	}
	if waits && len(list) == 0 && len(now.list) > 0 {
		return s.ask(ctx, state{}) // is it empty, or can it no longer be seen?
	}
	if index < now.index {
		index = 0 // the server has been restored or restarted: do not wait for an index that may be far away
	}
	return state{index: index, list: list, note: note, known: true}, nil
}

func (s *Source) query() url.Values {
	q := url.Values{}
	for key, value := range map[string]string{"dc": s.s.Datacenter, "ns": s.s.Namespace, "partition": s.s.Partition} {
		if value != "" {
			q.Set(key, value)
		}
	}
	for _, tag := range s.s.Tags {
		q.Add("tag", tag)
	}
	if !s.s.Warning {
		q.Set("passing", "1")
	}
	if s.s.Stale {
		q.Set("stale", "")
	}
	return q
}

// indexOf is 0 where there is none that can be waited for.
func indexOf(h http.Header) uint64 {
	n, _ := strconv.ParseUint(h.Get("X-Consul-Index"), 10, 64)
	return n
}
