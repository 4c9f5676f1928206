package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	quichttp "github.com/quic-go/quic-go/http3"

	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

// manyNode is a node that speaks every protocol: "web" in plain text, "secure"
// over TLS and QUIC.
type manyNode struct {
	*gatehouse
	secure string
	ca     *tlstest.Authority
	// clients by protocol: "h1", "h2c", "h1 tls", "h2", "h3".
	clients map[string]http.RoundTripper
	order   []string
}

// prepareMany writes a config with two listeners and the rest of it in text.
// Files of that are relative to the node's folder.
func prepareMany(t *testing.T, listener, rest string) *manyNode {
	t.Helper()
	n := &manyNode{gatehouse: prepare(t, ""), secure: freeAddress(t), ca: tlstest.NewAuthority(t)}
	dir := filepath.Dir(n.config)
	n.ca.Issue(t, tlstest.Request{Names: []string{"a.test"}}).Write(t, filepath.Join(dir, "a.crt"), filepath.Join(dir, "a.key"))
	n.writeRaw(fmt.Sprintf(`node:
  data_dir: %s
  admin: { address: %q }
  access_log: { path: %s }
  drain: { timeout: 30s }
certificates: { a: { cert_file: a.crt, key_file: a.key } }
listeners:
  web: { address: %q%s }
  secure: { address: %q, tls: { certificates: [a] }, http3: true%s }
%s`, n.dataDir, n.admin, n.access, n.web, listener, n.secure, listener, rest))
	n.order = []string{"h1", "h2c", "h1 tls", "h2", "h3"}
	n.clients = map[string]http.RoundTripper{}
	only := func(protocols ...string) *http.Protocols {
		p := new(http.Protocols)
		p.SetHTTP1(slices.Contains(protocols, "h1"))
		p.SetHTTP2(slices.Contains(protocols, "h2"))
		p.SetUnencryptedHTTP2(slices.Contains(protocols, "h2c"))
		return p
	}
	for _, name := range n.order[:4] {
		tr := &http.Transport{DisableCompression: true, Protocols: only(strings.TrimSuffix(name, " tls")), TLSClientConfig: n.tls()}
		t.Cleanup(tr.CloseIdleConnections)
		n.clients[name] = tr
	}
	tr := &quichttp.Transport{TLSClientConfig: n.tls(), DisableCompression: true, QUICConfig: patientQUIC()}
	t.Cleanup(func() { _ = tr.Close() })
	n.clients["h3"] = tr
	return n
}

// begin runs the node in its own folder.
func (n *manyNode) begin() {
	n.t.Helper()
	cmd := exec.Command(binary, "run", "-c", n.config)
	cmd.Dir = filepath.Dir(n.config)
	n.launch(cmd)
	n.waitReady()
}

// patientQUIC are settings of a client that a busy machine may keep waiting.
func patientQUIC() *quic.Config {
	return &quic.Config{HandshakeIdleTimeout: time.Minute, MaxIdleTimeout: time.Minute}
}

func (n *manyNode) tls() *tls.Config { return &tls.Config{ServerName: "a.test", RootCAs: n.ca.Pool()} }

// target is where a protocol is spoken.
func (n *manyNode) target(protocol string) (scheme, address string) {
	if protocol == "h1" || protocol == "h2c" {
		return "http", n.web
	}
	return "https", n.secure
}

// asked is a request to be sent over every protocol.
type asked struct {
	what    string
	method  string // default GET
	path    string // as it is to stand in the request
	header  []string
	body    string
	chunked bool     // the length is not told
	trailer []string // name, value
}

// answer is what a client gets, without what may differ.
type answer struct {
	status  int
	header  string
	body    string
	trailer string
	err     error
}

func (a answer) String() string {
	return fmt.Sprintf("%d %v\n%s\n%s\ntrailers: %s", a.status, a.err, a.header, a.body, a.trailer)
}

// send sends q over a protocol.
func (n *manyNode) send(protocol string, q asked) answer {
	n.t.Helper()
	scheme, address := n.target(protocol)
	path, rawQuery, hasQuery := strings.Cut(q.path, "?")
	plain, err := url.PathUnescape(path)
	if err != nil {
		n.t.Fatalf("%s: %v", q.what, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	req := (&http.Request{
		Method: q.method, Header: http.Header{}, Host: "a.test",
		URL: &url.URL{Scheme: scheme, Host: address, Path: plain, RawPath: path, RawQuery: rawQuery, ForceQuery: hasQuery},
	}).WithContext(ctx)
	if req.Method == "" {
		req.Method = "GET"
	}
	if q.body != "" || q.chunked {
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader(q.body)), int64(len(q.body))
		if q.chunked {
			req.ContentLength = -1
		}
	}
	for i := 0; i < len(q.trailer); i += 2 {
		if req.Trailer == nil {
			req.Trailer = http.Header{}
		}
		req.Trailer.Add(q.trailer[i], q.trailer[i+1])
	}
	req.Header["User-Agent"] = []string{"differential"}
	for i := 0; i < len(q.header); i += 2 {
		if q.header[i] == "Host" {
			req.Host = q.header[i+1]
			continue
		}
		req.Header.Add(q.header[i], strings.ReplaceAll(q.header[i+1], "PROTOCOL", strings.ReplaceAll(protocol, " ", "-")))
	}
	resp, err := n.clients[protocol].RoundTrip(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if strings.HasPrefix(protocol, "h1") && resp.ProtoMajor != 1 || strings.HasPrefix(protocol, "h2") && resp.ProtoMajor != 2 || protocol == "h3" && resp.ProtoMajor != 3 {
		n.t.Fatalf("%s: answered by %s", protocol, resp.Proto)
	}
	return answer{resp.StatusCode, lines(resp.Header), unify(string(body)), lines(resp.Trailer), err}
}

// lines are a header's fields in order, without those that tell of time,
// connection and protocol.
func lines(h http.Header) string {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(h)) {
		switch name {
		case "Date", "Alt-Svc", "Connection", "Keep-Alive", "Trailer":
			continue
		}
		for _, v := range h[name] {
			if name == "Retry-After" { // counts down
				v = "SECONDS"
			}
			fmt.Fprintf(&b, "%s: %s\n", name, unify(v))
		}
	}
	return b.String()
}

var (
	requestIDs = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`)
	schemes    = regexp.MustCompile(`(?i)(proto[=:] ?|Location: |"?)https?\b`)
	protocols  = regexp.MustCompile(`\b(h1-tls|h2c|h1|h2|h3)\b`)
	addresses  = regexp.MustCompile(`127\.0\.0\.1:\d+`)
	via        = regexp.MustCompile(`(?i)(via: )?[123]\.[01] gatehouse`)
	stuck      = regexp.MustCompile(`stick=[^;]+`)
)

// unify hides what must differ: identifiers, the scheme, the names of protocols.
func unify(s string) string {
	s = requestIDs.ReplaceAllString(s, "ID")
	s = schemes.ReplaceAllString(s, "${1}SCHEME")
	s = via.ReplaceAllString(s, "${1}N gatehouse")
	s = protocols.ReplaceAllString(s, "PROTOCOL")
	s = stuck.ReplaceAllString(s, "stick=SOMEWHERE")
	return addresses.ReplaceAllString(s, "ADDRESS")
}
