package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	frames "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http2"
)

// overHTTP2 is one upstream whose endpoints speak HTTP/2 in clear text.
func overHTTP2(t testing.TB, addresses ...string) []proxy.Backend {
	t.Helper()
	m := http2.NewManager()
	s := upstream.Settings{Name: "up", Algorithm: upstream.RoundRobin}
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, upstream.EndpointSettings{Address: a})
	}
	s.NewPool = func(address string, b *upstream.Breaker) upstream.Pool {
		return http2.NewPool(http2.Settings{Address: address, Manager: m, Limiter: b, DialTimeout: time.Minute})
	}
	u, err := upstream.New(s, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		u.Close(t.Context())
		m.Close()
	})
	return []proxy.Backend{{Upstream: u, Weight: 1}}
}

// handleHTTP2 serves h as an upstream.
func handleHTTP2(t testing.TB, h http.HandlerFunc) (addr string) {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: h, Protocols: protocols}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(ln)
	}()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return ln.Addr().String()
}

// refuses is an upstream that resets the first n requests as not processed, once
// it has the head and as much of the body as it wants, and answers the others.
func refuses(t testing.TB, n int32, afterBody bool) (addr string, asked *atomic.Int32) {
	asked = new(atomic.Int32)
	addr = raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		if _, err := io.CopyN(io.Discard, r, int64(len(frames.ClientPreface))); err != nil {
			return
		}
		fr := frames.NewFramer(c, r)
		fr.WriteSettings()
		var text strings.Builder
		enc := hpack.NewEncoder(&text)
		answer := func(id uint32) {
			if asked.Add(1) <= n {
				fr.WriteRSTStream(id, frames.ErrCodeRefusedStream)
				return
			}
			text.Reset()
			enc.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
			fr.WriteHeaders(frames.HeadersFrameParam{StreamID: id, BlockFragment: []byte(text.String()), EndHeaders: true, EndStream: true})
		}
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				return
			}
			switch f := f.(type) {
			case *frames.SettingsFrame:
				if !f.IsAck() {
					fr.WriteSettingsAck()
				}
			case *frames.HeadersFrame:
				if !afterBody || f.StreamEnded() {
					answer(f.StreamID)
				}
			case *frames.DataFrame:
				if afterBody {
					answer(f.StreamID)
				}
			}
		}
	})
	return addr, asked
}

func TestTrailersGoThroughHTTP2(t *testing.T) {
	addr := handleHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(w, "%s %s %s", r.Proto, b, r.Trailer.Get("X-Up"))
		w.Header().Set("X-Sum", "7")
	})
	g := start(t, proxy.Settings{Backends: overHTTP2(t, addr)})
	c, r := dial(t, g.addr, "POST /x HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nConnection: TE\r\nTrailer: X-Up\r\n"+
		"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Up: 9\r\n\r\n")
	reply, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(reply.Body)
	if err != nil || string(b) != "HTTP/2.0 hello 9" || reply.Trailer.Get("X-Sum") != "7" {
		t.Errorf("%q, %v, %v", b, reply.Trailer, err)
	}
	fmt.Fprint(c, "GET /y HTTP/1.1\r\nHost: a.test\r\n\r\n")
	if reply, err = http.ReadResponse(r, nil); err != nil || reply.StatusCode != 200 {
		t.Fatal(err)
	}
	reply.Body.Close()
	g.await(t, 1)
	if tries := g.tried(); len(tries) != 2 || !tries[1].Reused || tries[0].Reused {
		t.Errorf("%+v", tries)
	}
}

