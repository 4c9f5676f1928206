package e2e

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	quichttp "github.com/quic-go/quic-go/http3"

	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

// loaders are clients that ask all the time until they are stopped.
type loaders struct {
	t        *testing.T
	stopping atomic.Bool
	done     sync.WaitGroup
	asked    sync.Map // name: *atomic.Int64
}

func newLoaders(t *testing.T) *loaders {
	l := &loaders{t: t}
	t.Cleanup(func() { // a test that has failed
		l.stopping.Store(true)
		l.done.Wait()
	})
	return l
}

// ask asks again and again; every error fails the test, but for those of a machine
// so busy that a client has connected and not asked for long: a node that goes
// gives it two seconds.
func (l *loaders) ask(name string, once func() error) {
	count := new(atomic.Int64)
	l.asked.Store(name, count)
	l.done.Go(func() {
		for !l.stopping.Load() {
			began := time.Now()
			err := once()
			if unanswered(err) && time.Since(began) > time.Second {
				continue
			}
			if err != nil {
				l.t.Errorf("%s, request %d: %v", name, count.Load(), err)
				return
			}
			count.Add(1)
		}
	})
}

// unanswered says that a connection was made, and ended without a reply.
func unanswered(err error) bool {
	var asked *url.Error
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return false
	}
	return errors.As(err, &asked) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// stop ends them; each must have asked.
func (l *loaders) stop() {
	l.t.Helper()
	l.stopping.Store(true)
	l.done.Wait()
	l.asked.Range(func(name, n any) bool {
		l.t.Logf("%s: %d", name, n.(*atomic.Int64).Load())
		if n.(*atomic.Int64).Load() == 0 {
			l.t.Errorf("%s has got nothing", name)
		}
		return true
	})
}

// more waits until each has asked n times more.
func (l *loaders) more(n int64) {
	l.t.Helper()
	l.asked.Range(func(name, c any) bool {
		count := c.(*atomic.Int64)
		for from, end := count.Load(), time.Now().Add(time.Minute); count.Load() < from+n; time.Sleep(time.Millisecond) {
			if l.t.Failed() || time.Now().After(end) {
				l.t.Fatalf("%s does not get on", name)
			}
		}
		return true
	})
}

// fetch asks for u and wants 200. Nothing is tried again: a client of Go's may
// do that by itself only where there is a connection that was used before, and
// a body that cannot be sent twice keeps it from that.
func fetch(c *http.Client, method, u string) error {
	var body io.Reader
	if method == http.MethodPost {
		body = io.MultiReader(strings.NewReader(`{"some":`), strings.NewReader(`"data"}`)) // of unknown length
	}
	q, err := http.NewRequest(method, u, body)
	if err != nil {
		return err
	}
	q.Header.Set("Content-Type", "application/json")
	r, err := c.Do(q)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != 200 {
		err = fmt.Errorf("status %d, %q", r.StatusCode, b)
	}
	return err
}

// keptUploads is a client that uploads on connections that it keeps. A node that
// goes closes those on which nothing was asked for a quarter of a second, and a
// client that asks at that very moment has to ask again (RFC 9112, 9.3.1). So one
// that a busy machine has kept from asking for that long may; others may not.
type keptUploads struct {
	client *http.Client
	last   time.Time // when it began to ask last
}

func (k *keptUploads) ask(u string) error {
	before := k.last
	k.last = time.Now()
	err := fetch(k.client, "POST", u)
	if unanswered(err) && time.Since(before) > 200*time.Millisecond {
		k.client.CloseIdleConnections()
		err = fetch(k.client, "POST", u)
	}
	return err
}

// slowToAsk asks on a connection of its own, some time after it was made: accepted or
// not, it is to be served.
func slowToAsk(address string, pause time.Duration, path string) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	time.Sleep(pause)
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	b, err := io.ReadAll(c)
	if err == nil && len(b) == 0 {
		err = io.EOF
	}
	if err == nil && !strings.HasPrefix(string(b), "HTTP/1.1 200 ") {
		err = fmt.Errorf("it answers %q", b)
	}
	return err
}

const handoverConfig = `node:
  name: test
  data_dir: %s
  admin: { address: %q }
  access_log: { path: %s }
  drain: { timeout: 30s }
certificates:
  api: { cert_file: api.crt, key_file: api.key }
listeners:
  web: { address: %q }
  secure: { address: %q, tls: { certificates: [api] }, http3: true }
  echo: { address: %q, protocol: udp, backends: [{ upstream: echo }], udp: { replies: 1 } }
  any: { address: "127.0.0.1:0" }
upstreams:
  app: { endpoints: [%q] }
  echo: { endpoints: [%q] }
routes:
  all: { match: { path: / }, backends: [{ upstream: app }] }
`

