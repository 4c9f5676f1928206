package h3_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/gatehouse-proxy/gatehouse/gateway/h3"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

// tell answers what it was asked and by whom.
func tell(w http.ResponseWriter, r *http.Request) {
	c := h3.Of(r.Context())
	a := c.TLS()
	fmt.Fprintf(w, "%s %s %s|%s|%s %s %s|%s|%t", r.Proto, r.Method, r.RequestURI, r.Host, a.Version, a.ServerName, a.Subject, c.Peer().Addr(), r.RemoteAddr == c.Peer().String())
}

func TestServes(t *testing.T) {
	b := start(t, tell)
	c := b.client()
	status, body := b.get(c, "/a?b")
	if want := "HTTP/3.0 GET /a?b|" + b.server.Addr().String() + "|TLS 1.3 a.test |127.0.0.1|true"; status != 200 || body != want {
		t.Errorf("%d %q, want %q", status, body, want)
	}
	b.get(c, "/b")
	if s := b.server.Stats(); s.Open != 1 || s.Accepted != 1 || s.Refused != 0 {
		t.Errorf("%+v", s)
	}
	eventually(t, "the connection is idle", func() bool { return b.server.Stats().Idle == 1 })
}

func TestBodiesTrailersAndInterimReplies(t *testing.T) {
	b := start(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%d of %d, %v, %v", n, r.ContentLength, err, r.Trailer)
		w.Header().Set(http.TrailerPrefix+"X-Sum", "42")
	})
	for _, length := range []int{0, 1, 100_000, 3 << 20} {
		pr, pw := io.Pipe()
		go func() {
			_, _ = io.Copy(pw, strings.NewReader(strings.Repeat("x", length)))
			_ = pw.Close()
		}()
		q, err := http.NewRequest("POST", b.url("/"), pr)
		if err != nil {
			t.Fatal(err)
		}
		q.Trailer = http.Header{"X-Up": {"1"}}
		hints := ""
		q = q.WithContext(httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				hints += fmt.Sprint(code, h.Get("Link"))
				return nil
			},
		}))
		r, err := b.client().Do(q)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		r.Body.Close()
		want := fmt.Sprintf("%d of -1, <nil>, map[X-Up:[1]]", length)
		if err != nil || string(body) != want || r.Trailer.Get("X-Sum") != "42" || hints != "103</a>" {
			t.Errorf("%d: %v, %q, %v, %q", length, err, body, r.Trailer, hints)
		}
	}
}

