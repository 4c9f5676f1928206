package h2_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/h2"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

type handler = func(ctx *fasthttp.RequestCtx, f exchange.Front)

// refusals are what a test server has refused, in order.
type refusals struct {
	mu   sync.Mutex
	list []string
}

func (r *refusals) add(why *reason.Reason) {
	r.mu.Lock()
	r.list = append(r.list, why.Name)
	r.mu.Unlock()
}

// await is what was refused, once that is want: a client may see a reset before
// it is counted.
func (r *refusals) await(want string) string {
	for end := time.Now().Add(30 * time.Second); r.String() != want && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	return r.String()
}

func (r *refusals) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.list, " ")
}

// settings are generous, so that nothing but what a test is about times out.
func settings(h handler, r *refusals) h2.Settings {
	return h2.Settings{
		Handler: h, Heads: wire.Limits{Head: 64 << 10, Fields: 100, URI: 8 << 10},
		HeadTimeout: time.Minute, BodyTimeout: time.Minute, WriteTimeout: time.Minute, IdleTimeout: time.Minute,
		Limits:  h2.Limits{MaxStreams: 100, StreamWindow: 256 << 10, ConnectionWindow: 1 << 20},
		Refused: func(why *reason.Reason, _ netip.AddrPort, _ []byte) { r.add(why) },
	}
}

func ok(ctx *fasthttp.RequestCtx, _ exchange.Front) { ctx.SetBodyString("ok") }

// start serves HTTP/2 in plain text on loopback until the test ends.
func start(t testing.TB, s h2.Settings) (addr string, srv *h2.Server) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv = h2.New(s)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			srv.ServePlain(nc, nil)
		}
	})
	t.Cleanup(func() {
		ln.Close()
		accepting.Wait()
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String(), srv
}

// client is net/http's.
func client(t testing.TB) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	rt := &http.Transport{Protocols: protocols, DisableCompression: true}
	t.Cleanup(rt.CloseIdleConnections)
	return &http.Client{Transport: rt, Timeout: time.Minute}
}

// raw is a client that sends what it likes.
type raw struct {
	t  testing.TB
	nc net.Conn
	*http2.Framer
	block bytes.Buffer
	enc   *hpack.Encoder
	mute  bool // await sends nothing: somebody else does
}

// dial connects and, unless settings are nil, sends the preface and them.
func dial(t testing.TB, addr string, settings ...http2.Setting) *raw {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	c := &raw{t: t, nc: nc, Framer: http2.NewFramer(nc, nc)}
	c.enc = hpack.NewEncoder(&c.block)
	c.AllowIllegalWrites = true
	if _, err := io.WriteString(nc, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	return c
}

// fields encodes pairs of names and values.
func (c *raw) fields(pairs ...string) []byte {
	c.block.Reset()
	for i := 0; i < len(pairs); i += 2 {
		_ = c.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}) // into memory
	}
	return bytes.Clone(c.block.Bytes())
}

// get is a plain request and what else is given.
func get(more ...string) []string {
	return append([]string{":method", "GET", ":scheme", "http", ":authority", "a.test", ":path", "/"}, more...)
}

// frame is what everybody must take.
const frame = 16 << 10

// open sends a request's head. Errors show when the reply is read.
func (c *raw) open(id uint32, end bool, pairs ...string) {
	block := c.fields(pairs...)
	first := block[:min(len(block), frame)]
	rest := block[len(first):]
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: first, EndHeaders: len(rest) == 0, EndStream: end})
	for len(rest) > 0 {
		next := rest[:min(len(rest), frame)]
		rest = rest[len(next):]
		_ = c.WriteContinuation(id, len(rest) == 0, next)
	}
}

// answer is what became of a stream.
type answer struct {
	status, body string
	header       map[string]string
	reset        http2.ErrCode // with wasReset
	wasReset     bool
	ended        bool // by END_STREAM
	goAway       bool
	code         http2.ErrCode // of GOAWAY
	gone         bool          // the connection
}

// await reads until the stream, or the connection, has ended.
func (c *raw) await(id uint32) (a answer) {
	c.t.Helper()
	a.header = map[string]string{}
	dec := hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if f.Name == ":status" {
			a.status = f.Value
		}
		a.header[f.Name] = f.Value
	})
	for {
		f, err := c.ReadFrame()
		if err != nil {
			a.gone = true
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				c.t.Errorf("nothing became of stream %d", id)
			}
			return a
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() && !c.mute {
				_ = c.WriteSettingsAck()
			}
		case *http2.HeadersFrame:
			before := a.status
			_, _ = dec.Write(f.HeaderBlockFragment())
			if f.StreamID != id {
				a.status = before
			} else if f.StreamEnded() {
				a.ended = true
				return a
			}
		case *http2.DataFrame:
			if f.StreamID == id {
				a.body += string(f.Data())
				if f.StreamEnded() {
					a.ended = true
					return a
				}
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				a.reset, a.wasReset = f.ErrCode, true
				return a
			}
		case *http2.GoAwayFrame:
			a.goAway, a.code = true, f.ErrCode
			if f.ErrCode != http2.ErrCodeNo {
				a.gone = true
				return a
			}
		}
	}
}

// eventually waits for a condition; loopback is quick, so it is seldom long.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
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
		if d > time.Second {
			t.Fatal(err)
		}
		d *= 4
	}
}

func background(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// quick are settings for tests that expect no refusal.
func quick(h handler) h2.Settings { return settings(h, new(refusals)) }

// web is net/http's client of a test's server.
type web struct {
	t    testing.TB
	base string
	rt   *http.Transport
}

func serve(t testing.TB, s h2.Settings) (*web, *h2.Server) {
	t.Helper()
	addr, srv := start(t, s)
	return &web{t, "http://" + addr, client(t).Transport.(*http.Transport)}, srv
}

func (c *web) request(method, path string, body io.Reader) *http.Request {
	c.t.Helper()
	r, err := http.NewRequestWithContext(background(c.t, time.Minute), method, c.base+path, body)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// do sends r and reads the whole reply.
func (c *web) do(r *http.Request) (*http.Response, string, error) {
	resp, err := c.rt.RoundTrip(r)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

func (c *web) get(path string) (*http.Response, string) {
	c.t.Helper()
	resp, body, err := c.do(c.request("GET", path, nil))
	if err != nil {
		c.t.Fatal(err)
	}
	return resp, body
}
