package upstream

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	grpchealth "google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/dial"
)

// prober over whatever kind of connection.
func probeBy(t *testing.T, h HealthSettings, dial dialFunc, address string) error {
	t.Helper()
	if err := h.setDefaults(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return newProber(h, dial).probe(ctx, address)
}

// secureDial trusts ca and offers protocols.
func secureDial(t *testing.T, ca *tlstest.Authority, protocols ...string) dialFunc {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	tlstest.Write(t, file, ca.PEM())
	d, err := dial.New(dial.Settings{TLS: &dial.TLSSettings{CAFile: file}, Protocols: protocols})
	if err == nil {
		err = d.Load()
	}
	if err != nil {
		t.Fatal(err)
	}
	return d.Dial
}

func expectProbe(t *testing.T, what string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v", what, err)
	case want != "" && (err == nil || err.Error() != want):
		t.Errorf("%s: got %v, want %s", what, err, want)
	}
}

var plainDial dialFunc = new(net.Dialer).DialContext

// told is a server that answers with what it was asked.
func told(t *testing.T, protocols func(*http.Protocols)) (*httptest.Server, chan string) {
	t.Helper()
	asked := make(chan string, 10)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- fmt.Sprint(r.Proto, " ", r.Method, " ", r.Host, " ", r.RequestURI, " ", r.UserAgent())
		if strings.HasPrefix(r.URL.Path, "/ill") {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	s.Config.Protocols = new(http.Protocols)
	protocols(s.Config.Protocols)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(s.Close)
	return s, asked
}

func TestHTTPProbeSpeaksWhatTheEndpointDoes(t *testing.T) {
	ca := tlstest.NewAuthority(t)
	config := func() *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, tlstest.Request{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}).TLS(t)}}
	}
	both, asked := told(t, func(p *http.Protocols) { p.SetHTTP1(true); p.SetHTTP2(true) })
	both.TLS = config()
	both.EnableHTTP2 = true
	both.StartTLS()
	clear2, asked2 := told(t, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) })
	clear2.Start()
	clear1, asked1 := told(t, func(p *http.Protocols) { p.SetHTTP1(true) })
	clear1.Start()
	for _, tc := range []struct {
		name   string
		h      HealthSettings
		dial   dialFunc
		server *httptest.Server
		asked  chan string
		want   string
		err    string
	}{
		{"https", HealthSettings{Path: "/a?b=c"}, secureDial(t, ca, "http/1.1"), both, asked, "HTTP/1.1 GET ADDRESS /a?b=c gatehouse-health", ""},
		{"h2", HealthSettings{Path: "/a?b=c", Host: "x.test"}, secureDial(t, ca, "h2"), both, asked, "HTTP/2.0 GET x.test /a?b=c gatehouse-health", ""},
		{"auto", HealthSettings{}, secureDial(t, ca, "h2", "http/1.1"), both, asked, "HTTP/2.0 GET ADDRESS / gatehouse-health", ""},
		{"h2, ill", HealthSettings{Path: "/ill"}, secureDial(t, ca, "h2"), both, asked, "HTTP/2.0 GET ADDRESS /ill gatehouse-health", "status 503"},
		{"h2c", HealthSettings{HTTP2: true, Path: "/%2Fx"}, plainDial, clear2, asked2, "HTTP/2.0 GET ADDRESS /%2Fx gatehouse-health", ""},
		{"h2c to HTTP/1", HealthSettings{HTTP2: true}, plainDial, clear1, asked1, "", "the endpoint speaks HTTP/1.1, not HTTP/2"},
		{"stranger", HealthSettings{}, secureDial(t, tlstest.NewAuthority(t)), both, asked, "", "certificate is signed by an unknown authority"},
		{"TLS to plain", HealthSettings{}, secureDial(t, ca), clear1, asked1, "", "the endpoint speaks plain HTTP, not TLS"},
		{"tcp, stranger", HealthSettings{Type: "tcp"}, secureDial(t, tlstest.NewAuthority(t)), both, asked, "", "certificate is signed by an unknown authority"},
		{"tcp", HealthSettings{Type: "tcp"}, secureDial(t, ca), both, asked, "", ""},
	} {
		address := tc.server.Listener.Addr().String()
		expectProbe(t, tc.name, probeBy(t, tc.h, tc.dial, address), tc.err)
		if tc.want == "" {
			continue
		}
		if got, want := <-tc.asked, strings.ReplaceAll(tc.want, "ADDRESS", address); got != want {
			t.Errorf("%s: asked %q, want %q", tc.name, got, want)
		}
	}
}

