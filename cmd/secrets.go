package cmd

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/control/secrets"
	"github.com/gatehouse-proxy/gatehouse/gateway/acme"
	"github.com/gatehouse-proxy/gatehouse/gateway/compile"
	"github.com/gatehouse-proxy/gatehouse/gateway/seal"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
)

// openSecrets makes what nodes with one Redis share and seal. Without a
// node.secret_key there is nothing to seal it with: then sessions are resumed at
// the node only that they began at, and certificates of ACME are not to be had.
func (n *node) openSecrets(c config.Node) error {
	if c.Store.Redis == nil {
		return nil
	}
	if c.SecretKey == "" {
		n.log.Info("session tickets are not shared with the other nodes: that needs node.secret_key, the same on all of them")
		return nil
	}
	key, err := seal.New(c.SecretKey.Reveal())
	if err != nil {
		return fmt.Errorf("node.secret_key: %w", err)
	}
	n.secrets = secrets.New(secrets.Settings{Store: n.store, Key: key, Node: c.Name, Live: n.live, Log: n.log})
	n.metrics.Shared(func() metrics.Shared { return sharedMetrics(n.secrets.Status()) })
	return nil
}

// live are the names of the live nodes.
func (n *node) live(ctx context.Context) ([]string, error) {
	list, err := n.members(ctx)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(list))
	for i, m := range list {
		names[i] = m.Node
	}
	return names, nil
}

// tickets is what makes the keys of session tickets; nil: every listener has its
// own.
func (n *node) tickets() func(rotate time.Duration) compile.TicketKeys {
	if n.secrets == nil {
		return nil
	}
	return func(rotate time.Duration) compile.TicketKeys { return n.secrets.Tickets(rotate) }
}

// openACME makes what ACME certificates have in common. A node that has some and
// cannot store them does not start: it would order them anew at every start,
// until the authority has had enough.
func (n *node) openACME(s nodeSettings) (*acme.Node, error) {
	c := s.config.Node
	settings := acme.NodeSettings{
		Dir: acme.DirIn(c.DataDir), Secret: c.SecretKey.Reveal(), KeyFile: acme.KeyFileIn(c.DataDir),
		Version: s.version, Log: n.log,
	}
	if n.secrets != nil {
		settings.Shared = n.secrets
	}
	node := acme.NewNode(settings)
	needed := n.fleet != nil // a later revision may bring some
	for _, cert := range s.config.Certificates {
		needed = needed || cert.ACME != nil
	}
	if needed {
		return node, node.Open()
	}
	return node, nil
}

func (n *node) sharedStatus() *secrets.Status {
	if n.secrets == nil {
		return nil
	}
	s := n.secrets.Status()
	return &s
}

func sharedMetrics(s secrets.Status) metrics.Shared {
	out := metrics.Shared{Up: s.Up && s.Error == ""}
	for _, t := range s.Tickets {
		out.Tickets = append(out.Tickets, metrics.SharedTickets{Rotate: t.Rotate, Shared: t.Shared, Made: t.Made})
	}
	return out
}

// wrongShared adds why certificates and session tickets are not shared.
func (s *status) wrongShared(add func(format string, args ...any)) {
	if s.Shared == nil {
		return
	}
	if s.Shared.Error != "" {
		add("store: certificates and session tickets are not shared: %s", s.Shared.Error)
	}
	for _, t := range s.Shared.Tickets {
		if s.Shared.Error == "" && !t.Shared {
			add("session tickets: this node has its own, which the others do not honour: %s", t.Error)
		}
	}
}

func (s *status) printShared(w io.Writer, now time.Time) {
	if s.Shared == nil {
		return
	}
	fmt.Fprint(w, "shared       ")
	if s.Shared.Error != "" {
		fmt.Fprintln(w, "nothing at present: certificates and session tickets stay as they are here")
		return
	}
	text := "certificates in the store, sealed"
	for _, l := range s.Shared.Orders {
		text += fmt.Sprintf("; %s orders %s", l.Node, strings.TrimPrefix(l.Name, "certificate-"))
	}
	fmt.Fprintln(w, visible(text))
	for _, t := range s.Shared.Tickets {
		if t.Shared {
			fmt.Fprintf(w, "             session tickets: secret %d, made %s, rotated every %s\n", t.Generation, ago(t.Made, now), short(t.Rotate))
		}
	}
}

// short is a duration as time.Duration writes it, without what is zero.
func short(d string) string {
	if rest, ok := strings.CutSuffix(d, "m0s"); ok {
		d = rest + "m"
	}
	if rest, ok := strings.CutSuffix(d, "h0m"); ok {
		d = rest + "h"
	}
	return d
}
