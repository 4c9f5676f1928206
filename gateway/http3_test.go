package gateway_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	quichttp "github.com/quic-go/quic-go/http3"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
	"github.com/gatehouse-proxy/gatehouse/gateway/socket/sockettest"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

// secured gives listeners TLS for a.test.
type secured struct {
	ca   *tlstest.Authority
	term *tlsterm.Terminator
}

func newSecured(t testing.TB) *secured {
	t.Helper()
	s := &secured{ca: tlstest.NewAuthority(t)}
	cert, key := filepath.Join(t.TempDir(), "a.crt"), filepath.Join(t.TempDir(), "a.key")
	s.ca.Issue(t, tlstest.Request{Names: []string{"a.test"}}).Write(t, cert, key)
	changes := new(atomic.Uint64)
	log := slog.New(slog.DiscardHandler)
	c := tlsterm.NewCertificate(tlsterm.CertificateSettings{Name: "a", CertFile: cert, KeyFile: key, Changes: changes, Log: log})
	if err := c.Load(); err != nil {
		t.Fatal(err)
	}
	s.term = tlsterm.New(tlsterm.Settings{
		Listener: "web", Certificates: []tlsterm.CertSource{c}, MinVersion: tls.VersionTLS12,
		Protocols: []string{"h2", "http/1.1"}, HandshakeTimeout: time.Minute, Changes: changes, Log: log,
	})
	return s
}

// on makes a listener speak HTTP/3.
func (s *secured) on(l *snapshot.Listener, address string) *snapshot.Listener {
	l.TLS, l.Address, l.HTTP3 = s.term, address, &snapshot.HTTP3{MaxStreams: 100, AltSvcAge: time.Hour}
	return l
}

// off makes it stop.
func (s *secured) off(l *snapshot.Listener, address string) *snapshot.Listener {
	s.on(l, address).HTTP3 = nil
	return l
}

