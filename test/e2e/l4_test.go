package e2e

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

// streamServer accepts TCP until the test ends, or stop is called.
func streamServer(t *testing.T, handle func(net.Conn)) (addr string, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", freeAddress(t)) // nobody else's, when it is stopped
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
				nc.SetDeadline(time.Now().Add(3 * time.Minute))
				handle(nc)
			})
		}
	})
	stop = sync.OnceFunc(func() { ln.Close(); all.Wait() })
	t.Cleanup(stop)
	return ln.Addr().String(), stop
}

// database answers a line with its name and the line, as long as there are some.
func database(name string) func(net.Conn) {
	return func(nc net.Conn) {
		b := make([]byte, 4<<10)
		for {
			n, err := nc.Read(b)
			if err != nil {
				return
			}
			fmt.Fprintf(nc, "%s: %s", name, b[:n])
		}
	}
}

// query asks once over nc.
func query(nc net.Conn, text string) (string, error) {
	nc.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(nc, text); err != nil {
		return "", err
	}
	b := make([]byte, 4<<10)
	n, err := nc.Read(b)
	return string(b[:n]), err
}

// secureDatabase ends TLS as name.
func secureDatabase(t *testing.T, ca *tlstest.Authority, name string) string {
	c := ca.Issue(t, tlstest.Request{Names: []string{name}}).TLS(t)
	addr, _ := streamServer(t, func(nc net.Conn) {
		s := tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{c}})
		defer s.Close()
		database(name)(s)
	})
	return addr
}

