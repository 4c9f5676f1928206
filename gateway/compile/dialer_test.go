package compile_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/compile"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

// vault is an upstream that speaks TLS and counts its connections.
type vault struct {
	address string
	ca      *tlstest.Authority
	conns   atomic.Int32
}

// newVault is an endpoint with a certificate for r; edit may change how it speaks.
func newVault(t *testing.T, r tlstest.Request, edit func(*httptest.Server)) *vault {
	t.Helper()
	v := &vault{ca: tlstest.NewAuthority(t)}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := "nobody"
		if len(r.TLS.PeerCertificates) > 0 {
			name = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		fmt.Fprintf(w, "%s %s %s by %s", r.Proto, r.Host, r.URL.Path, name)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{v.ca.Issue(t, r).TLS(t)}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: v.ca.Pool()}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			v.conns.Add(1)
		}
	}
	if edit != nil {
		edit(s)
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	v.address = s.Listener.Addr().String()
	return v
}

var home = tlstest.Request{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}

// secured is a config with one upstream and these keys of it.
func secured(address, upstream string) string {
	return fmt.Sprintf(`listeners: { web: { address: "127.0.0.1:0" } }
upstreams: { vault: { endpoints: [%q], %s } }
routes: { all: { match: { path: / }, backends: [{ upstream: vault }], retries: { attempts: 0 } } }
`, address, upstream)
}

func TestUpstreamTLS(t *testing.T) {
	w := newWorld(t)
	v := newVault(t, home, nil)
	tlstest.Write(t, filepath.Join(w.dir, "ca.pem"), v.ca.PEM())
	v.ca.Issue(t, tlstest.Request{Names: []string{"gateway"}}).Write(t, filepath.Join(w.dir, "own.crt"), filepath.Join(w.dir, "own.key"))
	expect := func(upstream, want string, conns int32) {
		t.Helper()
		w.apply(secured(v.address, upstream))
		for range 2 {
			if _, body := w.get("/x"); body != want {
				t.Errorf("got %q, want %q", body, want)
			}
		}
		if n := v.conns.Swap(0); n != conns {
			t.Errorf("%d new connections, want %d", n, conns)
		}
	}
	asked := "HTTP/1.1 " + w.host() + " /x by "
	expect("tls: {ca_file: ca.pem}", asked+"nobody", 1)
	expect("tls: {ca_file: ca.pem}, load_balancer: {slow_start: 1s}", asked+"nobody", 0) // another upstream, the same connections
	expect("tls: {ca_file: ca.pem, cert_file: own.crt, key_file: own.key}", asked+"gateway", 1)
	expect("tls: {ca_file: ca.pem, cert_file: own.crt, key_file: own.key, min_version: \"1.3\"}", asked+"gateway", 1)
	expect("tls: {insecure_skip_verify: true}", asked+"nobody", 1)
	w.apply(secured(v.address, "tls: {}"))
	if status, _ := w.get("/x"); status != http.StatusBadGateway {
		t.Errorf("a stranger is trusted: %d", status)
	}
}

// Units of files live as long as what is made of them.
func TestUpstreamTLSUnits(t *testing.T) {
	w := newWorld(t)
	v := newVault(t, home, nil)
	tlstest.Write(t, filepath.Join(w.dir, "ca.pem"), v.ca.PEM())
	v.ca.Issue(t, tlstest.Request{}).Write(t, filepath.Join(w.dir, "own.crt"), filepath.Join(w.dir, "own.key"))
	const mutual = "tls: {ca_file: ca.pem, cert_file: own.crt, key_file: own.key}"
	w.apply(secured(v.address, mutual))
	first := w.units()
	w.apply(secured(v.address, mutual) + "node: { name: other }\n")
	for key, unit := range w.units() {
		if (strings.HasPrefix(key, "upstream/") || strings.HasPrefix(key, "dial/") || strings.HasPrefix(key, "certificate/")) && first[key] != unit {
			t.Errorf("%s was made anew", key)
		}
	}
	if len(first) < 3 {
		t.Errorf("%d units", len(first))
	}
	w.apply(secured(v.address, "connection: {}"))
	for key := range w.units() {
		if strings.HasPrefix(key, "dial/") || strings.HasPrefix(key, "certificate/") {
			t.Errorf("%s is left", key)
		}
	}
}

func TestUpstreamTLSFilesThatCannotBeUsed(t *testing.T) {
	w := newWorld(t)
	v := newVault(t, home, nil)
	text := secured(v.address, "tls: {ca_file: ca.pem, cert_file: own.crt, key_file: own.key}")
	_, err := w.build(text, compile.AllOrNothing)
	if err == nil || strings.Count(err.Error(), "no such file") != 2 ||
		!strings.Contains(err.Error(), "upstreams.vault.tls.ca_file") || !strings.Contains(err.Error(), "upstreams.vault.tls.key_file") {
		t.Errorf("got %v", err)
	}
	if r, err := w.build(text, compile.Sketch); err != nil {
		t.Errorf("who only asks what a config means needs its files: %v", err)
	} else {
		r.Snapshot.Release()
	}
	w.applyAs(text, compile.ServeTheRest)
	if status, _ := w.get("/x"); status != http.StatusBadGateway {
		t.Errorf("without authorities: %d", status)
	}
	tlstest.Write(t, filepath.Join(w.dir, "ca.pem"), v.ca.PEM())
	v.ca.Issue(t, tlstest.Request{Names: []string{"gateway"}}).Write(t, filepath.Join(w.dir, "own.crt"), filepath.Join(w.dir, "own.key"))
	for late := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if _, body := w.get("/x"); strings.HasSuffix(body, "by gateway") {
			return
		}
		if time.Now().After(late) {
			t.Fatal("the mended files are not used")
		}
	}
}

// host is what requests of get name.
func (w *world) host() string {
	w.t.Helper()
	if w.gateway.Current() == nil {
		w.apply(`listeners: { web: { address: "127.0.0.1:0" } }`)
	}
	return w.gateway.Addresses()["web"].String()
}

func TestWarnsOfUnverifiedEndpoints(t *testing.T) {
	w := newWorld(t)
	var log strings.Builder
	c, err := compile.New(compile.Settings{Log: slog.New(slog.NewTextHandler(io.Writer(&log), nil)), Metrics: w.metrics})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	w.compiler.Close()
	w.compiler = c
	if _, err := w.build(secured("127.0.0.1:1", "tls: {insecure_skip_verify: true}"), compile.DryRun); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "upstreams.vault.tls.insecure_skip_verify") {
		t.Errorf("the log says %q", log.String())
	}
}
