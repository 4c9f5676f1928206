package tlsterm_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

func TestChoosesByName(t *testing.T) {
	w := newBench(t)
	term := w.terminator(nil,
		w.issued("default", tlstest.Request{Names: []string{"default.example"}}),
		w.issued("wild", tlstest.Request{Names: []string{"*.example.com", "other.example"}}),
		w.issued("exact", tlstest.Request{Names: []string{"API.example.com"}}),
		w.issued("both-ecdsa", tlstest.Request{Names: []string{"both.example"}}),
		w.issued("both-rsa", tlstest.Request{Names: []string{"both.example", "rsa-only.example"}, RSA: true}),
	)
	for name, want := range map[string]string{
		"":                     "default.example",
		"unknown.example":      "default.example",
		"default.example":      "default.example",
		"api.example.com":      "API.example.com",
		"Api.Example.Com":      "API.example.com",
		"www.example.com":      "*.example.com",
		"WWW.example.com":      "*.example.com",
		"a.b.example.com":      "default.example",
		"example.com":          "default.example",
		"other.example":        "*.example.com",
		"both.example":         "both.example/ECDSA",
		"rsa-only.example":     "both.example/RSA",
		"evil.api.example.com": "default.example",
	} {
		o := meet(t, term, &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if o.server != nil || o.clientErr != nil {
			t.Fatalf("%s: %v, %v", name, o.server, o.clientErr)
		}
		leaf := o.state.PeerCertificates[0]
		common, kind, _ := strings.Cut(want, "/")
		if leaf.Subject.CommonName != common || kind != "" && leaf.PublicKeyAlgorithm.String() != kind {
			t.Errorf("%q: got %s (%s), want %s", name, leaf.Subject.CommonName, leaf.PublicKeyAlgorithm, want)
		}
	}
	rsaOnly := &tls.Config{
		ServerName: "both.example", InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12,
		CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256},
	}
	if o := meet(t, term, rsaOnly); o.clientErr != nil || o.state.PeerCertificates[0].PublicKeyAlgorithm != x509.RSA {
		t.Errorf("a client that knows RSA only: %v, %v", o.clientErr, o.server)
	}
}

func TestSafeDefaults(t *testing.T) {
	w := newBench(t)
	cert := w.issued("a", tlstest.Request{Names: []string{"a.example"}})
	term := w.terminator(nil, cert)
	strict := w.terminator(func(s *tlsterm.Settings) { s.MinVersion = tls.VersionTLS13 }, cert)
	client := func(edit func(*tls.Config)) *tls.Config {
		c := &tls.Config{ServerName: "a.example", RootCAs: w.ca.Pool(), NextProtos: []string{"h2", "http/1.1"}}
		if edit != nil {
			edit(c)
		}
		return c
	}
	o := meet(t, term, client(nil))
	if s := o.state; o.clientErr != nil || s.Version != tls.VersionTLS13 || s.CurveID != tls.X25519MLKEM768 || s.NegotiatedProtocol != "http/1.1" {
		t.Errorf("%v, %s, %s, %q", o.clientErr, tls.VersionName(s.Version), s.CurveID, s.NegotiatedProtocol)
	}
	if a := o.conn.TLS(); a.Version != "TLS 1.3" || !strings.HasPrefix(a.Cipher, "TLS_") || a.ServerName != "a.example" || a.Peer != nil || a.ClientCert != "" {
		t.Errorf("%+v", a)
	}
	if o := meet(t, term, client(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })); o.clientErr != nil || o.conn.TLS().Version != "TLS 1.2" {
		t.Errorf("TLS 1.2: %v, %v", o.clientErr, o.server)
	}
	for name, tc := range map[string]struct {
		term *tlsterm.Terminator
		edit func(*tls.Config)
	}{
		"TLS 1.1":              {term, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }},
		"TLS 1.2 where 1.3 is": {strict, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }},
		"CBC": {term, func(c *tls.Config) {
			c.MaxVersion = tls.VersionTLS12
			c.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
		}},
	} {
		o := meet(t, tc.term, client(tc.edit))
		if !errors.Is(o.server, reason.TLSHandshakeFailed) || o.clientErr == nil {
			t.Errorf("%s: %v, %v", name, o.server, o.clientErr)
		}
	}
}

