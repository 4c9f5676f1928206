package h3_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/gatehouse-proxy/gatehouse/gateway/h3"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// bench is a server under test, with what it reported.
type bench struct {
	t        *testing.T
	ca       *tlstest.Authority
	dir      string
	settings h3.Settings
	server   *h3.Server
	changes  atomic.Uint64

	mu        sync.Mutex
	refused   []string // reasons of connections
	malformed []string // reasons of requests
}

// start runs a server whose certificate is for a.test.
func start(t *testing.T, handler http.HandlerFunc, edit ...func(*bench, *tlsterm.Settings)) *bench {
	t.Helper()
	b := &bench{t: t, ca: tlstest.NewAuthority(t), dir: t.TempDir()}
	tlstest.Write(t, b.path("ca.pem"), b.ca.PEM())
	b.settings = h3.Settings{
		Handler: handler, HeadBytes: 64 << 10, HeadFields: 100, IdleTimeout: time.Minute,
		Refused: func(why *reason.Refusal, peer netip.AddrPort) {
			b.note(&b.refused, why.Reason.Name)
			if !peer.IsValid() {
				t.Error("no peer")
			}
		},
		Malformed: func(why *reason.Reason, _ netip.AddrPort, _, _ string) { b.note(&b.malformed, why.Name) },
		Log:       slog.New(slog.DiscardHandler),
	}
	terms := tlsterm.Settings{
		Listener: "test", MinVersion: tls.VersionTLS12, HandshakeTimeout: time.Minute,
		Certificates: []tlsterm.CertSource{b.certificate("a.test")}, Changes: &b.changes, Log: b.settings.Log,
		Tickets: tlsterm.NewRotation(time.Hour),
	}
	for _, f := range edit {
		f(b, &terms)
	}
	b.settings.TLS = tlsterm.New(terms)
	if err := b.settings.TLS.Load(); err != nil {
		t.Fatal(err)
	}
	server, err := h3.Listen("127.0.0.1:0", b.settings)
	if err != nil {
		t.Fatal(err)
	}
	b.server = server
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	if err := server.Serve(); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) certificate(name string) *tlsterm.Certificate {
	b.t.Helper()
	cert, key := b.path(name+".crt"), b.path(name+".key")
	b.ca.Issue(b.t, tlstest.Request{Names: []string{name}}).Write(b.t, cert, key)
	c := tlsterm.NewCertificate(tlsterm.CertificateSettings{
		Name: name, CertFile: cert, KeyFile: key, Changes: &b.changes, Log: slog.New(slog.DiscardHandler),
	})
	if err := c.Load(); err != nil {
		b.t.Fatal(err)
	}
	return c
}

func (b *bench) note(list *[]string, what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	*list = append(*list, what)
}

func (b *bench) noted(list *[]string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(*list, " ")
}

// only is how often a connection was refused for why; 0 if one was for another
// reason. It may be once more than there were clients: one that waits for long
// tries again.
func (b *bench) only(why string) int {
	all := strings.Fields(b.noted(&b.refused))
	if slices.ContainsFunc(all, func(one string) bool { return one != why }) {
		return 0
	}
	return len(all)
}

// counted waits until the malformed requests are those of want: a reset may
// reach the client before the server has counted why.
func (b *bench) counted(what, want string) {
	b.t.Helper()
	eventually(b.t, what+": counted as "+want, func() bool { return b.noted(&b.malformed) == want })
}

func (b *bench) tls() *tls.Config {
	return &tls.Config{ServerName: "a.test", RootCAs: b.ca.Pool(), NextProtos: []string{"h3"}}
}

func (b *bench) url(path string) string { return "https://" + b.server.Addr().String() + path }

// patient are settings of a client that gives no handshake up.
func patient() *quic.Config { return &quic.Config{HandshakeIdleTimeout: 30 * time.Second} }

// stretched runs a test of times, which come of d, until it passes: a machine
// that is too slow for short ones gets longer ones.
func stretched(t *testing.T, d time.Duration, f func(d time.Duration) error) {
	t.Helper()
	for {
		err := f(d)
		if err == nil {
			return
		}
		if d > 4*time.Second {
			t.Fatal(err)
		}
		d *= 4
	}
}

// client is one with its own connections.
func (b *bench) client(edit ...func(*tls.Config)) *http.Client {
	c := b.tls()
	for _, f := range edit {
		f(c)
	}
	tr := &http3.Transport{TLSClientConfig: c, QUICConfig: patient(), DisableCompression: true}
	b.t.Cleanup(func() { _ = tr.Close() })
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

func (b *bench) get(c *http.Client, path string) (int, string) {
	b.t.Helper()
	r, err := c.Get(b.url(path))
	if err != nil {
		b.t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return r.StatusCode, string(body)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

// raw is a connection on which frames are written by hand.
type raw struct {
	t *testing.T
	*quic.Conn
}

func (b *bench) dial() *raw {
	b.t.Helper()
	r, err := b.connect()
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// connect is dial where the connection may end before it is used.
func (b *bench) connect() (*raw, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	q, err := quic.DialAddr(ctx, b.server.Addr().String(), b.tls(), patient())
	if err != nil {
		return nil, err
	}
	b.t.Cleanup(func() { _ = q.CloseWithError(0x100, "") })
	control, err := q.OpenUniStream()
	if err != nil {
		return nil, err
	}
	_, err = control.Write([]byte{0, 4, 0}) // control stream, SETTINGS, empty
	return &raw{b.t, q}, err
}

// dismissed waits until the server has told the connection to go (GOAWAY).
func (r *raw) dismissed() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		s, err := r.AcceptUniStream(ctx)
		if err != nil {
			r.t.Fatal(err)
		}
		_ = s.SetReadDeadline(time.Now().Add(time.Minute))
		in := quicvarint.NewReader(s)
		if kind, err := quicvarint.Read(in); err != nil || kind != 0 {
			continue // not the control stream
		}
		for {
			kind, err := quicvarint.Read(in)
			if err != nil {
				r.t.Fatal(err)
			}
			n, err := quicvarint.Read(in)
			if err == nil {
				_, err = io.CopyN(io.Discard, in, int64(n))
			}
			if err != nil {
				r.t.Fatal(err)
			}
			if kind == 7 {
				return
			}
		}
	}
}

// frame is an HTTP/3 frame.
func frame(kind uint64, payload []byte) []byte {
	f := quicvarint.Append(nil, kind)
	f = quicvarint.Append(f, uint64(len(payload)))
	return append(f, payload...)
}

// headers is a HEADERS frame of fields "name: value".
func headers(fields ...string) []byte {
	var block bytes.Buffer
	e := qpack.NewEncoder(&block)
	for _, f := range fields {
		name, value, _ := strings.Cut(f[1:], ": ")
		_ = e.WriteField(qpack.HeaderField{Name: f[:1] + name, Value: value}) // to memory
	}
	return frame(1, block.Bytes())
}

var plain = []string{":method: GET", ":scheme: https", ":authority: a.test", ":path: /"}

// open writes frames on a new stream and, if so told, ends it.
func (r *raw) open(end bool, frames ...[]byte) *quic.Stream {
	r.t.Helper()
	s, err := r.ask(end, frames...)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// ask is open where the connection may have ended.
func (r *raw) ask(end bool, frames ...[]byte) (*quic.Stream, error) {
	s, err := r.OpenStreamSync(context.Background())
	if err != nil {
		return nil, err
	}
	if _, err := s.Write(bytes.Join(frames, nil)); err != nil {
		return nil, err
	}
	if end {
		_ = s.Close()
	}
	return s, s.SetReadDeadline(time.Now().Add(30 * time.Second))
}
