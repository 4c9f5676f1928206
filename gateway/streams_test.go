package gateway_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway"
	"github.com/gatehouse-proxy/gatehouse/gateway/l4"
	"github.com/gatehouse-proxy/gatehouse/gateway/proxyproto"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/telemetry/accesslog"
)

// tcpServer runs until the test ends.
func tcpServer(t testing.TB, handle func(net.Conn)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer nc.Close()
				nc.SetDeadline(time.Now().Add(30 * time.Second))
				handle(nc)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); all.Wait() })
	return ln.Addr().String()
}

func echo(nc net.Conn) { io.Copy(nc, nc) }

// tlsServer says its name to whoever completes a handshake.
func tlsServer(t testing.TB, ca *tlstest.Authority, name string) (addr string) {
	c := ca.Issue(t, tlstest.Request{Names: []string{name}}).TLS(t)
	return tcpServer(t, func(nc net.Conn) {
		s := tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{c}})
		io.WriteString(s, "I am "+name)
		s.CloseWrite()
		io.Copy(io.Discard, s) // or what is not read resets what was said
	})
}

func streamRoute(t testing.TB, name string, edit func(*l4.Backend), addrs ...string) *l4.Route {
	t.Helper()
	s := upstream.Settings{Name: name}
	for _, a := range addrs {
		s.Endpoints = append(s.Endpoints, upstream.EndpointSettings{Address: a})
	}
	u, err := upstream.New(s, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close(context.Background()) })
	b := l4.Backend{Upstream: u, Weight: 1}
	if edit != nil {
		edit(&b)
	}
	r, err := l4.NewRoute([]l4.Backend{b}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// streamListener passes everything on to addrs.
func streamListener(t testing.TB, name string, p snapshot.Protocol, addrs ...string) *snapshot.Listener {
	l := listener(t, name)
	l.Protocol = p
	l.Streams = &l4.Table{Idle: time.Minute, HelloTimeout: time.Minute, Names: map[string]*l4.Route{}}
	if len(addrs) > 0 {
		l.Streams.Default = streamRoute(t, "app", nil, addrs...)
	}
	return l
}

// lines is an access log in a file.
type lines struct{ path string }

func (n *lines) String() string {
	b, _ := os.ReadFile(n.path) // not written yet: empty
	return string(b)
}

func logged(t testing.TB, n *lines) func(*gateway.Settings) {
	t.Helper()
	n.path = t.TempDir() + "/access.log"
	log, err := accesslog.Open(accesslog.Settings{Path: n.path, Sample: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close(context.Background()) })
	return func(s *gateway.Settings) { s.AccessLog = log }
}

func (n *lines) has(t testing.TB, parts ...string) {
	t.Helper()
	var text string
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		text = n.String()
	next:
		for line := range strings.Lines(text) {
			for _, p := range parts {
				if !strings.Contains(line, p) {
					continue next
				}
			}
			return
		}
	}
	t.Errorf("no line with %q in\n%s", parts, text)
}

func addressOf(t testing.TB, n *node, name string) string {
	return strings.TrimPrefix(n.url(t, name), "http://")
}

// talk sends text, ends, and returns what comes.
func talk(t testing.TB, nc net.Conn, text string) (string, error) {
	t.Helper()
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	_, failed := io.WriteString(nc, text)
	nc.(interface{ CloseWrite() error }).CloseWrite()
	b, err := io.ReadAll(nc)
	nc.Close()
	return string(b), cmp.Or(err, failed) // the system tells of a reset once, whoever asks first
}

func connect(t testing.TB, addr string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return nc
}

func TestTCPIsPassedOn(t *testing.T) {
	addr := tcpServer(t, echo)
	var book lines
	n := newNode(t, logged(t, &book))
	n.swap(t, snap(streamListener(t, "pg", snapshot.TCP, addr)))
	if got, err := talk(t, connect(t, addressOf(t, n, "pg")), "GET / HTTP/1.1\r\n\r\n"); got != "GET / HTTP/1.1\r\n\r\n" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	book.has(t, `"listener":"pg"`, `"protocol":"TCP"`, `"status":200`, `"bytes_in":18,"bytes_out":18`, `"upstream":"app","endpoint":"`+addr+`"`)
	if got := n.metric(t, "gatehouse_listener_stream_received_bytes_total pg"); got != "18" {
		t.Errorf("received %s", got)
	}
}