func TestTicketsResume(t *testing.T) {
	w := newBench(t)
	term := w.terminator(nil, w.issued("a", tlstest.Request{Names: []string{"a.example"}}))
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := &tls.Config{ServerName: "a.example", RootCAs: w.ca.Pool(), MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
		first, second := meet(t, term, config), meet(t, term, config)
		if first.clientErr != nil || second.clientErr != nil || first.conn.TLS().Resumed || !second.conn.TLS().Resumed {
			t.Errorf("%s: %v, %v", tls.VersionName(version), first.clientErr, second.clientErr)
		}
	}
}

// clients is a terminator that asks for certificates of the bench's authority.
func clients(t *testing.T, w *workbench, mode tlsterm.ClientMode) *tlsterm.Terminator {
	t.Helper()
	tlstest.Write(t, w.path("ca.pem"), w.ca.PEM())
	term := w.terminator(func(s *tlsterm.Settings) { s.Clients, s.ClientCAFile = mode, w.path("ca.pem") },
		w.issued("a", tlstest.Request{Names: []string{"a.example"}}))
	if err := term.Load(); err != nil {
		t.Fatal(err)
	}
	return term
}

func TestClientCertificates(t *testing.T) {
	w := newBench(t)
	spiffe := w.ca.Issue(t, tlstest.Request{Names: []string{"alice"}, URI: "spiffe://example.internal/ns/default/sa/alice"}).TLS(t)
	other := w.ca.Issue(t, tlstest.Request{Names: []string{"bob"}, URI: "https://bob.example"}).TLS(t)
	expired := w.ca.Issue(t, tlstest.Request{Names: []string{"old"}, From: time.Now().Add(-2 * time.Hour), To: time.Now().Add(-time.Hour)}).TLS(t)
	stranger := tlstest.NewAuthority(t).Issue(t, tlstest.Request{Names: []string{"mallory"}}).TLS(t)
	for name, tc := range map[string]struct {
		mode    tlsterm.ClientMode
		cert    *tls.Certificate
		subject string // "-": refused
		spiffe  string
	}{
		"required, given":      {tlsterm.RequireClientCertificate, &spiffe, "CN=alice", "spiffe://example.internal/ns/default/sa/alice"},
		"required, another":    {tlsterm.RequireClientCertificate, &other, "CN=bob", ""},
		"required, missing":    {tlsterm.RequireClientCertificate, nil, "-", ""},
		"required, stranger's": {tlsterm.RequireClientCertificate, &stranger, "-", ""},
		"required, expired":    {tlsterm.RequireClientCertificate, &expired, "-", ""},
		"requested, given":     {tlsterm.RequestClientCertificate, &spiffe, "CN=alice", "spiffe://example.internal/ns/default/sa/alice"},
		"requested, missing":   {tlsterm.RequestClientCertificate, nil, "", ""},
		"requested, stranger":  {tlsterm.RequestClientCertificate, &stranger, "-", ""},
		"requested, expired":   {tlsterm.RequestClientCertificate, &expired, "-", ""},
		"not asked":            {tlsterm.NoClientCertificate, &spiffe, "", ""},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			config := &tls.Config{ServerName: "a.example", RootCAs: w.ca.Pool(), MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
			if tc.cert != nil {
				config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return tc.cert, nil }
			}
			term := clients(t, w, tc.mode)
			for i, resumed := range []bool{false, true} {
				o := meet(t, term, config)
				what := name + ", " + tls.VersionName(version)
				if tc.subject == "-" {
					if !errors.Is(o.server, reason.TLSClientCertificate) || o.clientErr == nil || !strings.Contains(o.clientErr.Error(), "remote error: tls: ") {
						t.Errorf("%s: %v, client %v", what, o.server, o.clientErr)
					}
					continue
				}
				if o.server != nil || o.clientErr != nil {
					t.Fatalf("%s, connection %d: %v, client %v", what, i, o.server, o.clientErr)
				}
				a := o.conn.TLS()
				if a.Subject != tc.subject || a.SPIFFEID != tc.spiffe || (a.ClientCert != "") != (tc.subject != "") || a.Resumed != resumed {
					t.Errorf("%s, connection %d: %+v", what, i, a)
				}
			}
		}
	}
}

