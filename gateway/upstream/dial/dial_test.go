package dial_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/filewatch"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/dial"
)

func echoTLS(c *tls.Conn) { echo(c) }

func TestPlain(t *testing.T) {
	d, err := dial.New(dial.Settings{})
	if err != nil || d.Load() != nil || d.Start(t.Context()) != nil || d.TLS() {
		t.Fatal(err)
	}
	defer d.Close(t.Context())
	c, err := d.Dial(t.Context(), "tcp", serve(t, echo))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, ok := c.(*net.TCPConn); !ok {
		t.Errorf("a %T hides the socket", c)
	}
}

func TestSafeByDefault(t *testing.T) {
	b := newBench(t)
	s, err := meet(t, b.dialer(nil), serveTLS(t, b.server(tlstest.Request{}), echoTLS))
	if err != nil {
		t.Fatal(err)
	}
	if s.Version != tls.VersionTLS13 || s.CurveID != tls.X25519MLKEM768 || len(s.VerifiedChains) == 0 || s.ServerName != "" {
		t.Errorf("%s, %v, %q", tls.VersionName(s.Version), s.CurveID, s.ServerName)
	}
	d, err := dial.New(dial.Settings{TLS: &dial.TLSSettings{}}) // the system's authorities
	if err != nil {
		t.Fatal(err)
	}
	_, err = meet(t, d, serveTLS(t, b.server(tlstest.Request{}), echoTLS))
	refused(t, err, "certificate is signed by an unknown authority")
}

// Everything that can be wrong with an endpoint, and what is said of it.
func TestRefusals(t *testing.T) {
	b := newBench(t)
	now := time.Now()
	day := func(d int) time.Time { return now.Add(time.Duration(d) * 24 * time.Hour) }
	utc := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	name := func(n string) func(*dial.Settings) { return func(s *dial.Settings) { s.TLS.ServerName = n } }
	stranger := tlstest.NewAuthority(t).Issue(t, tlstest.Request{IPs: loopback}).TLS(t)
	self := tlstest.SelfSigned(t, tlstest.Request{IPs: loopback}).TLS(t)
	old := b.server(tlstest.Request{})
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	only12 := b.server(tlstest.Request{})
	only12.MaxVersion = tls.VersionTLS12
	other := b.server(tlstest.Request{})
	other.NextProtos = []string{"imap"}
	strict := b.server(tlstest.Request{Names: []string{"a.test"}})
	strict.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("nobody") }
	strict.Certificates = nil
	own := &fixed{}
	client := b.ca.Issue(t, tlstest.Request{Names: []string{"gateway"}}).TLS(t)
	own.set(&client)
	asking := func(by *tlstest.Authority, max uint16) *tls.Config {
		c := b.server(tlstest.Request{})
		c.ClientAuth, c.ClientCAs, c.MaxVersion = tls.RequireAndVerifyClientCert, by.Pool(), max
		return c
	}
	for _, tc := range []struct {
		name   string
		server *tls.Config
		edit   func(*dial.Settings)
		want   string
	}{
		{"another name", b.server(tlstest.Request{Names: []string{"a.test"}}), name("b.test"), "certificate is for a.test, not b.test"},
		{
			"many names", b.server(tlstest.Request{Names: []string{"a.test", "b.test", "*.c.test", "d.test", "e.test"}}), name("f.test"),
			"certificate is for a.test, b.test, *.c.test and 2 more, not f.test",
		},
		{"no name", b.server(tlstest.Request{Names: []string{}, URI: "spiffe://x/y", IPs: []net.IP{}}), name("b.test"), "certificate is for no name at all, not b.test"},
		{"no address", b.server(tlstest.Request{Names: []string{"a.test"}}), nil, "certificate is for a.test, not 127.0.0.1"},
		{"another address", b.server(tlstest.Request{IPs: []net.IP{net.IPv4(127, 0, 0, 2), net.IPv6loopback}}), nil, "certificate is for 127.0.0.2 or ::1, not 127.0.0.1"},
		{"two labels for a star", b.server(tlstest.Request{Names: []string{"*.test"}}), name("a.b.test"), "certificate is for *.test, not a.b.test"},
		{"expired", b.server(tlstest.Request{From: day(-3), To: day(-1)}), nil, "certificate expired on " + utc(day(-1))},
		{"not yet valid", b.server(tlstest.Request{From: day(1), To: day(2)}), nil, "certificate is not valid before " + utc(day(1))},
		{"unknown authority", &tls.Config{Certificates: []tls.Certificate{stranger}}, nil, "certificate is signed by an unknown authority"},
		{"self-signed", &tls.Config{Certificates: []tls.Certificate{self}}, nil, "certificate is self-signed"},
		{"TLS 1.1 only", old, nil, "the endpoint does not speak TLS 1.2 or later"},
		{"TLS 1.2 only", only12, func(s *dial.Settings) { s.TLS.MinVersion = tls.VersionTLS13 }, "the endpoint does not speak TLS 1.3 or later"},
		{"speaks another protocol", other, func(s *dial.Settings) { s.Protocols = []string{"http/1.1"} }, "the endpoint did not agree to speak http/1.1"},
		{"no ALPN", b.server(tlstest.Request{}), func(s *dial.Settings) { s.Protocols = []string{"h2"} }, "the endpoint did not agree to speak h2"},
		{"no certificate of its own", strict, name("b.test"), "the endpoint refused the handshake: internal error"},
		{"asks for a certificate", asking(b.ca, 0), nil, "the endpoint requires a client certificate"},
		{
			"asks for a certificate in TLS 1.2", asking(b.ca, tls.VersionTLS12), nil,
			"the endpoint refused the handshake: no cipher in common, or a client certificate is missing",
		},
		{
			"refuses our certificate", asking(tlstest.NewAuthority(t), 0), func(s *dial.Settings) { s.TLS.Certificate = own },
			"the endpoint refused our certificate: unknown certificate authority",
		},
		{
			"our certificate is missing", asking(b.ca, 0), func(s *dial.Settings) { s.TLS.Certificate = &fixed{} },
			"the endpoint asks for a certificate, and ours could not be loaded",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b.t = t
			_, err := meet(t, b.dialer(tc.edit), serveTLS(t, tc.server, echoTLS))
			refused(t, err, tc.want)
		})
	}
}