// An endpoint that wants a certificate says so late with TLS 1.3; no kind of
// probe takes it for healthy.
func TestProbesNoticeThatACertificateIsMissing(t *testing.T) {
	ca := tlstest.NewAuthority(t)
	s, _ := told(t, func(p *http.Protocols) { p.SetHTTP1(true); p.SetHTTP2(true) })
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{
		Certificates: []tls.Certificate{ca.Issue(t, tlstest.Request{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}).TLS(t)},
		ClientAuth:   tls.RequireAnyClientCert,
	}
	s.StartTLS()
	address := s.Listener.Addr().String()
	const want = "the endpoint requires a client certificate"
	expectProbe(t, "tcp", probeBy(t, HealthSettings{Type: "tcp"}, secureDial(t, ca), address), want)
	expectProbe(t, "http", probeBy(t, HealthSettings{}, secureDial(t, ca, "http/1.1"), address), want)
	expectProbe(t, "h2", probeBy(t, HealthSettings{}, secureDial(t, ca, "h2"), address), want)
	expectProbe(t, "grpc", probeBy(t, HealthSettings{Type: "grpc"}, secureDial(t, ca, "h2"), address), want)
}

// grpcServer serves what f registers until the test ends.
func grpcServer(t *testing.T, f func(*grpc.Server), options ...grpc.ServerOption) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(options...)
	f(s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(ln)
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return ln.Addr().String()
}

func TestGRPCProbe(t *testing.T) {
	const (
		serving, not = grpc_health_v1.HealthCheckResponse_SERVING, grpc_health_v1.HealthCheckResponse_NOT_SERVING
		unknown      = grpc_health_v1.HealthCheckResponse_UNKNOWN
		noService    = grpc_health_v1.HealthCheckResponse_SERVICE_UNKNOWN
	)
	h := grpchealth.NewServer()
	for name, s := range map[string]grpc_health_v1.HealthCheckResponse_ServingStatus{
		"up": serving, "down": not, "odd": unknown, "none": noService, "beyond": 7,
	} {
		h.SetServingStatus(name, s)
	}
	with := func(s *grpc.Server) { grpc_health_v1.RegisterHealthServer(s, h) }
	ca := tlstest.NewAuthority(t)
	pair := ca.Issue(t, tlstest.Request{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}).TLS(t)
	clear := grpcServer(t, with)
	secured := grpcServer(t, with, grpc.Creds(credentials.NewServerTLSFromCert(&pair)))
	for service, want := range map[string]string{
		"": "", "up": "", "down": "NOT_SERVING", "odd": "UNKNOWN", "none": "SERVICE_UNKNOWN",
		"beyond":  "the reply is not a grpc.health.v1.HealthCheckResponse",
		"nothing": `the endpoint's health service does not know the service "nothing"`,
	} {
		s := HealthSettings{Type: "grpc", Service: service}
		expectProbe(t, "h2c "+service, probeBy(t, s, plainDial, clear), want)
		expectProbe(t, "h2 "+service, probeBy(t, s, secureDial(t, ca, "h2"), secured), want)
	}
	expectProbe(t, "not implemented", probeBy(t, HealthSettings{Type: "grpc"}, plainDial, grpcServer(t, func(*grpc.Server) {})),
		"the endpoint does not implement grpc.health.v1.Health")
	busy := func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
		return nil, fmt.Errorf("quite 100%% busy")
	}
	expectProbe(t, "failing", probeBy(t, HealthSettings{Type: "grpc"}, plainDial, grpcServer(t, with, grpc.UnaryInterceptor(busy))),
		`grpc-status 2: "quite 100% busy"`)
}