// A request without a body is told from one with a body before it is handed on,
// however late the end of its stream comes.
func TestNoBodyIsNoBody(t *testing.T) {
	var asked atomic.Int32
	b := start(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%d %t %q %v", r.ContentLength, r.Body == http.NoBody, body, err)
	})
	c := b.dial()
	ask := func(late bool, frames ...[]byte) string {
		t.Helper()
		s := c.open(!late, frames...)
		if late {
			time.Sleep(50 * time.Millisecond)
			_ = s.Close()
		}
		all, err := io.ReadAll(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(all[bytes.LastIndexByte(all, 0)+2:]) // the last DATA frame
	}
	for name, tc := range map[string]struct {
		late   bool
		frames [][]byte
		want   string
	}{
		"end with the head": {false, [][]byte{headers(plain...)}, `0 true "" <nil>`},
		"end comes later":   {true, [][]byte{headers(plain...)}, `0 true "" <nil>`},
		"a body":            {false, [][]byte{headers(plain...), frame(0, []byte("abc"))}, `-1 false "abc" <nil>`},
		"a body, ends late": {true, [][]byte{headers(plain...), frame(0, []byte("abc")), frame(0, []byte("def"))}, `-1 false "abcdef" <nil>`},
		"an empty frame":    {false, [][]byte{headers(plain...), frame(0, nil), frame(0, []byte("abc"))}, `-1 false "abc" <nil>`},
		"a length of 0":     {true, [][]byte{headers(append(plain, "content-length: 0")...)}, `0 true "" <nil>`},
	} {
		got := ask(tc.late, tc.frames...)
		for i := 0; i < 10 && tc.want[0] == '0' && got == `-1 false "" <nil>`; i++ { // later than it is waited for, on a slow machine
			got = ask(tc.late, tc.frames...)
		}
		if got != tc.want && !(name == "a length of 0" && got == `0 false "" <nil>`) {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
	// Who opens a GET and stays silent is not waited for for ever.
	before := asked.Load()
	s := c.open(false, headers(plain...))
	eventually(t, "the handler is asked", func() bool { return asked.Load() > before })
	_, _ = s.Write(frame(0, []byte("late")))
	_ = s.Close()
	if all, err := io.ReadAll(s); err != nil || !bytes.Contains(all, []byte(`-1 false "late" <nil>`)) {
		t.Errorf("%q, %v", all, err)
	}
}

func TestBrokenReplyIsReset(t *testing.T) {
	b := start(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write(make([]byte, 50))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	s := b.dial().open(true, headers(plain...))
	_, err := io.ReadAll(s)
	var reset *quic.StreamError
	if !errors.As(err, &reset) || reset.ErrorCode != quic.StreamErrorCode(http3.ErrCodeInternalError) {
		t.Errorf("%v, want a reset with H3_INTERNAL_ERROR", err)
	}
}

// The request's context ends when the client wants no reply any more, and
// reading the body fails when it gives up sending.
func TestClientGivesUp(t *testing.T) {
	began, stopped, broke := make(chan struct{}, 9), make(chan struct{}), make(chan error, 1)
	b := start(t, func(w http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		if r.URL.Path == "/body" {
			_, err := io.ReadAll(r.Body)
			broke <- err
			return
		}
		<-r.Context().Done()
		stopped <- struct{}{}
	})
	c := b.dial()
	for name, giveUp := range map[string]func(s *quic.Stream){
		"stop sending": func(s *quic.Stream) { s.CancelRead(quic.StreamErrorCode(http3.ErrCodeRequestCanceled)) },
		"gone":         func(*quic.Stream) { _ = c.CloseWithError(0x100, "") },
	} {
		if name == "gone" {
			defer c.CloseWithError(0x100, "")
			continue
		}
		s := c.open(true, headers(plain...))
		<-began
		giveUp(s)
		select {
		case <-stopped:
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: the handler was not told", name)
		}
	}
	s := c.open(false, headers(":method: POST", ":scheme: https", ":authority: a.test", ":path: /body"), frame(0, []byte("a")))
	<-began
	s.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
	if err := <-broke; err == nil {
		t.Error("a body that was cut looks complete")
	}
	c.open(true, headers(plain...))
	<-began
	_ = c.CloseWithError(0x100, "")
	<-stopped
}

func TestCertificatesAndClients(t *testing.T) {
	b := start(t, tell, func(b *bench, s *tlsterm.Settings) {
		s.Certificates = append(s.Certificates, b.certificate("b.test"))
		s.Clients, s.ClientCAFile = tlsterm.RequireClientCertificate, b.path("ca.pem")
	})
	alice := b.ca.Issue(t, tlstest.Request{Names: []string{"alice"}}).TLS(t)
	mallory := tlstest.NewAuthority(t).Issue(t, tlstest.Request{Names: []string{"mallory"}}).TLS(t)
	for name, cert := range map[string]*tls.Certificate{"a.test": &alice, "b.test": &alice, "": nil, "mallory": &mallory} {
		c := b.client(func(c *tls.Config) {
			if strings.HasSuffix(name, ".test") {
				c.ServerName = name
			}
			if cert != nil {
				c.Certificates = []tls.Certificate{*cert}
			}
		})
		if strings.HasSuffix(name, ".test") {
			if status, body := b.get(c, "/"); status != 200 || !strings.Contains(body, name+" CN=alice|") {
				t.Errorf("%s: %d %q", name, status, body)
			}
			continue
		}
		if r, err := c.Get(b.url("/")); err == nil {
			r.Body.Close()
			t.Errorf("%q was let in", name)
		}
	}
	eventually(t, "both refusals are counted", func() bool { return b.only("tls_client_certificate") >= 2 })
	wrong := b.tls()
	wrong.NextProtos = []string{"h2"}
	if _, err := quic.DialAddr(context.Background(), b.server.Addr().String(), wrong, nil); err == nil {
		t.Error("another protocol is spoken")
	}
	eventually(t, "the wrong protocol is counted", func() bool { return strings.Contains(b.noted(&b.refused), " tls_no_protocol") })
}

// The listener's limit of handshakes is one for TCP and UDP; half of it is left
// to who has proven its address.
func TestHandshakesPerClient(t *testing.T) {
	b := start(t, tell, func(_ *bench, s *tlsterm.Settings) {
		s.HandshakesPerClient = tlsterm.Rate{Limit: 3, Per: time.Hour}
	})
	for range 3 {
		b.dial()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := quic.DialAddr(ctx, b.server.Addr().String(), b.tls(), patient()); err == nil {
		t.Error("a fourth handshake was made")
	}
	eventually(t, "it is counted", func() bool { return b.only("tls_handshakes_limited") >= 1 })
}

// deaf is a socket that hears nothing.
type deaf struct{ net.PacketConn }

func (d deaf) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		if _, _, err := d.PacketConn.ReadFrom(b); err != nil {
			return 0, nil, err
		}
	}
}

func TestHandshakeThatStops(t *testing.T) {
	b := start(t, tell, func(_ *bench, s *tlsterm.Settings) { s.HandshakeTimeout = 200 * time.Millisecond })
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := quic.Dial(ctx, deaf{socket}, b.server.Addr(), b.tls(), nil)
		done <- err
	}()
	eventually(t, "the handshake is given up", func() bool { return strings.HasPrefix(b.noted(&b.refused), "tls_handshake_timeout") })
	eventually(t, "nothing is left of it", func() bool { return b.server.Stats().Open == 0 })
	cancel()
	<-done
}

func TestBusyPortIsAnError(t *testing.T) {
	b := start(t, tell)
	if _, err := h3.Listen(b.server.Addr().String(), b.settings); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("%v", err)
	}
	if _, err := h3.Listen("127.0.0.1:99999", b.settings); err == nil {
		t.Error("no error")
	}
}
