package tlsterm_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/filewatch"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// workbench is a folder with what certificates and terminators need.
type workbench struct {
	t       testing.TB
	dir     string
	ca      *tlstest.Authority
	log     lockedBuffer
	changes atomic.Uint64
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newBench(t testing.TB) *workbench {
	t.Helper()
	return &workbench{t: t, dir: t.TempDir(), ca: tlstest.NewAuthority(t)}
}

func (w *workbench) path(name string) string { return filepath.Join(w.dir, name) }

func (w *workbench) write(name string, p tlstest.Pair) {
	w.t.Helper()
	p.Write(w.t, w.path(name+".crt"), w.path(name+".key"))
}

func (w *workbench) certificate(name string) *tlsterm.Certificate {
	return tlsterm.NewCertificate(tlsterm.CertificateSettings{
		Name: name, CertFile: w.path(name + ".crt"), KeyFile: w.path(name + ".key"),
		Changes: &w.changes, Log: slog.New(slog.NewTextHandler(&w.log, nil)),
	})
}

// issued is a loaded certificate for these names.
func (w *workbench) issued(name string, r tlstest.Request) *tlsterm.Certificate {
	w.t.Helper()
	w.write(name, w.ca.Issue(w.t, r))
	c := w.certificate(name)
	if err := c.Load(); err != nil {
		w.t.Fatal(err)
	}
	return c
}

// terminator is one for these certificates; edit may change its settings.
func (w *workbench) terminator(edit func(*tlsterm.Settings), certs ...*tlsterm.Certificate) *tlsterm.Terminator {
	s := tlsterm.Settings{
		Listener: "web", Protocols: []string{"http/1.1"}, Tickets: tlsterm.NewRotation(time.Hour), MinVersion: tls.VersionTLS12, HandshakeTimeout: time.Minute,
		Changes: &w.changes, Log: slog.New(slog.NewTextHandler(&w.log, nil)),
	}
	for _, c := range certs {
		s.Certificates = append(s.Certificates, c)
	}
	if edit != nil {
		edit(&s)
	}
	return tlsterm.New(s)
}

// pipe is a connection over the loopback interface.
func pipe(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// outcome is what both sides make of a handshake.
type outcome struct {
	state             tls.ConnectionState // the client's
	conn              *tlsterm.Conn
	client            *tls.Conn
	clientErr, server error
}

// meet has a client make a handshake and, if it succeeds, read until the end.
func meet(t testing.TB, term *tlsterm.Terminator, config *tls.Config) outcome {
	t.Helper()
	c, s := pipe(t)
	var o outcome
	done := make(chan struct{})
	go func() {
		defer close(done)
		o.conn, o.server = term.Handshake(s)
		if o.server != nil {
			s.Close()
			return
		}
		o.conn.Write([]byte("x"))
	}()
	o.client = tls.Client(c, config)
	if o.clientErr = o.client.Handshake(); o.clientErr == nil {
		_, o.clientErr = o.client.Read(make([]byte, 1)) // tickets, and refusals of TLS 1.3, come here
		o.state = o.client.ConnectionState()
	}
	if o.clientErr != nil {
		c.Close()
	}
	<-done
	return o
}

func TestCertificateFilesThatCannotBeUsed(t *testing.T) {
	w := newBench(t)
	one, two := w.ca.Issue(t, tlstest.Request{Names: []string{"a"}}), w.ca.Issue(t, tlstest.Request{Names: []string{"a"}, RSA: true})
	encrypted := []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n")
	broken := []byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")
	for name, tc := range map[string]struct {
		cert, key []byte
		file, why string
	}{
		"no certificate file": {nil, one.Key, ".crt", "no such file"},
		"no key file":         {one.Cert, nil, ".key", "no such file"},
		"empty certificate":   {[]byte{}, one.Key, ".crt", "has no certificate in PEM form"},
		"malformed":           {broken, one.Key, ".crt", "has a malformed certificate"},
		"key for certificate": {one.Key, one.Key, ".crt", "has no certificate in PEM form"},
		"certificate for key": {one.Cert, one.Cert, ".key", "has no private key in PEM form"},
		"encrypted key":       {one.Cert, encrypted, ".key", "is encrypted"},
		"another's key":       {one.Cert, w.ca.Issue(t, tlstest.Request{}).Key, ".crt", "does not go with the key in"},
		"another kind of key": {one.Cert, two.Key, ".crt", "does not go with the key in"},
		"too large":           {bytes.Repeat([]byte("x"), 2<<20), one.Key, ".crt", "has more than 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			w.t, w.dir = t, t.TempDir()
			for ext, content := range map[string][]byte{".crt": tc.cert, ".key": tc.key} {
				if content != nil {
					tlstest.Write(t, w.path("x"+ext), content)
				}
			}
			c := w.certificate("x")
			err := c.Load()
			if err == nil || !strings.HasPrefix(err.Error(), `"`+w.path("x"+tc.file)+`": `) || !strings.Contains(err.Error(), tc.why) {
				t.Errorf("got %v", err)
			}
			if s := c.Stats(); s.Loaded != 0 || !s.NotAfter.IsZero() || s.Fault != err.Error() || s.FaultSince.IsZero() || s.Source != "file" {
				t.Errorf("%+v", s)
			}
			o := meet(t, w.terminator(nil, c), &tls.Config{InsecureSkipVerify: true})
			if o.server == nil || !strings.Contains(o.server.Error(), "no certificate of this listener is usable") || o.clientErr == nil {
				t.Errorf("served without a certificate: %v, %v", o.server, o.clientErr)
			}
		})
	}
}

func TestExpiredCertificatesAreWarnedAboutAndServed(t *testing.T) {
	for want, r := range map[string]tlstest.Request{
		"a certificate has expired":      {Names: []string{"a"}, From: time.Now().Add(-2 * time.Hour), To: time.Now().Add(-time.Hour)},
		"a certificate is not valid yet": {Names: []string{"a"}, From: time.Now().Add(time.Hour), To: time.Now().Add(2 * time.Hour)},
		"":                               {Names: []string{"a"}},
	} {
		w := newBench(t)
		c := w.issued("a", r)
		if log := w.log.String(); want == "" && log != "" || !strings.Contains(log, want) {
			t.Errorf("want %q, the log is %q", want, log)
		}
		o := meet(t, w.terminator(nil, c), &tls.Config{InsecureSkipVerify: true, ServerName: "a"})
		if o.server != nil || o.clientErr != nil {
			t.Errorf("%s: %v, %v", want, o.server, o.clientErr)
		}
		if s := c.Stats(); s.NotAfter.IsZero() || s.Loaded != 1 {
			t.Errorf("%+v", s)
		}
	}
}

// Time is virtual, the files are real.
func TestFollowsItsFiles(t *testing.T) {
	w := newBench(t)
	names := func(i string) tlstest.Request { // virtual time begins in the year 2000
		return tlstest.Request{Names: []string{i + ".example"}, From: time.Unix(0, 0)}
	}
	first, second, third := w.ca.Issue(t, names("first")), w.ca.Issue(t, names("second")), w.ca.Issue(t, names("third"))
	w.write("x", first)
	synctest.Test(t, func(t *testing.T) {
		c := w.certificate("x")
		if err := errors.Join(c.Load(), c.Start(t.Context())); err != nil {
			t.Fatal(err)
		}
		defer c.Close(t.Context())
		expect := func(loaded, failed uint64, said, fault string) {
			t.Helper()
			time.Sleep(3 * filewatch.Interval)
			synctest.Wait()
			if s := c.Stats(); s.Loaded != loaded || s.Failed != failed || w.changes.Load() != loaded {
				t.Errorf("loaded %d, failed %d, changes %d; want %d and %d", s.Loaded, s.Failed, w.changes.Load(), loaded, failed)
			}
			if s := c.Stats(); s.Fault != fault && (fault == "" || !strings.Contains(s.Fault, fault)) {
				t.Errorf("the fault is %q, want %q", s.Fault, fault)
			}
			if said != "" && strings.Count(w.log.String(), said) != 1 {
				t.Errorf("want %q once in the log:\n%s", said, w.log.String())
			}
		}
		expect(1, 0, "", "")
		second.Write(t, w.path("x.crt"), w.path("x.key"))
		expect(2, 0, "a new certificate is in use", "")
		tlstest.Write(t, w.path("x.crt"), third.Cert) // the key is to follow
		expect(2, 1, "does not go with the key in", "does not go with the key in")
		tlstest.Write(t, w.path("x.key"), third.Key)
		expect(3, 1, "", "")
		tlstest.Write(t, w.path("x.crt"), []byte("nonsense"))
		expect(3, 2, "has no certificate in PEM form", "has no certificate in PEM form")
		if err := os.Remove(w.path("x.crt")); err != nil {
			t.Fatal(err)
		}
		expect(3, 3, "no such file", "no such file")
		tlstest.Write(t, w.path("x.crt"), third.Cert) // as it was
		expect(3, 3, "", "")
		first.Write(t, w.path("x.crt"), w.path("x.key"))
		expect(4, 3, "", "")
	})
}