// Servers that are not what a gRPC probe is for.
func TestGRPCProbeOfOthers(t *testing.T) {
	answer := func(f http.HandlerFunc) string {
		s := httptest.NewUnstartedServer(f)
		s.Config.Protocols = new(http.Protocols)
		s.Config.Protocols.SetUnencryptedHTTP2(true)
		s.Start()
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	}
	grpcReply := func(body, status string) string {
		return answer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc+proto")
			io.WriteString(w, body)
			if status != "" {
				w.Header().Set(http.TrailerPrefix+"Grpc-Status", status)
			}
		})
	}
	const garbage = "the reply is not a grpc.health.v1.HealthCheckResponse"
	for _, tc := range []struct{ name, address, want string }{
		{"serving", grpcReply("\x00\x00\x00\x00\x02\x08\x01", "0"), ""},
		{"a web page", answer(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }), `the reply is not gRPC but "text/html; charset=utf-8"`},
		{"not found", answer(http.NotFound), "status 404"},
		{"no status", grpcReply("\x00\x00\x00\x00\x02\x08\x01", ""), "the reply has no grpc-status"},
		{"no message", grpcReply("", "0"), garbage},
		{"short message", grpcReply("\x00\x00\x00\x00\x03\x08\x01", "0"), garbage},
		{"compressed", grpcReply("\x01\x00\x00\x00\x02\x08\x01", "0"), garbage},
		{"HTTP/1", raw(t, func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
			io.Copy(io.Discard, c) // closing with bytes unread would be a reset
		}), "the endpoint speaks HTTP/1.1, not HTTP/2"},
		{"closes", raw(t, func(net.Conn) {}), "connection closed before a reply"},
	} {
		err := probeBy(t, HealthSettings{Type: "grpc"}, plainDial, tc.address)
		if tc.name == "closes" && err != nil { // or reset, as chance will have it
			continue
		}
		expectProbe(t, tc.name, err, tc.want)
	}
}

// late is a connection to an endpoint that has refused us, on a machine that
// stalls: nothing of it is read before a deadline has passed.
type late struct {
	net.Conn // a pipe on which nothing comes
	passed   atomic.Bool
}

func (l *late) Write(p []byte) (int, error) { return len(p), nil }

func (l *late) Read(p []byte) (int, error) {
	if l.passed.Load() {
		return 0, &dial.Error{Detail: "the endpoint requires a client certificate"}
	}
	n, err := l.Conn.Read(p)
	l.passed.Store(errors.Is(err, os.ErrDeadlineExceeded))
	return n, err
}

// A refusal that has come is the reason, also when the time is over.
func TestProbeHTTP2OfARefusalThatIsReadLate(t *testing.T) {
	for _, h := range []HealthSettings{{Type: "grpc"}, {Type: "http", Path: "/", HTTP2: true}} {
		a, b := net.Pipe()
		c := &late{Conn: a}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := newProber(h, func(context.Context, string, string) (net.Conn, error) { return c, nil }).probe(ctx, "a.test:443")
		cancel()
		expectProbe(t, h.Type, err, "the endpoint requires a client certificate")
		a.Close()
		b.Close()
	}
}

func TestProbeHTTP2OfTheSilent(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	address := raw(t, func(net.Conn) { <-release })
	for _, h := range []HealthSettings{{Type: "grpc"}, {Type: "http", Path: "/", HTTP2: true}} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := newProber(h, plainDial).probe(ctx, address)
		cancel()
		expectProbe(t, h.Type, err, "timeout")
	}
	// Who begins to answer, and no more.
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	expectProbe(t, "half a reply", newProber(HealthSettings{Type: "grpc"}, plainDial).probe(ctx, s.Listener.Addr().String()), "timeout")
}

func FuzzHealthReply(f *testing.F) {
	for _, s := range []string{"0000000000", "00000000020801", "00000000020802", "00000000021001", "000000000412020801", "000000000b08ffffffffffffffffff01", "0100000000", ""} {
		b, err := hex.DecodeString(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		// What protobuf itself makes of it.
		want := len(b) >= 5 && b[0] == 0 && int64(len(b)) == 5+int64(b[1])<<24+int64(b[2])<<16+int64(b[3])<<8+int64(b[4])
		if want {
			var m grpc_health_v1.HealthCheckResponse
			want = proto.Unmarshal(b[5:], &m) == nil && m.Status == grpc_health_v1.HealthCheckResponse_SERVING
		}
		if got := judgeHealth(b) == nil; got != want {
			t.Errorf("%x: serving %v, want %v", b, got, want)
		}
	})
}
