package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

// vault is an upstream that speaks TLS and asks for certificates of its authority.
type vault struct {
	*httptest.Server
	ca     *tlstest.Authority
	config atomic.Pointer[tls.Config]
}

func startVault(t *testing.T, ca *tlstest.Authority) *vault {
	t.Helper()
	v := &vault{ca: ca}
	v.become(t, ca)
	v.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ws" {
			ws, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			for {
				kind, text, err := ws.Read(r.Context())
				if err != nil || ws.Write(r.Context(), kind, text) != nil {
					return
				}
			}
		}
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s by %s: %s", r.TLS.ServerName, r.TLS.PeerCertificates[0].Subject.CommonName, b)
	}))
	v.Server.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return v.config.Load(), nil }}
	v.Config.ErrorLog = log.New(io.Discard, "", 0)
	v.StartTLS()
	t.Cleanup(v.Close)
	return v
}

// become has new connections served with a certificate of ca.
func (v *vault) become(t *testing.T, ca *tlstest.Authority) {
	t.Helper()
	pool := v.ca.Pool()
	v.config.Store(&tls.Config{
		Certificates: []tls.Certificate{ca.Issue(t, tlstest.Request{Names: []string{"vault.test"}}).TLS(t)},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: pool,
		SessionTicketsDisabled: true, // they would be those of whoever was there before
	})
}

func (v *vault) address() string { return v.Listener.Addr().String() }

// withVault is a node whose listener and upstream both speak TLS.
func withVault(t *testing.T, more string) (*secureNode, *vault) {
	t.Helper()
	n := prepareTLS(t)
	v := startVault(t, n.ca)
	tlstest.Write(t, n.path("vault.pem"), n.ca.PEM())
	n.issue("gateway", "gateway")
	text := n.secureText("certificates: [api], client_certificates: { ca_file: clients.pem }", v.address())
	n.writeRaw(strings.Replace(text, fmt.Sprintf("endpoints: [%q]", v.address()),
		fmt.Sprintf("endpoints: [%q], tls: { server_name: vault.test, ca_file: vault.pem, cert_file: gateway.crt, key_file: gateway.key }%s", v.address(), more), 1))
	n.run()
	n.waitReady()
	return n, v
}

// member is a client with a certificate.
func (n *secureNode) member() *http.Client {
	return n.client("api.test", func(c *tls.Config) {
		c.Certificates = []tls.Certificate{n.ca.Issue(n.t, tlstest.Request{Names: []string{"alice"}}).TLS(n.t)}
	})
}

// Certificates on both sides of the gateway: client to gateway, gateway to upstream.
func TestUpstreamTLS(t *testing.T) {
	n, v := withVault(t, ", health_check: { type: tcp, interval: 100ms, timeout: 100ms }")
	c := n.member()
	for range 3 {
		if r, err := n.fetch(c, "/"); err != nil || r.body != "vault.test by gateway: " {
			t.Fatalf("%q, %v", r.body, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "wss://"+n.web+"/ws", &websocket.DialOptions{HTTPClient: c})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		text := []byte(strings.Repeat("x", 1+i*1500))
		if err := ws.Write(ctx, websocket.MessageText, text); err != nil {
			t.Fatal(err)
		}
		if _, got, err := ws.Read(ctx); err != nil || string(got) != string(text) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	ws.Close(websocket.StatusNormalClosure, "")
	// A stranger in its place is not spoken to, and that shows.
	stranger := tlstest.NewAuthority(t)
	v.become(t, stranger)
	v.CloseClientConnections()
	n.eventually("the stranger to be refused", func() error {
		r, err := n.fetch(c, "/")
		if err != nil {
			return err
		}
		if r.StatusCode != http.StatusBadGateway || !strings.Contains(r.body, "upstream_tls") {
			return fmt.Errorf("%d %s", r.StatusCode, r.body)
		}
		return nil
	})
	line := n.accessLine("why", func(m map[string]any) bool {
		return m["reason"] == "upstream_tls" && m["detail"] == "endpoint "+v.address()+": certificate is signed by an unknown authority"
	})
	if line["flags"] != "UF" {
		t.Errorf("the access log says %v", line)
	}
	n.eventually("the health check says so", func() error {
		if strings.Contains(n.log.String(), `detail="certificate is signed by an unknown authority"`) {
			return nil
		}
		// It says why an endpoint is out when it takes it out; where that was since a
		// busy machine was late, it has to come back first.
		ca := stranger
		if n.metric(series("gatehouse_upstream_endpoint_healthy", "app", v.address())) == 0 {
			ca = v.ca
		}
		v.become(t, ca)
		return errors.New("not yet")
	})
	if got := n.metric(`gatehouse_upstream_tries_total{endpoint="` + v.address() + `",outcome="tls_failure",upstream="app"}`); got == 0 {
		t.Error("no try is counted as tls_failure")
	}
}

// Authorities and certificates are replaced while requests go on: none fails.
func TestUpstreamTLSRotation(t *testing.T) {
	n, v := withVault(t, ", connection: { idle: 100ms }")
	next := tlstest.NewAuthority(t)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var done atomic.Int64
	for range 4 {
		c := n.member()
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				resp, err := c.Post("https://"+n.web+"/", "text/plain", strings.NewReader("x"))
				if err != nil {
					t.Error(err)
					return
				}
				b, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if !strings.HasPrefix(string(b), "vault.test by gateway") {
					t.Errorf("%d %s", resp.StatusCode, b)
					return
				}
				done.Add(1)
				time.Sleep(time.Millisecond)
			}
		})
	}
	// The usual way: trust both, replace, trust the new one only.
	tlstest.Write(t, n.path("vault.pem"), append(n.ca.PEM(), next.PEM()...))
	n.logTimes("the authorities of an upstream have changed", 1)
	v.become(t, next)
	n.issue("gateway", "gateway-2")
	n.eventually("the new certificate to be shown", func() error {
		r, err := n.fetch(n.member(), "/")
		if err == nil && r.body != "vault.test by gateway-2: " {
			err = errors.New(r.body)
		}
		return err
	})
	tlstest.Write(t, n.path("vault.pem"), next.PEM())
	n.logTimes("the authorities of an upstream have changed", 2)
	time.Sleep(200 * time.Millisecond)
	close(stop)
	wg.Wait()
	if done.Load() == 0 {
		t.Error("no request was made")
	}
}

// A server that hangs in the handshake costs no more than the timeout.
func TestUpstreamThatHangsInTheHandshake(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	g := prepare(t, "")
	g.write(fmt.Sprintf(`upstreams: { app: { endpoints: [%q], tls: {}, connection: { timeout: 1s } } }
routes: { all: { match: { path: / }, backends: [{ upstream: app }], retries: { attempts: 0 } } }
`, ln.Addr()))
	g.run()
	g.waitReady()
	if r := g.get("/"); r.StatusCode != http.StatusBadGateway { // a request's own timeout is 504
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	line := g.accessLine("why", func(m map[string]any) bool { return m["reason"] == "upstream_tls" })
	if detail, _ := line["detail"].(string); !strings.Contains(detail, "did not complete the TLS handshake in time") {
		t.Errorf("%v", line)
	}
}

// logTimes waits until text is in the log so many times.
func (n *secureNode) logTimes(text string, times int) {
	n.t.Helper()
	n.eventually(text, func() error {
		if got := strings.Count(n.log.String(), text); got < times {
			return fmt.Errorf("%d times", got)
		}
		return nil
	})
}