func TestNewAuthoritiesEndOldTickets(t *testing.T) {
	w := newBench(t)
	term := clients(t, w, tlsterm.RequireClientCertificate)
	alice := w.ca.Issue(t, tlstest.Request{Names: []string{"alice"}}).TLS(t)
	config := &tls.Config{
		ServerName: "a.example", RootCAs: w.ca.Pool(), Certificates: []tls.Certificate{alice},
		ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}
	if o := meet(t, term, config); o.clientErr != nil {
		t.Fatal(o.clientErr)
	}
	tlstest.Write(t, w.path("ca.pem"), tlstest.NewAuthority(t).PEM())
	if err := term.Load(); err != nil {
		t.Fatal(err)
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &alice, nil }
	if o := meet(t, term, config); !errors.Is(o.server, reason.TLSClientCertificate) {
		t.Errorf("after its authority has gone: %v", o.server)
	}
}

func TestNobodyIsServedWithoutKnownAuthorities(t *testing.T) {
	w := newBench(t)
	term := w.terminator(func(s *tlsterm.Settings) {
		s.Clients, s.ClientCAFile = tlsterm.RequestClientCertificate, w.path("missing.pem")
	}, w.issued("a", tlstest.Request{Names: []string{"a.example"}}))
	if err := term.Load(); err == nil || !strings.Contains(err.Error(), "missing.pem") {
		t.Errorf("Load: %v", err)
	}
	if o := meet(t, term, &tls.Config{InsecureSkipVerify: true}); !errors.Is(o.server, reason.TLSHandshakeFailed) || o.clientErr == nil {
		t.Errorf("%v, %v", o.server, o.clientErr)
	}
	tlstest.Write(t, w.path("missing.pem"), w.ca.PEM())
	if err := errors.Join(term.Load(), term.Start(t.Context()), term.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	if o := meet(t, term, &tls.Config{InsecureSkipVerify: true}); o.server != nil {
		t.Errorf("after the file was mended: %v", o.server)
	}
}

// speak sends bytes, perhaps closes its side, and returns what the client got
// and the server's error.
func speak(t *testing.T, term *tlsterm.Terminator, text string, end bool) (got string, err error) {
	t.Helper()
	c, s := pipe(t)
	heard := make(chan string)
	go func() {
		if text != "" {
			io.WriteString(c, text)
		}
		if end {
			c.CloseWrite()
		}
		b, _ := io.ReadAll(c)
		c.Close()
		heard <- string(b)
	}()
	conn, err := term.Handshake(s)
	if conn != nil {
		t.Error("a connection without a handshake")
	}
	s.Close()
	return <-heard, err
}

func TestWhatIsNoHandshake(t *testing.T) {
	w := newBench(t)
	cert := w.issued("a", tlstest.Request{Names: []string{"a.example"}})
	term := w.terminator(nil, cert)
	hello := clientHello(t)
	for name, tc := range map[string]struct {
		term *tlsterm.Terminator // nil: one that is impatient
		text string
		end  bool
		want error
		says string
	}{
		"plain HTTP":               {term, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", false, reason.TLSRequired, "HTTP/1.1 400 Bad Request\r\n"},
		"a long plain request":     {term, "POST /x HTTP/1.1\r\nHost: a\r\n\r\n" + strings.Repeat("x", 50_000), false, reason.TLSRequired, `"reason":"tls_required"`},
		"HTTP/2, prior knowledge":  {term, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false, reason.TLSRequired, "HTTP/1.1 400 Bad Request\r\n"},
		"nothing":                  {term, "", true, tlsterm.ErrNothingSaid, ""},
		"a PROXY header":           {term, "PROXY TCP4 192.0.2.1 10.0.0.1 1234 80\r\n" + hello, true, reason.ProxyHeaderUntrusted, ""},
		"a PROXY header, v2":       {term, "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c", true, reason.ProxyHeaderUntrusted, ""},
		"something else":           {term, "SSH-2.0-x\r\n", false, reason.TLSHandshakeFailed, ""},
		"an alert":                 {term, "\x15\x03\x01\x00\x02\x02\x50", true, reason.TLSHandshakeFailed, ""},
		"SSL 2":                    {term, "\x80\x2e\x01\x00\x02\x00\x15", true, reason.TLSHandshakeFailed, "\x15\x03"},
		"malformed hello":          {term, "\x16\x03\x01\x00\x08\x01\x00\x00\x04\xff\xff\xff\xff", false, reason.TLSHandshakeFailed, "\x15\x03"},
		"an empty record":          {term, "\x16\x03\x01\x00\x00" + strings.Repeat("\x16\x03\x01\x00\x00", 40), false, reason.TLSHandshakeFailed, ""},
		"a record that is too big": {term, "\x16\x03\x01\xff\xff", false, reason.TLSHandshakeFailed, "\x15\x03"},
		"half a hello":             {term, hello[:len(hello)/2], true, reason.TLSHandshakeFailed, ""},
		"a hello and the end":      {term, hello, true, reason.TLSHandshakeFailed, "\x16\x03"},
		"stops in the hello":       {nil, hello[:20], false, reason.TLSHandshakeTimeout, ""},
		"stops after the hello":    {nil, hello, false, reason.TLSHandshakeTimeout, "\x16\x03"},
		"says nothing for ever":    {nil, "", false, reason.TLSHandshakeTimeout, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for patience := 100 * time.Millisecond; ; patience *= 4 { // more where a machine is too slow to answer in time
				term := tc.term
				if term == nil {
					term = w.terminator(func(s *tlsterm.Settings) { s.HandshakeTimeout = patience }, cert)
				}
				got, err := speak(t, term, tc.text, tc.end)
				if errors.Is(err, tc.want) && strings.Contains(got, tc.says) {
					return
				}
				if tc.term != nil || patience > 5*time.Second {
					t.Fatalf("%v, client got %q", err, got)
				}
			}
		})
	}
}

// OpenSSL, when it does not trust the certificate, sends its alert in plain text.
func TestDistrustIsTold(t *testing.T) {
	w := newBench(t)
	term := w.terminator(nil, w.issued("a", tlstest.Request{Names: []string{"a.example"}}))
	const unknownCA = "\x15\x03\x03\x00\x02\x02\x30"
	_, err := speak(t, term, clientHello(t)+unknownCA, true)
	if !errors.Is(err, reason.TLSHandshakeFailed) || !strings.Contains(reason.From(err).Detail, "does not trust the certificate") {
		t.Errorf("%v, %q", err, reason.From(err).Detail)
	}
	if _, err = speak(t, term, clientHello(t), true); strings.Contains(reason.From(err).Detail, "trust") {
		t.Errorf("%q", reason.From(err).Detail)
	}
}

// clientHello is one as crypto/tls sends it.
func clientHello(t *testing.T) string {
	t.Helper()
	c, s := net.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tls.Client(c, &tls.Config{ServerName: "a.example"}).HandshakeContext(ctx) // is cancelled
	}()
	b := make([]byte, 16<<10)
	n, err := s.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-done
	s.Close()
	return string(b[:n])
}

