package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

// secureNode is a node whose listener "web" speaks TLS, with its files.
type secureNode struct {
	*gatehouse
	ca  *tlstest.Authority
	dir string
}

// prepareTLS makes certificates api (api.test), wild (*.wild.test) and clients'
// authority, but does not start the node.
func prepareTLS(t *testing.T) *secureNode {
	t.Helper()
	n := &secureNode{gatehouse: prepare(t, ""), ca: tlstest.NewAuthority(t)}
	n.dir = filepath.Dir(n.config)
	n.issue("api", "api.test")
	n.issue("wild", "*.wild.test")
	tlstest.Write(t, n.path("clients.pem"), n.ca.PEM())
	return n
}

func (n *secureNode) path(name string) string { return filepath.Join(n.dir, name) }

func (n *secureNode) issue(name string, names ...string) {
	n.t.Helper()
	n.ca.Issue(n.t, tlstest.Request{Names: names}).Write(n.t, n.path(name+".crt"), n.path(name+".key"))
}

// secureText is a config with TLS settings for "web"; empty: plain text.
func (n *secureNode) secureText(settings, app string) string {
	listener := "web: { address: \"" + n.web + "\" }"
	if settings != "" {
		listener = "web: { address: \"" + n.web + "\", timeouts: { idle: 10m }, tls: { " + settings + " } }"
	}
	return fmt.Sprintf(`node:
  data_dir: %s
  admin: { address: %q }
  access_log: { path: %s }
  drain: { timeout: 30s }
certificates:
  api: { cert_file: api.crt, key_file: api.key }
  wild: { cert_file: wild.crt, key_file: wild.key }
listeners:
  %s
upstreams: { app: { endpoints: [%q] } }
routes:
  all: { match: { path: / }, backends: [{ upstream: app }] }
`, n.dataDir, n.admin, n.access, listener, app)
}

func startTLS(t *testing.T, settings, app string) *secureNode {
	t.Helper()
	n := prepareTLS(t)
	n.writeRaw(n.secureText(settings, app))
	n.run()
	n.waitReady()
	return n
}

// client is one that trusts the node and asks for name.
func (n *secureNode) client(name string, edit func(*tls.Config)) *http.Client {
	c := &tls.Config{ServerName: name, RootCAs: n.ca.Pool()}
	if edit != nil {
		edit(c)
	}
	tr := &http.Transport{TLSClientConfig: c}
	n.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

func (n *secureNode) fetch(c *http.Client, path string, header ...string) (reply, error) {
	req, err := http.NewRequest("GET", "https://"+n.web+path, nil)
	if err != nil {
		return reply{}, err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp, string(b)}, err
}

// seen tells what the upstream is told of the connection.
func seen(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "%s %s cert=%s", r.Header.Get("X-Forwarded-Proto"), r.Header.Get("Forwarded"), strings.Join(r.Header["Client-Cert"], "|"))
}

func TestTLS(t *testing.T) {
	n := startTLS(t, `certificates: [api, wild]`, upstreamServer(t, seen))
	for _, tc := range []struct {
		name, leaf string
		version    uint16
	}{
		{"api.test", "api.test", tls.VersionTLS12},
		{"api.test", "api.test", tls.VersionTLS13},
		{"a.wild.test", "*.wild.test", tls.VersionTLS13},
		{"a.b.wild.test", "api.test", tls.VersionTLS13},
		{"nobody.test", "api.test", tls.VersionTLS12},
	} {
		verifies := tc.name == tc.leaf || strings.HasPrefix(tc.leaf, "*")
		c := n.client(tc.name, func(c *tls.Config) { c.MaxVersion, c.InsecureSkipVerify = tc.version, !verifies })
		r, err := n.fetch(c, "/", "Client-Cert", ":evil:", "X-Forwarded-Proto", "http")
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if r.TLS.Version != tc.version || r.TLS.PeerCertificates[0].Subject.CommonName != tc.leaf {
			t.Errorf("%s: %s, %s", tc.name, tls.VersionName(r.TLS.Version), r.TLS.PeerCertificates[0].Subject)
		}
		if !strings.HasPrefix(r.body, "https for=127.0.0.1;host=") || !strings.HasSuffix(r.body, ";proto=https cert=") {
			t.Errorf("%s: upstream saw %q", tc.name, r.body)
		}
	}
	n.accessLine("the scheme", func(m map[string]any) bool { return m["scheme"] == "https" && m["protocol"] == "HTTP/1.1" })
	if left := time.Until(time.Unix(int64(n.metric(`gatehouse_certificate_not_after_timestamp_seconds{certificate="wild"}`)), 0)); left < 23*time.Hour || left > 25*time.Hour {
		t.Errorf("the metric says that the certificate expires in %v", left)
	}
	if _, err := n.fetch(n.client("api.test", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }), "/"); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
}