// TestHandoverUnderLoad: several in a row, with clients of every protocol that
// ask all the time, a download and a tunnel that outlive their process.
func TestHandoverUnderLoad(t *testing.T) {
	release := make(chan struct{})
	app := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow":
			_, _ = io.WriteString(w, "begin ")
			w.(http.Flusher).Flush()
			<-release
			_, _ = io.WriteString(w, "end")
		case "/chat":
			chat(w)
		default:
			_, _ = io.Copy(w, r.Body)
		}
	})
	l := newLineage(t)
	n := &secureNode{gatehouse: l.gatehouse, ca: tlstest.NewAuthority(t), dir: filepath.Dir(l.config)}
	n.issue("api", "api.test")
	secure, echo := freeAddress(t), freeAddress(t)
	n.writeRaw(fmt.Sprintf(handoverConfig, l.dataDir, l.admin, l.access, l.web, secure, echo, app, echoServer(t)))
	l.begin()
	anyPort := l.address("any")

	load := newLoaders(t)
	fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	kept := &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}
	trust := &tls.Config{ServerName: "api.test", RootCAs: n.ca.Pool()}
	h2 := &http.Client{Transport: &http.Transport{TLSClientConfig: trust.Clone(), ForceAttemptHTTP2: true}, Timeout: time.Minute}
	tls1 := &http.Client{Transport: &http.Transport{TLSClientConfig: trust.Clone(), DisableKeepAlives: true}, Timeout: time.Minute}
	defer kept.CloseIdleConnections()
	defer h2.CloseIdleConnections()
	uploads := &keptUploads{client: kept}
	for name, once := range map[string]func() error{
		"new connections":             func() error { return fetch(fresh, "GET", "http://"+l.web+"/") },
		"uploads on new ones":         func() error { return fetch(fresh, "POST", "http://"+l.web+"/") },
		"uploads on kept connections": func() error { return uploads.ask("http://" + l.web + "/") },
		"connections slow to ask":     func() error { return slowToAsk(l.web, 100*time.Millisecond, "/") },
		"TLS":                         func() error { return fetch(tls1, "POST", "https://"+secure+"/") },
		"HTTP/2":                      func() error { return fetch(h2, "GET", "https://"+secure+"/") },
		"a port of the system's":      func() error { return slowToAsk(anyPort, 0, "/") },
		"readiness":                   func() error { return fetch(fresh, "GET", "http://"+l.admin+"/readyz") },
		"readiness, kept connections": func() error { return fetch(kept, "GET", "http://"+l.admin+"/readyz") },
		"datagrams":                   func() error { return datagram(echo) },
	} {
		load.ask(name, once)
	}
	quic := &quichttp.Transport{TLSClientConfig: trust.Clone()}
	defer quic.Close()
	h3 := &http.Client{Transport: quic, Timeout: time.Minute}
	// A client of HTTP/3 may be told to go in the middle of asking; then it comes back.
	load.ask("HTTP/3", func() (err error) {
		for range 2 {
			if err = fetch(h3, "GET", "https://"+secure+"/"); err == nil {
				return nil
			}
			quic.CloseIdleConnections()
		}
		return err
	})
	load.more(3)
	slow, err := fresh.Get("http://" + l.web + "/slow")
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Body.Close()
	tunnel := newTunnel(t, l.web)
	first := l.pid()
	l.next()
	load.more(3)
	tunnel.says("still here")
	close(release)
	if b, err := io.ReadAll(slow.Body); err != nil || string(b) != "begin end" {
		t.Errorf("the download: %q, %v", b, err)
	}
	tunnel.ends()
	for range 3 {
		l.alone()
		l.next()
		load.more(3)
	}
	l.alone()
	if l.pid() == first {
		t.Error("nothing has changed")
	}
	load.stop()
	if ok := l.metric(`gatehouse_node_handovers_total{result="success"}`); ok != 4 {
		t.Errorf("%v handovers are counted", ok)
	}
	l.signal(syscall.SIGTERM)
	l.ends()
}

// tunnel is an upgraded connection to a server that repeats lines.
type tunnel struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

func newTunnel(t *testing.T, address string) *tunnel {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	x := &tunnel{t, c, bufio.NewReader(c)}
	if _, err := io.WriteString(c, "GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	for line := ""; line != "\r\n"; {
		if line, err = x.r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	x.says("hello")
	return x
}

func (x *tunnel) says(line string) {
	x.t.Helper()
	if _, err := io.WriteString(x.c, line+"\n"); err != nil {
		x.t.Fatal(err)
	}
	if got, err := x.r.ReadString('\n'); err != nil || got != line+"\n" {
		x.t.Fatalf("the tunnel says %q, %v", got, err)
	}
}

func (x *tunnel) ends() {
	x.t.Helper()
	_ = x.c.(*net.TCPConn).CloseWrite() // its answer is the end
	if b, err := io.ReadAll(x.r); err != nil || len(b) > 0 {
		x.t.Errorf("the tunnel ended with %q, %v", b, err)
	}
}

// chat repeats what comes on an upgraded connection.
func chat(w http.ResponseWriter) {
	w.Header().Set("Connection", "upgrade")
	w.Header().Set("Upgrade", "chat")
	w.WriteHeader(http.StatusSwitchingProtocols)
	c, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = io.Copy(c, rw)
}

// datagram sends one from a port of its own and wants it back. Datagrams may be
// lost; none is, on a loopback interface.
func datagram(address string) error {
	c, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(c, "hello"); err != nil {
		return err
	}
	b := make([]byte, 10)
	m, err := c.Read(b)
	if err == nil && string(b[:m]) != "hello" {
		err = fmt.Errorf("it answers %q", b[:m])
	}
	return err
}

// echoServer is a UDP server that sends everything back.
func echoServer(t *testing.T) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go func() {
		b := make([]byte, 64<<10)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(b[:n], from) // it has gone: as with any datagram
		}
	}()
	return pc.LocalAddr().String()
}