func TestClosingInterrupts(t *testing.T) {
	w := newBench(t)
	term := w.terminator(nil, w.issued("a", tlstest.Request{Names: []string{"a.example"}}))
	_, s := pipe(t)
	done := make(chan error)
	go func() {
		_, err := term.Handshake(s)
		done <- err
	}()
	s.Close()
	if err := <-done; !errors.Is(err, tlsterm.ErrNothingSaid) {
		t.Error(err)
	}
}

// FuzzHandshake: whatever comes, there is no handshake, no panic and an end.
func FuzzHandshake(f *testing.F) {
	w := newBench(f)
	term := w.terminator(nil, w.issued("a", tlstest.Request{Names: []string{"a.example"}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, s := net.Pipe()
		go func() {
			c.Write(b)
			c.Close()
		}()
		go io.Copy(io.Discard, c)
		conn, err := term.Handshake(s)
		s.Close()
		if conn != nil || err == nil {
			t.Errorf("a handshake with %q", b)
		}
	})
}

func benchmarkHandshake(b *testing.B, config *tls.Config) {
	w := newBench(b)
	term := w.terminator(nil, w.issued("a", tlstest.Request{Names: []string{"a.example"}}))
	config.ServerName, config.RootCAs = "a.example", w.ca.Pool()
	meet(b, term, config) // a ticket
	b.ReportAllocs()
	for b.Loop() {
		o := meet(b, term, config)
		if o.server != nil || o.clientErr != nil {
			b.Fatal(o.server, o.clientErr)
		}
		o.client.Close()
		o.conn.Close()
	}
}

// The figures are for both sides of a handshake over loopback.
func BenchmarkHandshakeFull(b *testing.B) { benchmarkHandshake(b, &tls.Config{}) }

func BenchmarkHandshakeResumed(b *testing.B) {
	benchmarkHandshake(b, &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(1)})
}