func TestTLSWithCurl(t *testing.T) {
	n := startTLS(t, `certificates: [api]`, upstreamServer(t, seen))
	tlstest.Write(t, n.path("ca.pem"), n.ca.PEM())
	for _, http := range []string{"--http1.1", "--http2"} {
		_, port, err := net.SplitHostPort(n.web)
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("curl", "-sS", http, "--cacert", n.path("ca.pem"), "--resolve", "api.test:"+port+":127.0.0.1",
			"https://api.test:"+port+"/1", "https://api.test:"+port+"/2", "-w", " connects=%{num_connects} http=%{http_version}\n").CombinedOutput()
		if err != nil || strings.Count(string(out), "proto=https") != 2 || !strings.Contains(string(out), "connects=0 http="+strings.TrimPrefix(http, "--http")+"\n") {
			t.Errorf("%s: %v\n%s", http, err, out)
		}
	}
}

// A connection is kept, also over pauses in which it is watched for hang-ups.
func TestTLSKeepAlive(t *testing.T) {
	n := startTLS(t, `certificates: [api]`, upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body) // to its end: an earlier reply would end the connection
		if err != nil {
			t.Errorf("upstream: %v", err)
		}
		_, _ = w.Write(b)
	}))
	c, err := tls.Dial("tcp", n.web, &tls.Config{ServerName: "api.test", RootCAs: n.ca.Pool()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	body := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	for _, pause := range []time.Duration{0, 0, 2500 * time.Millisecond, 0, 2500 * time.Millisecond} {
		time.Sleep(pause)
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(b, body) {
			t.Fatalf("%d of %d bytes, %v", len(b), len(body), err)
		}
	}
	if got := n.metric(`gatehouse_listener_connections_total{listener="web"}`); got != 1 {
		t.Errorf("%v connections", got)
	}
}

func TestTLSClientCertificates(t *testing.T) {
	n := prepareTLS(t)
	n.writeRaw(n.secureText(`certificates: [api], client_certificates: { ca_file: clients.pem }`, upstreamServer(t, seen)) + `
consumers:
  alice: { certificates: { spiffe_ids: ["spiffe://example.internal/alice"] } }
plugins:
  - client_certificate: {}
  - headers: { response: { set: { X-Seen: "${consumer} ${tls.client.subject} ${tls.version} ${tls.client.fingerprint}" } } }
`)
	n.run()
	n.waitReady()
	pair := n.ca.Issue(t, tlstest.Request{Names: []string{"alice"}, URI: "spiffe://example.internal/alice"})
	good, bad := pair.TLS(t), tlstest.NewAuthority(t).Issue(t, tlstest.Request{Names: []string{"mallory"}}).TLS(t)
	show := func(c *tls.Certificate) *http.Client {
		return n.client("api.test", func(cfg *tls.Config) {
			if c != nil {
				cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c, nil }
			}
		})
	}
	r, err := n.fetch(show(&good), "/", "Client-Cert", ":evil:", "client_cert", ":evil:")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(pair.Cert)
	if want := " cert=:" + base64.StdEncoding.EncodeToString(block.Bytes) + ":"; !strings.HasSuffix(r.body, want) {
		t.Errorf("upstream saw %q", r.body)
	}
	print := fmt.Sprintf("%x", sha256.Sum256(block.Bytes))
	if got := r.Header.Get("X-Seen"); got != "alice CN=alice TLS 1.3 "+print {
		t.Errorf("plugins saw %q", got)
	}
	line := n.accessLine("the request", func(m map[string]any) bool { return m["status"] == float64(200) })
	for key, want := range map[string]any{
		"tls_version": "TLS 1.3", "server_name": "api.test", "tls_resumed": false, "client_subject": "CN=alice", "consumer": "alice",
		"client_spiffe_id": "spiffe://example.internal/alice", "client_fingerprint": print, "auth": "client_certificate", "subject": "spiffe://example.internal/alice",
	} {
		if line[key] != want {
			t.Errorf("the access log has %s %v, want %v", key, line[key], want)
		}
	}
	stranger := n.ca.Issue(t, tlstest.Request{Names: []string{"bob"}}).TLS(t)
	if r, err := n.fetch(show(&stranger), "/"); err != nil || r.StatusCode != 403 || !strings.Contains(r.body, `"forbidden"`) {
		t.Errorf("somebody whom no consumer lists: %v, %v", r.Response, err)
	}
	for name, c := range map[string]*tls.Certificate{"none": nil, "of a stranger": &bad} {
		if _, err := n.fetch(show(c), "/"); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: %v", name, err)
		}
	}
	n.refusedTimes("tls_client_certificate", 2)
	n.accessLine("the refusal", func(m map[string]any) bool {
		return m["reason"] == "tls_client_certificate" && m["protocol"] == "TLS" && strings.Contains(fmt.Sprint(m["detail"]), "showed no certificate")
	})
}