func TestStreamsSurviveReloads(t *testing.T) {
	addr := tcpServer(t, echo)
	n := newNode(t)
	first := snap(streamListener(t, "pg", snapshot.TCP, addr))
	n.swap(t, first)
	nc := connect(t, addressOf(t, n, "pg"))
	ask := func() {
		t.Helper()
		io.WriteString(nc, "x")
		if _, err := io.ReadFull(nc, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	n.swap(t, snap(streamListener(t, "pg", snapshot.TCP, addr)))
	ask()
	select {
	case <-first.Retired():
		t.Error("the snapshot of a connection was retired while it lasts")
	default:
	}
	// The listener goes: the connection may finish.
	n.swap(t, snap(listener(t, "web")))
	ask()
	nc.Close()
	<-first.Retired()
}

func TestAListenerBecomesHTTPAndBack(t *testing.T) {
	addr := tcpServer(t, echo)
	n := newNode(t)
	n.swap(t, snap(streamListener(t, "x", snapshot.TCP, addr)))
	at1 := addressOf(t, n, "x")
	n.swap(t, snap(listener(t, "x", at("", "/", chain("r", plain("http"))))))
	if got := raw(t, "http://"+at1, ask); !strings.HasPrefix(got, "HTTP/1.1 200") {
		t.Errorf("%s", got)
	}
	n.swap(t, snap(streamListener(t, "x", snapshot.TCP, addr)))
	if got, err := talk(t, connect(t, at1), "echo"); got != "echo" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// secured makes a terminator for names.
func terminator(t testing.TB, ca *tlstest.Authority, names ...string) *tlsterm.Terminator {
	t.Helper()
	dir := t.TempDir()
	ca.Issue(t, tlstest.Request{Names: names}).Write(t, dir+"/c.crt", dir+"/c.key")
	changes := new(atomic.Uint64)
	c := tlsterm.NewCertificate(tlsterm.CertificateSettings{
		Name: "c", CertFile: dir + "/c.crt", KeyFile: dir + "/c.key", Changes: changes, Log: slog.New(slog.DiscardHandler),
	})
	if err := c.Load(); err != nil {
		t.Fatal(err)
	}
	return tlsterm.New(tlsterm.Settings{
		Certificates: []tlsterm.CertSource{c}, MinVersion: tls.VersionTLS12, HandshakeTimeout: time.Minute, Changes: changes,
		Log: slog.New(slog.DiscardHandler),
	})
}

// TestNamesOnOnePort: two servers behind their names, and HTTPS for the rest.
func TestNamesOnOnePort(t *testing.T) {
	ca := tlstest.NewAuthority(t)
	var book lines
	n := newNode(t, logged(t, &book))
	l := listener(t, "web", at("", "/", answer("r")))
	l.TLS = terminator(t, ca, "api.test")
	l.Streams = &l4.Table{Idle: time.Minute, HelloTimeout: time.Minute, Names: map[string]*l4.Route{
		"db.test":    streamRoute(t, "db", nil, tlsServer(t, ca, "db.test")),
		".wild.test": streamRoute(t, "wild", nil, tlsServer(t, ca, "a.wild.test")),
	}}
	pass := streamListener(t, "pass", snapshot.TLS)
	pass.Streams.Names = l.Streams.Names
	n.swap(t, snap(l, pass))
	say := func(listener, name string) string {
		nc, err := tls.Dial("tcp", addressOf(t, n, listener), &tls.Config{ServerName: name, RootCAs: ca.Pool()})
		if err != nil {
			return err.Error()
		}
		got, _ := talk(t, nc, ask)
		return got
	}
	for _, listener := range []string{"web", "pass"} {
		if got := say(listener, "db.test"); got != "I am db.test" {
			t.Errorf("%s: %q", listener, got)
		}
		if got := say(listener, "a.wild.test"); got != "I am a.wild.test" {
			t.Errorf("%s: %q", listener, got)
		}
	}
	if got := say("web", "api.test"); !strings.Contains(got, "r a.test /x  127.0.0.1 https web") {
		t.Errorf("%q", got)
	}
	if got := say("pass", "api.test"); !strings.Contains(got, "reset") && !strings.Contains(got, "EOF") {
		t.Errorf("%q", got)
	}
	book.has(t, `"listener":"pass"`, `"protocol":"TLS"`, `"host":"db.test"`, `"upstream":"db"`, `"status":200`)
	book.has(t, `"listener":"pass"`, `"host":"api.test"`, `"reason":"l4_no_route"`, `"status":404`)
	// What is no handshake at all: the one that ends TLS answers as ever.
	if got := raw(t, n.url(t, "web"), ask); !strings.Contains(got, `"reason":"tls_required"`) {
		t.Errorf("%q", got)
	}
	nc := connect(t, addressOf(t, n, "pass"))
	if got, _ := talk(t, nc, ask); got != "" {
		t.Errorf("%q", got)
	}
	for metric, want := range map[string]string{"web tls_required": "1", "pass tls_required": "1", "pass l4_no_route": "1"} {
		eventually(t, metric, func() bool {
			got, _ := n.find(t, "gatehouse_listener_protocol_refusals_total "+metric)
			return got == want
		})
	}
}

// TestTLSEndsBeforeTCP: with large bodies, so that nothing of the handshake is
// mixed up with them.
func TestTLSEndsBeforeTCP(t *testing.T) {
	ca := tlstest.NewAuthority(t)
	n := newNode(t)
	l := streamListener(t, "pgs", snapshot.TCP, tcpServer(t, echo))
	l.TLS = terminator(t, ca, "pg.test")
	n.swap(t, snap(l))
	nc, err := tls.Dial("tcp", addressOf(t, n, "pgs"), &tls.Config{ServerName: "pg.test", RootCAs: ca.Pool()})
	if err != nil {
		t.Fatal(err)
	}
	text := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	go func() {
		nc.Write(text)
		nc.CloseWrite()
	}()
	if b, err := io.ReadAll(nc); !bytes.Equal(b, text) || err != nil {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	nc.Close()
}

// TestProxyHeadersThroughTwoNodes: what the first says of the client, the
// second believes and says again.
func TestProxyHeadersThroughTwoNodes(t *testing.T) {
	trust := proxyproto.NewPolicy([]netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, time.Minute)
	for _, v := range []proxyproto.Version{proxyproto.V1, proxyproto.V2} {
		seen := make(chan netip.AddrPort, 10)
		addr := tcpServer(t, func(nc net.Conn) {
			client, err := trust.Read(nc)
			if err != nil {
				t.Error(err)
			}
			seen <- client
			echo(nc)
		})
		var book lines
		inner, outer := newNode(t, logged(t, &book)), newNode(t)
		li := streamListener(t, "in", snapshot.TCP)
		li.Proxies = trust
		li.Streams.Default = streamRoute(t, "app", func(b *l4.Backend) { b.Header = v }, addr)
		inner.swap(t, snap(li))
		lo := streamListener(t, "out", snapshot.TCP)
		lo.Streams.Default = streamRoute(t, "inner", func(b *l4.Backend) { b.Header = v }, addressOf(t, inner, "in"))
		outer.swap(t, snap(lo))
		nc := dialFrom(t, outer.url(t, "out"), "127.0.0.3")
		if got, err := talk(t, nc, "hello"); got != "hello" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		if client := <-seen; client.String() != nc.LocalAddr().String() {
			t.Errorf("the client is %v, not %v", client, nc.LocalAddr())
		}
		book.has(t, `"client":"127.0.0.3"`, `"listener":"in"`)
		// Not from everybody: neither a header nor the end of one may come through.
		liar := dialFrom(t, inner.url(t, "in"), "127.0.0.2")
		io.WriteString(liar, "PROXY TCP4 192.0.2.1 10.0.0.1 1234 80\r\nhello")
		if b, _ := io.ReadAll(liar); len(b) != 0 {
			t.Errorf("%q", b)
		}
		<-seen
		book.has(t, `"reason":"proxy_header_untrusted"`)
	}
}

func TestDrainCutsStreamsAtItsEnd(t *testing.T) {
	n := newNode(t)
	n.swap(t, snap(streamListener(t, "pg", snapshot.TCP, tcpServer(t, echo))))
	nc := connect(t, addressOf(t, n, "pg"))
	io.WriteString(nc, "x")
	if _, err := io.ReadFull(nc, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if open, _, tunnels := n.Connections(); open != 1 || tunnels != 1 {
		t.Errorf("%d open, %d tunnels", open, tunnels)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := n.Drain(ctx); err != nil {
		t.Error(err)
	}
	if _, err := nc.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is open")
	}
}