// A POST that the endpoint has refused to look at is safe to repeat.
func TestRefusedStreamsAreRepeated(t *testing.T) {
	addr, asked := refuses(t, 1, true)
	on, _ := proxy.ParseRetryOn(nil)
	g := start(t, proxy.Settings{Backends: overHTTP2(t, addr), Retries: proxy.RetrySettings{Attempts: 1, On: on}})
	if got := get(t, g.addr, "/"); !strings.HasPrefix(got, "HTTP/1.1 200") || asked.Load() != 2 {
		t.Errorf("GET: %q, asked %d times", got, asked.Load())
	}
	addr, asked = refuses(t, 1, true)
	g = start(t, proxy.Settings{Backends: overHTTP2(t, addr), Retries: proxy.RetrySettings{Attempts: 1, On: on}})
	_, r := dial(t, g.addr, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
	if reply, err := http.ReadResponse(r, nil); err != nil || reply.StatusCode != 200 || asked.Load() != 2 {
		t.Errorf("POST: %v, %v, asked %d times", reply, err, asked.Load())
	}
}

// One that is half sent is not: its body is gone.
func TestRefusedUploadsAreNotRepeated(t *testing.T) {
	addr, asked := refuses(t, 1, true)
	on, _ := proxy.ParseRetryOn(nil)
	g := start(t, proxy.Settings{Backends: overHTTP2(t, addr), Retries: proxy.RetrySettings{Attempts: 1, On: on}})
	c, r := dial(t, g.addr, "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
	reply, err := http.ReadResponse(r, nil)
	if err != nil || reply.StatusCode != 502 || asked.Load() != 1 {
		t.Errorf("%v, %v, asked %d times", reply, err, asked.Load())
	}
	c.Close()
	if f := g.await(t, 1); f.refusal == nil || f.refusal.Reason != reason.UpstreamReset {
		t.Errorf("%+v", f.refusal)
	}
}

func TestClientThatLeavesCancelsTheStream(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	addr := handleHTTP2(t, func(_ http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
		close(ended)
	})
	g := start(t, proxy.Settings{Backends: overHTTP2(t, addr)})
	c, _ := dial(t, g.addr, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	<-begun
	c.Close()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Fatal("the endpoint does not learn of it")
	}
	if f := g.await(t, 1); f.refusal == nil || f.refusal.Reason != reason.ClientGone {
		t.Errorf("%+v", f.refusal)
	}
}

func TestHedgesOverHTTP2(t *testing.T) {
	const requests = 4
	var lost atomic.Int32
	begun := make(chan struct{}, requests)
	slow := handleHTTP2(t, func(_ http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		<-r.Context().Done()
		lost.Add(1)
	})
	fast := handleHTTP2(t, func(w http.ResponseWriter, _ *http.Request) {
		<-begun // whichever was asked first: the other one is, too
		io.WriteString(w, "fast")
	})
	on, _ := proxy.ParseRetryOn(nil)
	g := start(t, proxy.Settings{Backends: overHTTP2(t, slow, fast), Hedge: 20 * time.Millisecond, Retries: proxy.RetrySettings{Attempts: 1, On: on}})
	for range requests {
		if got := get(t, g.addr, "/"); !strings.HasSuffix(got, "fast") {
			t.Errorf("got %q", got)
		}
	}
	eventually(t, "the slower try is cancelled", func() bool { return lost.Load() == requests })
}

func TestMirrorsOverHTTP2(t *testing.T) {
	seen := make(chan string, 1)
	shadow := handleHTTP2(t, func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		seen <- r.Method + " " + r.URL.Path + " " + string(b)
	})
	addr := handleHTTP2(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "real") })
	g := start(t, proxy.Settings{
		Backends: overHTTP2(t, addr),
		Mirror:   &proxy.MirrorSettings{Upstream: overHTTP2(t, shadow)[0].Upstream, Percent: 100, MaxBody: 100},
	})
	_, r := dial(t, g.addr, "POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
	if b, _ := io.ReadAll(r); !strings.HasSuffix(string(b), "real\r\n0\r\n\r\n") && !strings.HasSuffix(string(b), "real") {
		t.Errorf("got %q", b)
	}
	if got := <-seen; got != "POST /x hello" {
		t.Errorf("got %q", got)
	}
}

func TestUpgradesAreRefusedOverHTTP2(t *testing.T) {
	addr := handleHTTP2(t, func(http.ResponseWriter, *http.Request) { t.Error("the endpoint was asked") })
	g := start(t, proxy.Settings{Backends: overHTTP2(t, addr)})
	_, r := dial(t, g.addr, "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if reply, err := http.ReadResponse(r, nil); err != nil || reply.StatusCode != 501 {
		t.Errorf("%v, %v", reply, err)
	}
	if f := g.await(t, 1); f.refusal == nil || f.refusal.Reason != reason.UpstreamNoUpgrade {
		t.Errorf("%+v", f.refusal)
	}
}

// A reply that breaks off must not look complete.
func TestBrokenStreamsCutTheReply(t *testing.T) {
	addr := handleHTTP2(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "half")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	g := start(t, proxy.Settings{Backends: overHTTP2(t, addr)})
	got := get(t, g.addr, "/")
	if !strings.HasPrefix(got, "HTTP/1.1 200") || !strings.Contains(got, "half") || strings.HasSuffix(got, "0\r\n\r\n") {
		t.Errorf("got %q", got)
	}
	if f := g.await(t, 1); f.refusal == nil || f.refusal.Reason != reason.UpstreamReset {
		t.Errorf("%+v", f.refusal)
	}
}

func BenchmarkProxyHTTP2(b *testing.B) {
	addr := handleHTTP2(b, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	g := start(b, proxy.Settings{Backends: overHTTP2(b, addr), Timeouts: proxy.Timeouts{Request: time.Minute, Idle: time.Minute}})
	g.quiet = true
	c, r := dial(b, g.addr, "")
	c.SetDeadline(time.Time{})
	b.ReportAllocs()
	for b.Loop() {
		io.WriteString(c, plainGet)
		reply, err := http.ReadResponse(r, nil)
		if err != nil {
			b.Fatal(err)
		}
		io.Copy(io.Discard, reply.Body)
	}
}
