package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/gateway"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/route"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
	"github.com/gatehouse-proxy/gatehouse/gateway/target"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// logbook is a log that can be read while it is written.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logbook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newMetrics() *metrics.Metrics {
	var names []string
	for _, r := range reason.All() {
		names = append(names, r.Name)
	}
	return metrics.New(metrics.Settings{Reasons: names})
}

// node is a gateway under test with what it reports to.
type node struct {
	*gateway.Gateway
	log     *logbook
	metrics *metrics.Metrics
}

func newNode(t testing.TB, edit ...func(*gateway.Settings)) *node {
	t.Helper()
	n := &node{log: &logbook{}, metrics: newMetrics()}
	s := gateway.Settings{Log: slog.New(slog.NewTextHandler(n.log, nil)), Metrics: n.metrics}
	for _, f := range edit {
		f(&s)
	}
	n.Gateway = gateway.New(s)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := n.Drain(ctx); err != nil {
			t.Errorf("Drain: %v", err)
		}
	})
	return n
}

func (n *node) swap(t testing.TB, s *snapshot.Snapshot) {
	t.Helper()
	if err := n.Swap(context.Background(), s, time.Minute); err != nil {
		t.Fatal(err)
	}
}

// url is where a listener is, by name.
func (n *node) url(t testing.TB, name string) string {
	t.Helper()
	a := n.Addresses()[name]
	if a == nil {
		t.Fatalf("no listener %q: %v", name, n.Addresses())
	}
	return "http://" + a.String()
}

// metric is the value of the metric line that begins with name.
func (n *node) metric(t testing.TB, name string) string {
	t.Helper()
	value, lines := n.find(t, name)
	if value == "" {
		t.Fatalf("no metric %q among\n%s", name, strings.Join(lines, "\n"))
	}
	return value
}

// find is metric for one that may not be there yet; lines are all there are.
func (n *node) find(t testing.TB, name string) (value string, lines []string) {
	t.Helper()
	families, err := n.metrics.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			line := f.GetName()
			for _, l := range m.GetLabel() {
				line += " " + l.GetValue()
			}
			v := m.GetGauge().GetValue() + m.GetCounter().GetValue()
			if m.GetHistogram() != nil {
				v = float64(m.GetHistogram().GetSampleCount())
			}
			lines = append(lines, line)
			if line == name {
				return fmt.Sprint(v), lines
			}
		}
	}
	return "", lines
}

// chain makes a route of handlers.
func chain(name string, handlers ...fiber.Handler) *exchange.Route {
	r := &exchange.Route{Name: name, Chain: handlers}
	for i := range handlers {
		r.Steps = append(r.Steps, fmt.Sprintf("step%d", i))
	}
	return r
}

// answer is a route that tells what it was asked.
func answer(name string) *exchange.Route {
	return chain(name, func(c *fiber.Ctx) error {
		e := exchange.From(c)
		return c.SendString(strings.Join([]string{name, e.Host, e.Path, e.Query, e.Client.String(), e.Scheme, e.Listener}, " "))
	})
}

func noRoute(handlers ...fiber.Handler) *exchange.Route {
	return chain("none", append(handlers, func(*fiber.Ctx) error { return reason.NoRoute })...)
}

func at(host, prefix string, r *exchange.Route) route.Entry[*exchange.Route] {
	e := route.Entry[*exchange.Route]{Name: r.Name, Value: r, Match: route.Match{Path: route.Path{Prefix: prefix}}}
	if host != "" {
		e.Match.Hosts = []string{host}
	}
	return e
}

// listener is one on a port of the system's choice.
func listener(t testing.TB, name string, entries ...route.Entry[*exchange.Route]) *snapshot.Listener {
	t.Helper()
	table, err := route.New(entries)
	if err != nil {
		t.Fatal(err)
	}
	return &snapshot.Listener{
		Name: name, Address: "127.0.0.1:0", Routes: table, NoRoute: noRoute(),
		Rules: target.Rules{MergeSlashes: true}, Trust: target.NewTrust(target.TrustSettings{}),
		Server: snapshot.ServerSettings{
			HeadBytes: 64 << 10, HeadFields: 100, URIBytes: 8 << 10,
			HeadTimeout: time.Minute, BodyTimeout: time.Minute, WriteTimeout: time.Minute, IdleTimeout: time.Minute,
		},
	}
}

// snap makes a snapshot of listeners, which are told apart by name.
func snap(listeners ...*snapshot.Listener) *snapshot.Snapshot {
	all := map[string]*snapshot.Listener{}
	for _, l := range listeners {
		all[l.Address+" "+l.Name] = l
	}
	return snapshot.New("digest", all, snapshot.NewUnits(nil))
}

func trust(cidr string) *target.Trust {
	return target.NewTrust(target.TrustSettings{Proxies: []netip.Prefix{netip.MustParsePrefix(cidr)}})
}

// client keeps no connections, so that nothing is left behind.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}

func get(t testing.TB, method, url string, fields ...string) (status int, body string) {
	t.Helper()
	q, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fields {
		k, v, _ := strings.Cut(f, ": ")
		if q.Header.Add(k, v); k == "Host" {
			q.Host = v
		}
	}
	r, err := client.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// raw sends text and returns all that comes until the connection ends.
func raw(t testing.TB, url, text string) string {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		t.Fatalf("after %q: %v", b, err)
	}
	return string(b)
}
