package bridge_test

import (
	"bytes"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/bridge"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

type handler = func(ctx *fasthttp.RequestCtx, f exchange.Front)

// settings are generous, so that nothing but what a test is about times out.
func settings(h handler) bridge.Settings {
	return bridge.Settings{
		Handler: h, Limits: wire.Limits{Head: 64 << 10, Fields: 100, URI: 8 << 10},
		BodyTimeout: time.Minute, WriteTimeout: time.Minute,
	}
}

// refusals are the protocol refusals of a test.
type refusals struct {
	mu    sync.Mutex
	list  []string
	heads []string
}

func (r *refusals) add(why *reason.Reason, _ netip.AddrPort, head []byte) {
	r.mu.Lock()
	r.list = append(r.list, why.Name)
	line, _, _ := bytes.Cut(head, []byte("\r\n"))
	r.heads = append(r.heads, string(line))
	r.mu.Unlock()
}

func (r *refusals) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.list, " ")
}

// start serves HTTP/2 in plain text until the test ends.
func start(t testing.TB, s bridge.Settings) (*client, *bridge.Bridge) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := bridge.New(s)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{
		Handler: b, Protocols: protocols, DisableGeneralOptionsHandler: true, ErrorLog: log.New(io.Discard, "", 0),
		MaxHeaderBytes: 1 << 20,
		ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
			return bridge.NewContext(ctx, &bridge.Conn{Face: exchange.Face{Local: nc.LocalAddr(), Remote: nc.RemoteAddr()}, Flooded: func() { nc.Close() }})
		},
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(ln) })
	rt := &http.Transport{Protocols: protocols, DisableCompression: true}
	t.Cleanup(func() {
		rt.CloseIdleConnections()
		srv.Close()
		serving.Wait()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return &client{t, "http://" + ln.Addr().String(), rt}, b
}

type client struct {
	t    testing.TB
	base string
	rt   *http.Transport
}

func (c *client) request(method, path string, body io.Reader) *http.Request {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	c.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// do sends r and reads the whole reply.
func (c *client) do(r *http.Request) (*http.Response, string, error) {
	resp, err := c.rt.RoundTrip(r)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

func (c *client) get(path string) (*http.Response, string) {
	c.t.Helper()
	resp, body, err := c.do(c.request("GET", path, nil))
	if err != nil {
		c.t.Fatal(err)
	}
	return resp, body
}

// null is a server's writer that costs nothing.
type null struct{ h http.Header }

func (w *null) Header() http.Header              { return w.h }
func (w *null) Write(p []byte) (int, error)      { return len(p), nil }
func (w *null) WriteHeader(int)                  {}
func (w *null) FlushError() error                { return nil }
func (w *null) SetReadDeadline(time.Time) error  { return nil }
func (w *null) SetWriteDeadline(time.Time) error { return nil }
