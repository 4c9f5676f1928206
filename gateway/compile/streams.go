package compile

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/gateway/l4"
	"github.com/gatehouse-proxy/gatehouse/gateway/proxyproto"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
)

var protocols = map[string]snapshot.Protocol{"http": snapshot.HTTP, "tcp": snapshot.TCP, "tls": snapshot.TLS, "udp": snapshot.UDP}

var proxyVersions = map[string]proxyproto.Version{"v1": proxyproto.V1, "v2": proxyproto.V2}

func replies(c *config.Datagrams) int {
	if c == nil {
		return 0
	}
	return c.Replies
}

// streams says where a listener passes connections on to; nil: nowhere.
func (b *build) streams(name string, c *config.Listener) *l4.Table {
	if len(c.Backends) == 0 && len(c.SNI) == 0 {
		return nil
	}
	path := "listeners." + name
	t := &l4.Table{Idle: c.Timeouts.Idle.D(), HelloTimeout: c.Timeouts.Head.D(), Names: map[string]*l4.Route{}}
	if c.Protocol == "http" {
		t.Idle, t.HelloTimeout = time.Hour, c.TLS.HandshakeTimeout.D()
	}
	plans := map[string]string{}
	b.result.Streams[name] = plans
	if len(c.Backends) > 0 {
		t.Default, plans[""] = b.streamRoute(path, c.Backends), passOn(c.Backends)
	}
	for _, n := range slices.Sorted(maps.Keys(c.SNI)) {
		key, list := strings.TrimPrefix(n, "*"), c.SNI[n].Backends
		t.Names[key], plans[key] = b.streamRoute(path+".sni."+n, list), passOn(list)
	}
	return t
}

// passOn tells a person where connections go.
func passOn(list []config.Backend) string {
	parts := make([]string, len(list))
	for i, c := range list {
		parts[i] = fmt.Sprintf("%s (weight %d)", c.Upstream, c.Weight)
	}
	return "pass on to " + strings.Join(parts, ", ")
}

// streamRoute is a broken one where an upstream is missing on this node.
func (b *build) streamRoute(path string, list []config.Backend) *l4.Route {
	var backends []l4.Backend
	for _, c := range list {
		u := b.cfg.Upstreams[c.Upstream]
		up := b.upstream(c.Upstream)
		if why := b.broken[upstreamKey+c.Upstream]; up == nil || why != "" {
			b.result.Broken[path] = why
			return l4.BrokenRoute("upstream " + c.Upstream + ": " + why)
		}
		backends = append(backends, l4.Backend{
			Upstream: up, Weight: c.Weight, HashClient: u.LoadBalancer.HashOn != "",
			Dial: b.dialers[c.Upstream].Offering().DialAfter, Timeout: u.Connection.Timeout.D(), Header: proxyVersions[u.ProxyProtocol],
		})
	}
	r, err := l4.NewRoute(backends, (&tries{b.Compiler}).connected)
	if err != nil {
		b.problems.Add(path, "%v", err)
		return l4.BrokenRoute(err.Error())
	}
	return r
}