// Endpoints that do not speak TLS at all, or stop in the middle of it.
func TestNoHandshake(t *testing.T) {
	b := newBench(t)
	for _, tc := range []struct {
		name   string
		server func(net.Conn)
		want   string
		within time.Duration
	}{
		{"plain HTTP", func(c net.Conn) {
			c.Read(make([]byte, 4<<10))
			io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
			linger(c)
		}, "the endpoint speaks plain HTTP, not TLS", time.Minute},
		{"SSH", func(c net.Conn) { io.WriteString(c, "SSH-2.0-x\r\n"); linger(c) }, "the endpoint does not speak TLS", time.Minute},
		{"closes", func(c net.Conn) { c.Read(make([]byte, 1)) }, "the endpoint closed the connection during the TLS handshake", time.Minute},
		{"hangs", func(c net.Conn) { io.Copy(io.Discard, c) }, "the endpoint did not complete the TLS handshake in time", 200 * time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			address := serve(t, tc.server)
			for within := tc.within; ; within *= 4 {
				_, err := meet(t, b.dialer(func(s *dial.Settings) { s.Timeout = within }), address)
				// On a machine that is too slow for it, the time may be over before the handshake.
				if within < 5*time.Second && !errors.Is(err, reason.UpstreamTLS) {
					continue
				}
				refused(t, err, tc.want)
				return
			}
		})
	}
}

func TestNobodyThere(t *testing.T) {
	_, err := meet(t, newBench(t).dialer(nil), nobody(t))
	if err == nil || errors.Is(err, reason.UpstreamTLS) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v", err)
	}
}

// Whoever asked may give up meanwhile: that says nothing of the endpoint.
func TestCanceled(t *testing.T) {
	d := newBench(t).dialer(nil)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err := d.Dial(ctx, "tcp", serve(t, func(c net.Conn) { io.Copy(io.Discard, c) }))
	if !errors.Is(err, context.Canceled) || errors.Is(err, reason.UpstreamTLS) {
		t.Errorf("got %v", err)
	}
}