func (s *secured) h3(t testing.TB) *http.Client {
	tr := &quichttp.Transport{TLSClientConfig: &tls.Config{ServerName: "a.test", RootCAs: s.ca.Pool()}}
	t.Cleanup(func() { _ = tr.Close() })
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

func (s *secured) tcp(t testing.TB, protocols ...string) *http.Client {
	tr := &http.Transport{
		TLSClientConfig:   &tls.Config{ServerName: "a.test", RootCAs: s.ca.Pool(), NextProtos: protocols},
		ForceAttemptHTTP2: len(protocols) == 0, DisableKeepAlives: true,
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

func fetch(c *http.Client, url string) (*http.Response, string, error) {
	r, err := c.Get(url)
	if err != nil {
		return nil, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r, string(b), err
}

func mustFetch(t testing.TB, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	r, body, err := fetch(c, url)
	if err != nil {
		t.Fatal(err)
	}
	return r, body
}

func TestHTTP3IsServedAndAnnounced(t *testing.T) {
	n, s := newNode(t), newSecured(t)
	l := s.on(listener(t, "web", at("", "/", chain("told", func(c *fiber.Ctx) error {
		e := exchange.From(c)
		c.Set("Alt-Svc", `h3=":1"`)
		return c.SendString(fmt.Sprint(e.Front.Protocol(), " ", e.Scheme, " ", e.TLS.ServerName, " ", e.Client, " ", e.Listener, " ", e.Path))
	}))), "127.0.0.1:0")
	n.swap(t, snap(l))
	url := strings.Replace(n.url(t, "web"), "http:", "https:", 1)
	_, port, _ := strings.Cut(strings.TrimPrefix(url, "https://"), ":")
	want := fmt.Sprintf(`h3=":%s"; ma=3600`, port)
	for protocol, c := range map[string]*http.Client{
		"HTTP/1.1": s.tcp(t, "http/1.1"), "HTTP/2.0": s.tcp(t), "HTTP/3.0": s.h3(t),
	} {
		r, body := mustFetch(t, c, url+"/a%2e/b")
		if body != protocol+" https a.test 127.0.0.1 web /a./b" {
			t.Errorf("%s: %q", protocol, body)
		}
		if got := r.Header["Alt-Svc"]; len(got) != 1 || got[0] != want {
			t.Errorf("%s: Alt-Svc %q, want %s", protocol, got, want)
		}
	}
	if open, all := n.metric(t, "gatehouse_listener_protocol_connections_open web h3"), n.metric(t, "gatehouse_listener_connections_total web"); open != "1" || all != "3" {
		t.Errorf("%s connections of HTTP/3, %s in all", open, all)
	}
	stranger := s.h3(t)
	stranger.Transport.(*quichttp.Transport).TLSClientConfig = &tls.Config{ServerName: "b.test", InsecureSkipVerify: true}
	mustFetch(t, stranger, url)
	eventually(t, "the handshakes of both ports are counted", func() bool {
		return n.metric(t, "gatehouse_listener_tls_handshakes_total full web") == "4" &&
			n.metric(t, "gatehouse_listener_tls_unknown_names_total web") == "1"
	})
}

// A reload that changes HTTP/3 touches nothing else, and can be taken back while
// the old connections are still there.
func TestHTTP3ComesAndGoes(t *testing.T) {
	n, s := newNode(t), newSecured(t)
	inside, leave := make(chan struct{}, 9), make(chan struct{})
	address := sockettest.Reserve(t)
	web := func() *snapshot.Listener {
		return listener(t, "web", at("", "/", answer("a")), at("", "/slow", chain("slow", func(c *fiber.Ctx) error {
			inside <- struct{}{}
			<-leave
			return c.SendString("slow")
		})))
	}
	url := "https://" + address
	n.swap(t, snap(s.off(web(), address)))
	tcp := s.tcp(t, "http/1.1")
	tcp.Transport.(*http.Transport).DisableKeepAlives = false
	if r, _ := mustFetch(t, tcp, url); r.Header.Get("Alt-Svc") != "" {
		t.Errorf("announced without being there: %q", r.Header)
	}
	n.swap(t, snap(s.on(web(), address)))
	old := s.h3(t)
	mustFetch(t, old, url)
	late := make(chan error, 1)
	go func() {
		_, body, err := fetch(old, url+"/slow")
		if err == nil && body != "slow" {
			err = fmt.Errorf("%q", body)
		}
		late <- err
	}()
	<-inside
	n.swap(t, snap(s.off(web(), address)))
	if r, _ := mustFetch(t, tcp, url); r.Header.Get("Alt-Svc") != "" {
		t.Errorf("still announced: %q", r.Header)
	}
	quick := s.h3(t)
	quick.Timeout = 300 * time.Millisecond
	if _, _, err := fetch(quick, url); err == nil {
		t.Error("HTTP/3 is still served")
	}
	n.swap(t, snap(s.on(web(), address))) // the port is still in use, by ourselves
	mustFetch(t, s.h3(t), url)
	close(leave)
	if err := <-late; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	// The whole listener goes, and comes back.
	n.swap(t, snap())
	n.swap(t, snap(s.on(web(), address)))
	if r, _ := mustFetch(t, s.h3(t), url); r.ProtoMajor != 3 {
		t.Errorf("%s", r.Proto)
	}
}

func TestBusyUDPPortChangesNothing(t *testing.T) {
	n, s := newNode(t), newSecured(t)
	address := sockettest.Reserve(t)
	busy, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	other := sockettest.Reserve(t)
	n.swap(t, snap(s.off(listener(t, "web", at("", "/", answer("before"))), address)))
	err = n.Swap(context.Background(), snap(
		s.on(listener(t, "web", at("", "/", answer("after"))), address),
		s.on(listener(t, "fine", at("", "/", answer("after"))), other),
	), time.Second)
	if err == nil || !strings.Contains(err.Error(), "listeners.web.http3") || !strings.Contains(err.Error(), "address already in use") {
		t.Fatalf("%v", err)
	}
	if _, body := mustFetch(t, s.tcp(t), "https://"+address); !strings.HasPrefix(body, "before") {
		t.Errorf("%q", body)
	}
	for _, network := range []string{"tcp", "udp"} { // nothing of the other is left
		eventually(t, network+" is free again", func() bool {
			if network == "tcp" {
				l, err := net.Listen(network, other)
				return err == nil && l.Close() == nil
			}
			p, err := net.ListenPacket(network, other)
			return err == nil && p.Close() == nil
		})
	}
	_ = busy.Close()
	n.swap(t, snap(s.on(listener(t, "web", at("", "/", answer("after"))), address)))
	mustFetch(t, s.h3(t), "https://"+address)
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}