// refusedTimes waits for a count of the listener's refusals.
func (n *secureNode) refusedTimes(why string, times float64) {
	n.t.Helper()
	n.eventually("refusals are counted", func() error {
		if got := n.metric(`gatehouse_listener_protocol_refusals_total{listener="web",reason="` + why + `"}`); got != times {
			return fmt.Errorf("%s %v times, want %v", why, got, times)
		}
		return nil
	})
}

func TestTLSHostileClients(t *testing.T) {
	app := upstreamServer(t, seen)
	n := startTLS(t, `certificates: [api], handshake_timeout: 1h`, app)
	if got := n.raw("GET / HTTP/1.1\r\nHost: api.test\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 400 ") || !strings.Contains(got, "tls_required") {
		t.Errorf("plain HTTP: %q", got)
	}
	n.refusedTimes("tls_required", 1)
	for _, garbage := range []string{"\x16\x03\x01\x00\x08\x01\x00\x00\x04\xff\xff\xff\xff", "\x16\x03\x01\xff\xff", "SSH-2.0-x\r\n"} {
		n.raw(garbage)
	}
	n.refusedTimes("tls_handshake_failed", 3)
	for range 3 { // health checks of a balancer
		c, err := net.Dial("tcp", n.web)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	stall := func(times int) {
		t.Helper()
		for range times {
			c, err := net.Dial("tcp", n.web)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			if _, err := io.WriteString(c, "\x16\x03\x01\x02"); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Many that stall do not keep others from being served.
	stall(200)
	if r, err := n.fetch(n.client("api.test", nil), "/"); err != nil || r.StatusCode != 200 {
		t.Errorf("meanwhile: %v", err)
	}
	n.become(`certificates: [api], handshake_timeout: 2s`, app)
	stall(50)
	n.refusedTimes("tls_handshake_timeout", 50)
	n.accessLine("the time-out", func(m map[string]any) bool { return m["reason"] == "tls_handshake_timeout" && m["step"] == "handshake" })
	n.refusedTimes("tls_handshake_failed", 3)
	n.stop()
}

// A stop does not wait for handshakes, and cuts none that is done.
func TestTLSStopsDuringHandshakes(t *testing.T) {
	n := startTLS(t, `certificates: [api], handshake_timeout: 1h`, upstreamServer(t, seen))
	c, err := net.Dial("tcp", n.web)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n.eventually("accepted", func() error {
		if n.metric(`gatehouse_listener_connections_open{listener="web"}`) != 1 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	begin := time.Now()
	n.stop()
	if took := time.Since(begin); took > 20*time.Second { // it might wait for half a minute
		t.Errorf("waited for %v", took)
	}
}

func TestTLSCarriesStreamsAndTunnels(t *testing.T) {
	n := startTLS(t, `certificates: [api]`, upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ws":
			echo(w, r)
		case "/events":
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				fmt.Fprintf(w, "data: %d\n\n", i)
				w.(http.Flusher).Flush()
				if i == 0 {
					<-r.Context().Done()
				}
			}
		case "/cut":
			fmt.Fprint(w, strings.Repeat("x", 100_000))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
	}))
	c := n.client("api.test", nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "wss://"+n.web+"/ws", &websocket.DialOptions{HTTPClient: c})
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 100, 30_000, 30_000} {
		text := bytes.Repeat([]byte("w"), size)
		if err := ws.Write(ctx, websocket.MessageText, text); err != nil {
			t.Fatal(err)
		}
		if _, b, err := ws.Read(ctx); err != nil || !bytes.Equal(b, text) {
			t.Fatalf("%d bytes of %d, %v", len(b), size, err)
		}
	}
	if err := ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("closing: %v", err)
	}
	resp, err := c.Get("https://" + n.web + "/events")
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || line != "data: 0\n" {
		t.Errorf("the first event: %q, %v", line, err)
	}
	resp.Body.Close() // ends it upstream as well, or the test server would not stop

	// A reply without a length that is cut must not look whole: no close_notify.
	s, err := tls.Dial("tcp", n.web, &tls.Config{ServerName: "api.test", RootCAs: n.ca.Pool()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fmt.Fprint(s, "GET /cut HTTP/1.0\r\nHost: api.test\r\n\r\n")
	if b, err := io.ReadAll(s); err == nil {
		t.Errorf("a cut reply of %d bytes ended well", len(b))
	}
}

// serial is what the node shows to a new client.
func (n *secureNode) serial() (string, error) {
	c, err := tls.Dial("tcp", n.web, &tls.Config{ServerName: "api.test", RootCAs: n.ca.Pool()})
	if err != nil {
		return "", err
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}

func (n *secureNode) waitSerial(want func(string) bool) {
	n.t.Helper()
	n.eventually("the certificate is in use", func() error {
		s, err := n.serial()
		if err == nil && !want(s) {
			err = fmt.Errorf("it is %s", s)
		}
		return err
	})
}

func TestTLSCertificatesAreReplacedUnderLoad(t *testing.T) {
	n := startTLS(t, `certificates: [api]`, upstreamServer(t, seen))
	first, err := n.serial()
	if err != nil {
		t.Fatal(err)
	}
	var load sync.WaitGroup
	stop := make(chan struct{})
	for i := range 4 {
		load.Go(func() {
			c := n.client("api.test", nil)
			if i%2 == 0 {
				c.Transport.(*http.Transport).DisableKeepAlives = true
			}
			for {
				select {
				case <-stop:
					return
				default:
				}
				if r, err := n.fetch(c, "/"); err != nil || r.StatusCode != 200 {
					t.Errorf("a request failed: %v", err)
					return
				}
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	n.issue("api", "api.test")
	n.waitSerial(func(s string) bool { return s != first })
	second, err := n.serial()
	if err != nil {
		t.Fatal(err)
	}
	tlstest.Write(t, n.path("api.crt"), []byte("nonsense"))
	n.eventually("the bad file is reported", func() error {
		// Once, or twice: a key may have been looked at before its certificate came.
		if n.metric(`gatehouse_certificate_loads_total{certificate="api",result="failure"}`) == 0 || !strings.Contains(n.log.String(), "has no certificate in PEM form") {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	n.waitSerial(func(s string) bool { return s == second })
	n.issue("api", "api.test")
	n.waitSerial(func(s string) bool { return s != second && s != first })
	close(stop)
	load.Wait()
}

// TLS comes and goes at one address; connections stay what they were.
func TestTLSIsSwitchedOnAndOff(t *testing.T) {
	app := upstreamServer(t, seen)
	n := startTLS(t, "", app)
	plain, err := net.Dial("tcp", n.web)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	ask := func(c net.Conn) {
		t.Helper()
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: api.test\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
	}
	ask(plain)
	swap := func(text string) {
		t.Helper()
		before := n.status()["digest"]
		n.writeRaw(text)
		n.eventually("the config is live", func() error {
			if n.status()["digest"] == before {
				return fmt.Errorf("still the old one, error %v", n.status()["error"])
			}
			return nil
		})
	}
	swap(n.secureText(`certificates: [api]`, app))
	ask(plain)
	secure, err := tls.Dial("tcp", n.web, &tls.Config{ServerName: "api.test", RootCAs: n.ca.Pool()})
	if err != nil {
		t.Fatal(err)
	}
	defer secure.Close()
	ask(secure)
	swap(n.secureText(`certificates: [wild, api], min_version: "1.3"`, app))
	ask(secure)
	swap(n.secureText("", app))
	ask(secure)
	ask(plain)
	if r := n.get("/"); r.StatusCode != 200 {
		t.Errorf("plain again: %d", r.StatusCode)
	}
}

// A node starts without a certificate, serves the others, and takes it up later.
// A reload to a config with a bad one is refused, with its place.
func TestTLSMissingCertificates(t *testing.T) {
	app := upstreamServer(t, seen)
	n := prepareTLS(t)
	if err := os.Rename(n.path("api.key"), n.path("kept")); err != nil {
		t.Fatal(err)
	}
	n.writeRaw(n.secureText(`certificates: [api, wild]`, app))
	out, err := exec.Command(binary, "check", n.config).CombinedOutput()
	if want := "gatehouse.yaml:7:40: certificates.api.key_file: "; err == nil || !strings.Contains(string(out), want) || !strings.Contains(string(out), `api.key": no such file`) {
		t.Errorf("check: %v\n%s", err, out)
	}
	n.run()
	n.waitReady()
	if r, err := n.fetch(n.client("a.wild.test", nil), "/"); err != nil || r.StatusCode != 200 {
		t.Errorf("the certificate that is there: %v", err)
	}
	n.logHas("a certificate cannot be used")
	if err := os.Rename(n.path("kept"), n.path("api.key")); err != nil {
		t.Fatal(err)
	}
	n.waitSerial(func(string) bool { return true })

	n.writeRaw(strings.Replace(n.secureText(`certificates: [api, wild]`, app), "wild.crt", "gone.crt", 1))
	n.eventually("the reload is refused", func() error {
		if s := fmt.Sprint(n.status()["error"]); !strings.Contains(s, "gone.crt") {
			return fmt.Errorf("error %q", s)
		}
		return nil
	})
	if r, err := n.fetch(n.client("a.wild.test", nil), "/"); err != nil || r.StatusCode != 200 {
		t.Errorf("after the refused reload: %v", err)
	}
}