// What an endpoint is asked for, and verified as.
func TestNames(t *testing.T) {
	b := newBench(t)
	config := b.server(tlstest.Request{Names: []string{"localhost", "a.test"}, IPs: loopback})
	_, port, _ := net.SplitHostPort(serveTLS(t, config, echoTLS))
	for _, tc := range []struct{ name, host, sni string }{
		{"", "localhost", "localhost"},
		{"", "127.0.0.1", ""},
		{"a.test", "127.0.0.1", "a.test"},
		{"127.0.0.1", "localhost", ""},
		{"A.test", "127.0.0.1", "A.test"},
	} {
		s, err := meet(t, b.dialer(func(s *dial.Settings) { s.TLS.ServerName = tc.name }), net.JoinHostPort(tc.host, port))
		if err != nil || s.ServerName != tc.sni {
			t.Errorf("%+v: asked for %q, %v", tc, s.ServerName, err)
		}
	}
	d := b.dialer(nil)
	for address, want := range map[string]string{
		"users:443": "users", "10.0.0.1:443": "10.0.0.1", "[fe80::1%eth0]:443": "fe80::1", "[::ffff:10.0.0.1]:443": "10.0.0.1",
	} {
		if got := d.ServerName(address); got != want {
			t.Errorf("%s: %q, want %q", address, got, want)
		}
	}
}

func TestUnverified(t *testing.T) {
	b := newBench(t)
	self := tlstest.SelfSigned(t, tlstest.Request{Names: []string{"x"}, To: time.Now().Add(-time.Minute)})
	addr := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{self.TLS(t)}}, echoTLS)
	d := b.dialer(func(s *dial.Settings) { s.TLS.CAFile, s.TLS.InsecureSkipVerify = "", true })
	for range 2 {
		if _, err := meet(t, d, addr); err != nil {
			t.Error(err)
		}
	}
}

func leaf(t *testing.T, p []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(p)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPins(t *testing.T) {
	b := newBench(t)
	pair := b.ca.Issue(t, tlstest.Request{IPs: loopback})
	both := pair.TLS(t)
	ca := leaf(t, b.ca.PEM())
	both.Certificate = append(both.Certificate, ca.Raw) // shown, but who verified it?
	addr := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{both}}, echoTLS)
	own, authority := dial.PinOf(leaf(t, pair.Cert)), dial.PinOf(ca)
	wrong := "the certificate's key is not pinned; it is " + own.String()
	for _, tc := range []struct {
		name string
		pins []dial.Pin
		skip bool
		want string
	}{
		{"own", []dial.Pin{own}, false, ""},
		{"the authority's", []dial.Pin{authority}, false, ""},
		{"one of two", []dial.Pin{{1}, own}, false, ""},
		{"another", []dial.Pin{{1}}, false, wrong},
		{"own, unverified", []dial.Pin{own}, true, ""},
		{"the authority's, unverified", []dial.Pin{authority}, true, wrong},
		{"another, unverified", []dial.Pin{{1}}, true, wrong},
	} {
		d := b.dialer(func(s *dial.Settings) {
			s.TLS.Pins = tc.pins
			if tc.skip {
				s.TLS.CAFile, s.TLS.InsecureSkipVerify = "", true
			}
		})
		for i := range 2 { // the second one may be resumed
			s, err := meet(t, d, addr)
			if tc.want != "" {
				refused(t, err, tc.want)
			} else if err != nil || s.DidResume != (i == 1) {
				t.Errorf("%s: resumed %v, %v", tc.name, s.DidResume, err)
			}
		}
	}
	// A pin does not vouch for who does not verify.
	stranger := tlstest.SelfSigned(t, tlstest.Request{IPs: loopback})
	d := b.dialer(func(s *dial.Settings) { s.TLS.Pins = []dial.Pin{dial.PinOf(leaf(t, stranger.Cert))} })
	_, err := meet(t, d, serveTLS(t, &tls.Config{Certificates: []tls.Certificate{stranger.TLS(t)}}, echoTLS))
	refused(t, err, "certificate is self-signed")
}

