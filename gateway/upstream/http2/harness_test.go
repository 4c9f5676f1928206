package http2_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http2"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// newPool is a pool for address that leaves nothing behind.
func newPool(t testing.TB, s http2.Settings, address string) *http2.Pool {
	t.Helper()
	s.Address = address
	if s.Manager == nil {
		s.Manager = http2.NewManager()
	}
	p := http2.NewPool(s)
	t.Cleanup(func() {
		p.Close()
		s.Manager.Close()
		if !eventually(func() bool { open, _, _ := p.Counts(); return open == 0 }) {
			t.Error("connections are left")
		}
	})
	return p
}

// eventually waits for what another goroutine brings about.
func eventually(is func() bool) bool {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if is() {
			return true
		}
	}
	return is()
}

// stretched runs a test of times, which come of d, until it passes: a machine
// that is too slow for short ones gets longer ones.
func stretched(t *testing.T, d time.Duration, f func(d time.Duration) error) {
	t.Helper()
	for {
		err := f(d)
		if err == nil {
			return
		}
		if d > 2*time.Second {
			t.Fatal(err)
		}
		d *= 4
	}
}

// serve is a real HTTP/2 server in clear text.
func serve(t testing.TB, h http.HandlerFunc) (address string) {
	t.Helper()
	return serveConfig(t, &http.HTTP2Config{}, h)
}

func serveConfig(t testing.TB, config *http.HTTP2Config, h http.HandlerFunc) (address string) {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: h, Protocols: protocols, HTTP2: config}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(ln) })
	t.Cleanup(func() {
		s.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

// head is a request head.
func head(first string, fields ...string) []byte {
	return []byte(first + " HTTP/1.1\r\nHost: a.test\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n")
}

func newCall() *transport.Call { return &transport.Call{Head: head("GET /")} }

// result is a reply that has been read to its end.
type result struct {
	status   int
	fields   string // "Name: value\n" without those that concern one connection
	body     string
	trailers string
	length   int64
	reused   bool
	err      error
}

// do makes one request and reads its reply to the end.
func do(p transport.Pool, call *transport.Call) (r result) {
	c, err := p.Get(call, false)
	if err != nil {
		return result{err: err}
	}
	r.reused = c.Reused()
	if err := c.Do(call); err != nil {
		r.err = err
		return r
	}
	r = read(c)
	c.Release()
	return r
}

// read reads a reply.
func read(c transport.Conn) (r result) {
	h, raw := c.Head()
	r.status, r.length, r.reused = h.Status, c.Length(), c.Reused()
	for i, f := range h.Fields {
		if !h.Hop(i) {
			r.fields += string(f.Name(raw)) + ": " + string(f.Value(raw)) + "\n"
		}
	}
	b, err := io.ReadAll(c)
	r.body, r.err = string(b), err
	r.trailers = string(c.Trailers())
	return r
}

// failure is err as one.
func failure(t testing.TB, err error) *transport.Failure {
	t.Helper()
	var f *transport.Failure
	if !errors.As(err, &f) {
		t.Fatalf("not a failure: %v", err)
	}
	return f
}

// client is what the request came by.
type client struct {
	exchange.Front // nil: the rest is not asked for

	mu          sync.Mutex
	aborter     exchange.Aborter
	informed    []string
	trailers    string
	reading     chan struct{}
	interrupted chan struct{}
	read, once  sync.Once
}

func newClient() *client {
	return &client{reading: make(chan struct{}), interrupted: make(chan struct{})}
}

// OnGone implements exchange.Front.
func (c *client) OnGone(a exchange.Aborter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.aborter = a
}

// leave is the client going away.
func (c *client) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.aborter != nil {
		c.aborter.Abort()
	}
}

// Inform implements exchange.Front.
func (c *client) Inform(status int, fields []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.informed = append(c.informed, http.StatusText(status)+"|"+string(bytes.ReplaceAll(fields, []byte("\r\n"), []byte("|"))))
	return nil
}

// BodyDone implements exchange.Front.
func (c *client) BodyDone() bool { return c.trailers != "" }

// RequestTrailers implements exchange.Front.
func (c *client) RequestTrailers() []byte { return []byte(c.trailers) }

// InterruptBody implements exchange.Front.
func (c *client) InterruptBody() { c.once.Do(func() { close(c.interrupted) }) }

// Read is a body that does not come until it is interrupted.
func (c *client) Read([]byte) (int, error) {
	c.read.Do(func() { close(c.reading) })
	<-c.interrupted
	return 0, errors.New("interrupted")
}

// listen says the same to whoever connects and then nothing more.
func listen(t testing.TB, say string) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				io.WriteString(nc, say)
				io.Copy(io.Discard, nc)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}
