// Package kubernetes finds endpoints in the EndpointSlices of a service, by the
// Kubernetes API's list and watch over plain HTTPS. It needs no client library:
// ADR 11 says why.
package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/discovery"
	"github.com/gatehouse-proxy/gatehouse/discovery/remote"
	"github.com/gatehouse-proxy/gatehouse/gateway/filewatch"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

const (
	// listTimeout is for one page of a list.
	listTimeout = 15 * time.Second
	// watchFor is how long a watch lasts; the server ends it then.
	watchFor = 5 * time.Minute
	// pageSize is how many slices a page has, of up to 1000 endpoints each.
	pageSize = 50
	// maxPage and maxEvent bound an answer. An endpoint has up to 500 bytes.
	maxPage  = 64 << 20
	maxEvent = 4 << 20
	// maxStored is how many endpoints of all slices are remembered: two address
	// types, and as many again that are not ready.
	maxStored = 4 * upstream.MaxEndpoints
	// maxPages of a list are read, which is as many as can have something new.
	maxPages = maxStored/pageSize + 1
	// pause is the shortest time from the beginning of one watch to the next.
	pause = time.Second
	// settle is for how long changes are collected before they are passed on: a
	// rollout changes slices many times a second.
	settle = 100 * time.Millisecond
	// maxToken bounds the files of a service account.
	maxToken = 64 << 10
)

// Settings of a Source.
type Settings struct {
	// Client with the API server; without servers the one of the cluster that this
	// process runs in, as the pod's service account.
	Client remote.Settings
	// TokenFile has the bearer token; it is read for every request, since the
	// kubelet replaces it. Empty: none, unless in a cluster.
	TokenFile string
	// Namespace; empty: the pod's own, or "default".
	Namespace, Service string
	// Port is its name, or number, as the slices have it; empty: the only one.
	Port string
	// Addresses are "IPv4" or "IPv6"; empty: IPv4, or IPv6 where there are none.
	Addresses string

	// Env and Account are for tests: os.Getenv and where Kubernetes mounts the
	// service account.
	Env     func(string) string
	Account string
}

// Source is a service in a cluster.
type Source struct{ s Settings }

var _ upstream.Source = (*Source)(nil)

// New makes a source; it asks nobody yet.
func New(s Settings) (*Source, error) {
	if s.Env == nil {
		s.Env = os.Getenv
	}
	if s.Account == "" {
		s.Account = "/var/run/secrets/kubernetes.io/serviceaccount"
	}
	k := &Source{s: s}
	if len(s.Client.Servers) > 0 {
		if _, err := remote.New(s.Client); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// Name implements upstream.Source.
func (s *Source) Name() (kind, target string) {
	target = s.s.Service
	if s.s.Namespace != "" {
		target = s.s.Namespace + "/" + target
	}
	if s.s.Port != "" {
		target += ":" + s.s.Port
	}
	return "kubernetes", target
}

// Run implements upstream.Source.
func (s *Source) Run(ctx context.Context, report func(upstream.Report)) {
	var backoff discovery.Backoff
	for {
		w, err := s.connect()
		if err == nil {
			w.report, w.backoff = report, &backoff
			w.client.Start(ctx)
			err = w.follow(ctx)
			w.client.Close()
		}
		if ctx.Err() != nil {
			return
		}
		if !errors.Is(err, errGone) {
			report(upstream.Report{Err: err})
		}
		if !discovery.Sleep(ctx, backoff.Next()) {
			return
		}
	}
}

// connect finds out whom to ask, and as whom.
func (s *Source) connect() (*watcher, error) {
	c, token, namespace := s.s.Client, s.s.TokenFile, s.s.Namespace
	if len(c.Servers) == 0 {
		host, port := s.s.Env("KUBERNETES_SERVICE_HOST"), s.s.Env("KUBERNETES_SERVICE_PORT")
		if host == "" || port == "" {
			return nil, errors.New("this is no pod of a cluster (KUBERNETES_SERVICE_HOST is not set): kubernetes.server must say where the API is")
		}
		c.Servers = []string{"https://" + net.JoinHostPort(host, port)}
		c.TLS.CAFile = filepath.Join(s.s.Account, "ca.crt")
		if token == "" {
			token = filepath.Join(s.s.Account, "token")
		}
		if namespace == "" {
			own, err := filewatch.Read(filepath.Join(s.s.Account, "namespace"), maxToken)
			if err != nil {
				return nil, fmt.Errorf("the pod's namespace: %w", err)
			}
			namespace = strings.TrimSpace(string(own))
		}
	}
	if namespace == "" {
		namespace = "default"
	}
	if token != "" {
		c.Header = func() (http.Header, error) { return bearer(token) }
	}
	client, err := remote.New(c)
	if err != nil {
		return nil, err
	}
	return &watcher{
		client: client, s: &s.s,
		path: "/apis/discovery.k8s.io/v1/namespaces/" + url.PathEscape(namespace) + "/endpointslices",
	}, nil
}

func bearer(file string) (http.Header, error) {
	token, err := filewatch.Read(file, maxToken)
	if err != nil {
		return nil, fmt.Errorf("the token: %w", err)
	}
	return http.Header{"Authorization": {"Bearer " + strings.TrimSpace(string(token))}}, nil
}