func TestParsePin(t *testing.T) {
	p, err := dial.ParsePin("sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")
	if err != nil || p.String() != "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" {
		t.Errorf("%v, %v", p, err)
	}
	for _, s := range []string{
		"", "sha256/", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "sha1/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
		"sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU", "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV=",
		"sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hS\nuFU=", "sha256/AAAA",
	} {
		if _, err := dial.ParsePin(s); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
}

// A session is resumed with the same endpoint only, and by nobody else.
func TestResumption(t *testing.T) {
	b := newBench(t)
	config := b.server(tlstest.Request{})
	one, two := serveTLS(t, config, echoTLS), serveTLS(t, b.server(tlstest.Request{}), echoTLS)
	config.ClientAuth = tls.RequestClientCert
	cert := &fixed{}
	d := b.dialer(func(s *dial.Settings) { s.TLS.Certificate = cert })
	set := func(name string) {
		c := b.ca.Issue(t, tlstest.Request{Names: []string{name}}).TLS(t)
		cert.set(&c)
	}
	set("first")
	expect := func(addr string, resumed bool) {
		t.Helper()
		s, err := meet(t, d, addr)
		if err != nil || s.DidResume != resumed {
			t.Errorf("resumed %v, %v", s.DidResume, err)
		}
	}
	expect(one, false)
	expect(one, true)
	expect(two, false)
	expect(two, true)
	expect(one, true)
	set("second") // or the endpoint would still take us for the first
	expect(one, false)
	expect(one, true)
}

func TestSettingsThatMakeNoSense(t *testing.T) {
	for want, s := range map[string]dial.TLSSettings{
		"min_version": {MinVersion: tls.VersionTLS11},
		"ca_file":     {CAFile: "x", InsecureSkipVerify: true},
	} {
		if _, err := dial.New(dial.Settings{TLS: &s}); err == nil || !strings.HasPrefix(err.Error(), want+": ") {
			t.Errorf("%s: got %v", want, err)
		}
	}
}

// Time is virtual while the file changes; what has become of the dialer is
// asked afterwards, over real connections.
func TestFollowsTheCAFile(t *testing.T) {
	b := newBench(t)
	next := tlstest.NewAuthority(t)
	old := serveTLS(t, b.server(tlstest.Request{}), echoTLS)
	renewed := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{next.Issue(t, tlstest.Request{IPs: loopback}).TLS(t)}}, echoTLS)
	for _, tc := range []struct {
		name  string
		files [][]byte // nil: none
		log   string
		next  bool // who is trusted in the end
	}{
		{"nothing happens", [][]byte{b.ca.PEM()}, "", false},
		{"nonsense", [][]byte{[]byte("nonsense")}, "has no certificate in PEM form", false},
		{"malformed", [][]byte{[]byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")}, "has a malformed certificate", false},
		{"removed", [][]byte{nil}, "no such file", false},
		{"another", [][]byte{next.PEM()}, "new connections follow them", true},
		{"nonsense, then another", [][]byte{[]byte("nonsense"), next.PEM()}, "new connections follow them", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tlstest.Write(t, b.path("ca.pem"), b.ca.PEM())
			b.log.b.Reset()
			var d *dial.Dialer
			synctest.Test(t, func(t *testing.T) {
				d = b.dialer(nil)
				if err := d.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
				for _, content := range tc.files {
					if content == nil {
						os.Remove(b.path("ca.pem"))
					} else {
						tlstest.Write(t, b.path("ca.pem"), content)
					}
					time.Sleep(3 * filewatch.Interval)
					synctest.Wait()
				}
				d.Close(t.Context())
			})
			trusted, stranger := old, renewed
			if tc.next {
				trusted, stranger = renewed, old
			}
			if _, err := meet(t, d, trusted); err != nil {
				t.Error(err)
			}
			_, err := meet(t, d, stranger)
			refused(t, err, "certificate is signed by an unknown authority")
			if log := b.log.String(); !strings.Contains(log, tc.log) || tc.log == "" && log != "" {
				t.Errorf("want %q in the log:\n%s", tc.log, log)
			}
		})
	}
}

// Without authorities nobody is trusted, and the system's do not step in.
func TestNoAuthorities(t *testing.T) {
	b := newBench(t)
	addr := serveTLS(t, b.server(tlstest.Request{}), echoTLS)
	tlstest.Write(t, b.path("ca.pem"), []byte("nonsense"))
	d, err := dial.New(dial.Settings{TLS: &dial.TLSSettings{CAFile: b.path("ca.pem")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Load(); err == nil || !strings.HasPrefix(err.Error(), fmt.Sprintf("%q: has no certificate", b.path("ca.pem"))) {
		t.Errorf("got %v", err)
	}
	_, err = meet(t, d, addr)
	refused(t, err, "the authorities to verify the endpoint by could not be loaded")
	tlstest.Write(t, b.path("ca.pem"), b.ca.PEM())
	if err := d.Load(); err != nil {
		t.Fatal(err)
	}
	if _, err = meet(t, d, addr); err != nil {
		t.Error(err)
	}
}