// TestStreams: one node that passes connections on in every way there is.
func TestStreams(t *testing.T) {
	n := prepareTLS(t)
	one, stopOne := streamServer(t, database("one"))
	two, _ := streamServer(t, database("two"))
	header, _ := streamServer(t, database("header"))
	a, b := secureDatabase(t, n.ca, "a.db.test"), secureDatabase(t, n.ca, "b.db.test")
	tlstest.Write(t, n.path("ca.pem"), n.ca.PEM())
	app := upstreamServer(t, seen)
	at := map[string]string{}
	for _, name := range []string{"plain", "ended", "again", "mixed", "names", "inner", "outer"} {
		at[name] = freeAddress(t)
	}
	config := func(extra string) string {
		return fmt.Sprintf(`node:
  data_dir: %q
  admin: { address: %q }
  access_log: { path: %q }
  drain: { timeout: 30s }
certificates: { api: { cert_file: api.crt, key_file: api.key } }
listeners:
  plain: { address: %q, protocol: tcp, backends: [{ upstream: both }] }
  ended: { address: %q, protocol: tcp, tls: { certificates: [api] }, backends: [{ upstream: both }] }
  again: { address: %q, protocol: tcp, tls: { certificates: [api] }, backends: [{ upstream: secure }] }
  mixed: { address: %q, tls: { certificates: [api] }, sni: { a.db.test: { backends: [{ upstream: a }] }, "*.db.test": { backends: [{ upstream: b }] } } }
  names: { address: %q, protocol: tls, sni: { a.db.test: { backends: [{ upstream: a }] } } }
  inner: { address: %q, protocol: tcp, proxy_protocol: { from: [127.0.0.1/32] }, backends: [{ upstream: header }] }
  outer: { address: %q, protocol: tcp, backends: [{ upstream: chain }] }
upstreams:
  both: { endpoints: [%q, %q] }
  secure: { endpoints: [%q], tls: { server_name: a.db.test, ca_file: ca.pem } }
  a: { endpoints: [%q] }
  b: { endpoints: [%q] }
  header: { endpoints: [%q], proxy_protocol: v1 }
  chain: { endpoints: [%q], proxy_protocol: v2 }
  app: { endpoints: [%q] }
routes: { all: { match: { path: / }, backends: [{ upstream: app }] } }
%s`, n.dataDir, n.admin, n.access, at["plain"], at["ended"], at["again"], at["mixed"], at["names"], at["inner"], at["outer"],
			one, two, a, a, b, header, at["inner"], app, extra)
	}
	n.writeRaw(config(""))
	n.run()
	n.waitReady()
	plain := func(where string) (net.Conn, error) { return net.Dial("tcp", at[where]) }
	secure := func(where, name string) (net.Conn, error) {
		return tls.Dial("tcp", at[where], &tls.Config{ServerName: name, RootCAs: n.ca.Pool()})
	}
	for what, tc := range map[string]struct {
		dial func() (net.Conn, error)
		want string
	}{
		"plain":               {func() (net.Conn, error) { return plain("plain") }, ": hello"},
		"TLS ended":           {func() (net.Conn, error) { return secure("ended", "api.test") }, ": hello"},
		"TLS ended and begun": {func() (net.Conn, error) { return secure("again", "api.test") }, "a.db.test: hello"},
		"name beside HTTPS":   {func() (net.Conn, error) { return secure("mixed", "a.db.test") }, "a.db.test: hello"},
		"wildcard":            {func() (net.Conn, error) { return secure("mixed", "b.db.test") }, "b.db.test: hello"},
		"name alone":          {func() (net.Conn, error) { return secure("names", "a.db.test") }, "a.db.test: hello"},
		"PROXY through two":   {func() (net.Conn, error) { return plain("outer") }, "header: PROXY TCP4 127.0.0.1 127.0.0.1 "},
	} {
		nc, err := tc.dial()
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if got, err := query(nc, "hello"); !strings.Contains(got, tc.want) || err != nil {
			t.Errorf("%s: %q, %v", what, got, err)
		}
		// What came after its end, such as a goodbye of TLS, would be reset, which is
		// another outcome of a connection.
		if err := nc.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := io.Copy(io.Discard, nc); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		nc.Close()
	}
	n.web = at["mixed"]
	if r, err := n.fetch(n.client("api.test", nil), "/"); err != nil || r.StatusCode != 200 {
		t.Errorf("HTTPS beside names: %v, %v", r, err)
	}
	if _, err := secure("names", "api.test"); err == nil {
		t.Error("a name that is not listed was served")
	}
	n.accessLine("a name that is not listed", func(m map[string]any) bool {
		return m["listener"] == "names" && m["reason"] == "l4_no_route" && m["host"] == "api.test" && m["protocol"] == "TLS"
	})
	n.accessLine("bytes of a connection", func(m map[string]any) bool {
		return m["listener"] == "names" && m["upstream"] == "a" && m["status"] == 200.0 && m["bytes_in"].(float64) > 100 && m["bytes_out"].(float64) > 100
	})

	// A connection outlives reloads; a killed endpoint costs nobody anything.
	held, err := plain("plain")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	for i := range 3 {
		n.writeRaw(config(fmt.Sprintf("consumers: { c%d: {} }\n", i)))
		time.Sleep(50 * time.Millisecond) // whenever it is noticed
		if _, err := query(held, "still"); err != nil {
			t.Fatalf("after reload %d: %v", i, err)
		}
	}
	held.Close() // or neither its server nor the node could be stopped
	stopOne()
	for i := range 30 {
		nc, err := plain("plain")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := query(nc, "hello"); got != "two: hello" || err != nil {
			t.Fatalf("connection %d after one was killed: %q, %v", i, got, err)
		}
		nc.Close()
	}
	if got := n.metric(`gatehouse_listener_connections_total{listener="plain"}`); got < 32 {
		t.Errorf("%v connections counted", got)
	}
	n.stop()
}

// TestMuchThroughAStream: up and down at once, whole and in constant memory.
func TestMuchThroughAStream(t *testing.T) {
	addr, _ := streamServer(t, func(nc net.Conn) { io.Copy(nc, struct{ io.Reader }{nc}); nc.(*net.TCPConn).CloseWrite() })
	g := prepare(t, "")
	at := freeAddress(t)
	g.writeRaw(g.text("") + fmt.Sprintf("  echo: { address: %q, protocol: tcp, backends: [{ upstream: echo }] }\nupstreams: { echo: { endpoints: [%q] } }\n", at, addr))
	g.run()
	g.waitReady()
	before := g.rss()
	nc, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(3 * time.Minute))
	piece := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	const pieces = 256
	sent := sha256.New()
	go func() {
		for range pieces {
			sent.Write(piece)
			if _, err := nc.Write(piece); err != nil {
				return
			}
		}
		nc.(*net.TCPConn).CloseWrite()
	}()
	got := sha256.New()
	n, err := io.Copy(got, nc)
	if err != nil || n != pieces*int64(len(piece)) || !bytes.Equal(got.Sum(nil), sent.Sum(nil)) {
		t.Errorf("%d bytes came back, %v", n, err)
	}
	if grown := g.rss() - before; grown > 24<<20 {
		t.Errorf("%d bytes of memory for one connection", grown)
	}
	g.stop()
}
