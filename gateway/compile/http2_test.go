package compile_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/compile"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

// clearText serves h by HTTP/2 without TLS.
func clearText(t *testing.T, h http.HandlerFunc) (address string) {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: h, Protocols: protocols}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(ln)
	}()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return ln.Addr().String()
}

func TestUpstreamProtocols(t *testing.T) {
	w := newWorld(t)
	both := newVault(t, home, func(s *httptest.Server) { s.EnableHTTP2 = true })
	old := newVault(t, home, nil)
	tlstest.Write(t, filepath.Join(w.dir, "both.pem"), both.ca.PEM())
	tlstest.Write(t, filepath.Join(w.dir, "old.pem"), old.ca.PEM())
	clear := clearText(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s %s", r.Proto, r.URL.Path) })
	for _, c := range []struct {
		address, upstream, want string
		status                  int
	}{
		{clear, "protocol: h2c", "HTTP/2.0 /x", 200},
		{both.address, "protocol: h2, tls: { ca_file: both.pem }", "HTTP/2.0", 200},
		{both.address, "protocol: auto, tls: { ca_file: both.pem }", "HTTP/2.0", 200},
		{both.address, "tls: { ca_file: both.pem }", "HTTP/1.1", 200},
		{old.address, "protocol: auto, tls: { ca_file: old.pem }", "HTTP/1.1", 200},
		{old.address, "protocol: h2, tls: { ca_file: old.pem }", "", 502},
		{old.address, "protocol: h2, tls: { ca_file: both.pem }", "", 502},
	} {
		w.apply(secured(c.address, c.upstream))
		for range 2 {
			if status, body := w.get("/x"); status != c.status || !strings.HasPrefix(body, c.want) {
				t.Errorf("%s: %d %q, want %q", c.upstream, status, body, c.want)
			}
		}
	}
}

// What did not change goes on: connections, and streams on them.
func TestReloadKeepsStreams(t *testing.T) {
	w := newWorld(t)
	more := make(chan string)
	addr := clearText(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/stream" {
			return
		}
		for text := range more {
			io.WriteString(w, text)
			http.NewResponseController(w).Flush()
		}
	})
	text := secured(addr, "protocol: h2c")
	w.apply(text)
	c, err := net.Dial("tcp", w.gateway.Addresses()["web"].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	io.WriteString(c, "GET /stream HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
	more <- "before"
	r, err := w.build(strings.ReplaceAll(text, "retries: { attempts: 0 }", "retries: { attempts: 1 }"), compile.AllOrNothing)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.gateway.Swap(t.Context(), r.Snapshot, time.Second); err != nil {
		t.Fatal(err)
	}
	if status, _ := w.get("/other"); status != 200 {
		t.Errorf("status %d", status)
	}
	more <- "after"
	close(more)
	b, err := io.ReadAll(c)
	if err != nil || !strings.Contains(string(b), "before") || !strings.Contains(string(b), "after") || !strings.HasSuffix(string(b), "0\r\n\r\n") {
		t.Errorf("%q, %v", b, err)
	}
	if s := compile.UpstreamStatus(r.Snapshot)["vault"]; s.Conns != 1 || s.Endpoints[0].Connects != 1 {
		t.Errorf("%d connections, %d made", s.Conns, s.Endpoints[0].Connects)
	}
}
