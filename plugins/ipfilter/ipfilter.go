package ipfilter

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/gaissmai/bart"
	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/filewatch"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// longest list file; a million networks are about 20 MiB.
const longest = 64 << 20

// Factory makes ip_filter instances.
func Factory() plugins.Factory {
	return plugins.Define("ip_filter", func(c *Config, s plugins.Settings) (plugins.Instance, error) {
		v := s.Counter("gatehouse_ip_filter_refused_total", "Requests refused for their address.", "route", "list")
		p := &plugin{
			peer:      c.Address == "peer",
			denied:    v.WithLabelValues(s.Route.Name, "deny"),
			unlisted:  v.WithLabelValues(s.Route.Name, "allow"),
			restricts: len(c.Allow) > 0 || c.AllowFile != "",
		}
		p.allow.file(c.AllowFile, "allow_file", c.Allow, s)
		p.deny.file(c.DenyFile, "deny_file", c.Deny, s)
		return p, nil
	})
}

type plugin struct {
	peer, restricts  bool
	allow, deny      list
	denied, unlisted prometheus.Counter
}

var _ plugins.Instance = (*plugin)(nil)

// list is the config's networks and those of a file. The table is replaced
// whole when the file changes.
type list struct {
	fixed []Network
	table atomic.Pointer[bart.Lite]
	watch *filewatch.File // nil without a file
	key   string
}

func (l *list) file(path, key string, fixed []Network, s plugins.Settings) {
	l.fixed, l.key = fixed, key
	l.table.Store(l.build(nil))
	if path == "" {
		return
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(s.Dir, path)
	}
	l.watch = filewatch.New(filewatch.Settings{
		Path: path, Limit: longest,
		Load: func(content []byte) error {
			more, err := read(content)
			if err == nil {
				l.table.Store(l.build(more))
			}
			return err
		},
		Failed: func(err error) {
			s.Log.Error("ip_filter keeps the networks it has: "+key+" cannot be read", "error", err)
		},
		Changed: func() { s.Log.Info("ip_filter read "+key+" again", "path", path) },
	})
}

func (l *list) build(more []netip.Prefix) *bart.Lite {
	t := new(bart.Lite)
	for _, n := range l.fixed {
		t.Insert(netip.Prefix(n))
	}
	for _, n := range more {
		t.Insert(n)
	}
	return t
}

// read reads a list file. One bad line makes all of it bad: half a deny list
// is worse than yesterday's.
func read(content []byte) (out []netip.Prefix, err error) {
	line := 0
	for s := bufio.NewScanner(bytes.NewReader(content)); s.Scan(); {
		line++
		text, _, _ := strings.Cut(s.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		p, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		out = append(out, p)
	}
	return out, nil
}

func (l *list) start() error {
	if l.watch == nil {
		return nil
	}
	if err := l.watch.Load(); err != nil {
		return fmt.Errorf("%s: %w", l.key, err)
	}
	l.watch.Start()
	return nil
}

// Start reads the files and begins to watch them.
func (p *plugin) Start(context.Context) error {
	if err := p.allow.start(); err != nil {
		return err
	}
	return p.deny.start()
}

// Close ends the watching.
func (p *plugin) Close(context.Context) error {
	for _, l := range [...]*list{&p.allow, &p.deny} {
		if l.watch != nil {
			l.watch.Close()
		}
	}
	return nil
}

// Handle implements plugins.Instance.
func (p *plugin) Handle(c *fiber.Ctx) error {
	e := exchange.From(c)
	a := e.Client
	if p.peer {
		a = e.Peer.Addr()
	}
	a = a.Unmap().WithZone("")
	switch {
	case p.deny.table.Load().Contains(a):
		p.denied.Inc()
		return reason.IPDenied.Because("%s is in deny", a)
	case p.restricts && !p.allow.table.Load().Contains(a):
		p.unlisted.Inc()
		return reason.IPDenied.Because("%s is not in allow", a)
	}
	return c.Next()
}
