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

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

func TestWeights(t *testing.T) {
	named := func(name string) proxy.Backend {
		return proxy.Backend{Upstream: newUpstreamOf(t, answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"+name))}
	}
	a, b, c := named("a"), named("b"), named("c")
	a.Weight, b.Weight, c.Weight = 3, 1, 0
	g := start(t, proxy.Settings{Backends: []proxy.Backend{a, b, c}})
	conn, r := dial(t, g.addr, "")
	got := map[byte]int{}
	for range 400 {
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
		readHead(r)
		x, err := r.ReadByte()
		if err != nil {
			t.Fatal(err)
		}
		got[x]++
	}
	// 300 expected; beyond these bounds once in 10^10 runs.
	if got['c'] != 0 || got['a'] < 240 || got['a'] > 352 {
		t.Errorf("shares %v", got)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	up := newUpstreamOf(t, "127.0.0.1:1")
	one := []proxy.Backend{{Upstream: up, Weight: 1}}
	for _, tc := range []struct {
		name string
		s    proxy.Settings
		want string
	}{
		{"no backend", proxy.Settings{}, "routes.r.backends: at least one"},
		{"no weight", proxy.Settings{Backends: []proxy.Backend{{Upstream: up}}}, "every weight is 0"},
		{"no upstream", proxy.Settings{Backends: []proxy.Backend{{Weight: 1}}}, "routes.r.backends[0]: the upstream is missing"},
		{"short secret", proxy.Settings{Backends: []proxy.Backend{{Upstream: up, Weight: 1, Sticky: &proxy.StickySettings{Cookie: "c", Secret: []byte("short")}}}}, "at least 16 bytes"},
		{"bad via", proxy.Settings{Backends: one, Via: "a b"}, "routes.r.via: \"a b\""},
		{"bad host", proxy.Settings{Backends: one, HostMode: proxy.HostFixed, Host: "a\r\nb"}, "is not a host"},
		{"bad abort", proxy.Settings{Backends: one, Fault: &proxy.FaultSettings{AbortPercent: 1}}, "routes.r.fault: abort.status"},
		{"bad mirror", proxy.Settings{Backends: one, Mirror: &proxy.MirrorSettings{}}, "routes.r.mirror: the upstream is missing"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.s.Route = "r"
			if _, err := proxy.New(tc.s); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestStickyCookie(t *testing.T) {
	var names [3]string
	var eps []upstream.EndpointSettings
	for i := range names {
		names[i] = answering(t, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d", i))
		eps = append(eps, upstream.EndpointSettings{Address: names[i]})
	}
	up := newUpstream(t, upstream.Settings{Endpoints: eps})
	b := proxy.Backend{Upstream: up, Weight: 1, Sticky: &proxy.StickySettings{Cookie: "stick", Secret: []byte("0123456789abcdef"), TTL: time.Hour, Secure: true}}
	g := start(t, proxy.Settings{Backends: []proxy.Backend{b}})
	ask := func(cookie string) (endpoint, set string) {
		_, r := dial(t, g.addr, "GET / HTTP/1.1\r\nHost: a.test\r\n%s\r\n", cookie)
		for line := range strings.SplitSeq(readHead(r), "\r\n") {
			if v, ok := strings.CutPrefix(line, "Set-Cookie: "); ok {
				set = v
			}
		}
		x, _ := r.ReadByte()
		return string(x), set
	}
	first, set := ask("")
	for _, want := range []string{"stick=", "max-age=3600", "path=/", "HttpOnly", "secure", "SameSite=Lax"} {
		if !strings.Contains(set, want) {
			t.Fatalf("%q is missing in %q", want, set)
		}
	}
	pair, _, _ := strings.Cut(set, ";")
	for range 10 {
		if ep, again := ask("Cookie: x=y; " + pair + "\r\n"); ep != first || again != "" {
			t.Fatalf("went to %s instead of %s, new cookie %q", ep, first, again)
		}
	}
	// Nobody chooses his endpoint himself.
	id, rest, _ := strings.Cut(strings.TrimPrefix(pair, "stick="), ".")
	expiry, mac, _ := strings.Cut(rest, ".")
	for _, forged := range []string{
		"stick=", "stick=" + id, "stick=" + id + "." + expiry + ".", "stick=" + id + ".0." + mac,
		"stick=" + id + "." + expiry + "." + strings.Repeat("A", len(mac)), "stick=x." + expiry + "." + mac, pair + ".x", "stick=...",
	} {
		if _, again := ask("Cookie: " + forged + "\r\n"); again == "" {
			t.Errorf("%q was taken for one of ours", forged)
		}
	}
}

func TestHashOn(t *testing.T) {
	var eps []upstream.EndpointSettings
	for i := range 5 {
		eps = append(eps, upstream.EndpointSettings{Address: answering(t, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d", i))})
	}
	up := newUpstream(t, upstream.Settings{Algorithm: upstream.Maglev, Endpoints: eps})
	key := func(dst []byte, ctx *fasthttp.RequestCtx, _ *exchange.Exchange) []byte {
		return append(dst, ctx.Request.Header.Peek("X-User")...)
	}
	g := start(t, proxy.Settings{Backends: []proxy.Backend{{Upstream: up, Weight: 1, HashOn: key}}})
	used := map[byte]bool{}
	for user := range 40 {
		var first byte
		for i := range 3 {
			_, r := dial(t, g.addr, "GET / HTTP/1.1\r\nHost: a.test\r\nX-User: %d\r\n\r\n", user)
			readHead(r)
			x, _ := r.ReadByte()
			if i == 0 {
				first = x
			}
			if x != first {
				t.Fatalf("user %d went to %c and %c", user, first, x)
			}
		}
		used[first] = true
	}
	if len(used) < 3 {
		t.Errorf("40 users share %d endpoints", len(used))
	}
}

func TestHedge(t *testing.T) {
	const requests = 4
	var slowEnded atomic.Int32
	begun := make(chan struct{}, requests)
	slow := handle(t, func(_ http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		<-r.Context().Done()
		slowEnded.Add(1)
	})
	fast := handle(t, func(w http.ResponseWriter, r *http.Request) {
		<-begun // whichever was asked first: the other one is, too
		io.WriteString(w, "fast")
	})
	up := newUpstream(t, upstream.Settings{Algorithm: upstream.RoundRobin}, slow, fast)
	g := start(t, proxy.Settings{Backends: []proxy.Backend{{Upstream: up, Weight: 1}}, Hedge: 30 * time.Millisecond})
	for i := range requests {
		if got := get(t, g.addr, "/"); !strings.HasSuffix(got, "fast") {
			t.Fatalf("request %d: %q", i, got)
		}
		if f := g.await(t, i+1); f.upstream.Endpoint != fast {
			t.Errorf("upstream %+v", f.upstream)
		}
	}
	eventually(t, "the slower tries are interrupted", func() bool { return slowEnded.Load() == requests })
	eventually(t, "no requests are left", func() bool { return up.Breaker().Requests() == 0 })
	for _, try := range g.tried() {
		if try.Endpoint == slow && try.Failure != upstream.NotTried {
			t.Errorf("the slower endpoint is blamed: %+v", try)
		}
	}
}

func TestHedgeFailsWhenBothDo(t *testing.T) {
	g := start(t, proxy.Settings{Hedge: time.Millisecond}, refusing(t), refusing(t))
	if got := get(t, g.addr, "/"); !strings.HasPrefix(got, "HTTP/1.1 502") {
		t.Errorf("got %q", got)
	}
	g = start(t, proxy.Settings{Hedge: time.Millisecond, Timeouts: proxy.Timeouts{Request: 100 * time.Millisecond}}, hanging(t), hanging(t))
	if got := get(t, g.addr, "/"); !strings.HasPrefix(got, "HTTP/1.1 504") {
		t.Errorf("got %q", got)
	}
}

// hanging takes whatever it is sent and never answers.
func hanging(t testing.TB) string {
	return raw(t, func(_ int, c net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) })
}

func TestMirror(t *testing.T) {
	got := make(chan string, 10)
	shadow := handle(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- r.Method + " " + r.RequestURI + " " + string(b)
		w.WriteHeader(500)
	})
	up := handle(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	g := start(t, proxy.Settings{Mirror: &proxy.MirrorSettings{Upstream: newUpstreamOf(t, shadow), Percent: 100, MaxBody: 10}}, up)
	c := client(t)
	post := func(body io.Reader) {
		t.Helper()
		resp, err := c.Post("http://"+g.addr+"/m?q=1", "text/plain", body)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 {
			t.Fatalf("%d %q %v", resp.StatusCode, b, err)
		}
	}
	post(strings.NewReader("short"))
	if m := <-got; m != "POST /m?q=1 short" {
		t.Errorf("mirrored %q", m)
	}
	post(nil)
	if m := <-got; m != "POST /m?q=1 " {
		t.Errorf("mirrored %q", m)
	}
	post(strings.NewReader("much too long"))
	post(io.MultiReader(strings.NewReader("chunked")))
	// The replies are still being read, which closing would cut short.
	eventually(t, "both are mirrored", func() bool { return g.proxy.MirrorStats().Sent == 2 })
	g.proxy.Close(t.Context())
	if s := g.proxy.MirrorStats(); s.TooLong != 2 || s.Sent != 2 || len(got) != 0 {
		t.Errorf("%+v, %d more mirrored", s, len(got))
	}
	if n := g.drops[proxy.DropTooLong].Load(); n != 2 {
		t.Errorf("the observer is told of %d that were too long", n)
	}
}

// A mirror that has no room costs no request.
func TestMirrorIsFull(t *testing.T) {
	shadow := newUpstream(t, upstream.Settings{Breaker: upstream.BreakerSettings{MaxConnections: 1, MaxPending: 1, MaxRequests: 1}}, hanging(t))
	g := start(t, proxy.Settings{Mirror: &proxy.MirrorSettings{Upstream: shadow, Percent: 100, Timeout: time.Hour}}, answering(t, ok))
	for range 3 {
		if got := get(t, g.addr, "/"); !strings.HasSuffix(got, "ok") {
			t.Fatalf("got %q", got)
		}
	}
	if n := g.drops[proxy.DropUnavailable].Load(); n != 2 || g.proxy.MirrorStats().Failed != 2 {
		t.Errorf("the observer is told of %d, %+v", n, g.proxy.MirrorStats())
	}
	g.proxy.Close(t.Context())
}

// Mirrors that hang cost a bounded number of goroutines and no request.
func TestMirrorHangs(t *testing.T) {
	g := start(t, proxy.Settings{Mirror: &proxy.MirrorSettings{Upstream: newUpstreamOf(t, hanging(t)), Percent: 100, MaxConcurrent: 2, Timeout: time.Hour}}, answering(t, ok))
	for range 5 {
		if got := get(t, g.addr, "/"); !strings.HasSuffix(got, "ok") {
			t.Fatalf("got %q", got)
		}
	}
	if s := g.proxy.MirrorStats(); s.Dropped != 3 || g.drops[proxy.DropBusy].Load() != 3 {
		t.Errorf("%+v, and the observer is told of %d", s, g.drops[proxy.DropBusy].Load())
	}
	g.proxy.Close(t.Context()) // although they have an hour
	if s := g.proxy.MirrorStats(); s.Failed != 2 {
		t.Errorf("%+v", s)
	}
}

func TestFaults(t *testing.T) {
	up := answering(t, ok)
	g := start(t, proxy.Settings{Fault: &proxy.FaultSettings{AbortPercent: 100, AbortStatus: 418}}, up)
	if got := get(t, g.addr, "/"); !strings.HasPrefix(got, "HTTP/1.1 418") {
		t.Errorf("got %q", got)
	}
	if f := g.await(t, 1); f.refusal.Reason != reason.FaultAbort {
		t.Errorf("refusal %v", f.refusal)
	}
	g = start(t, proxy.Settings{Fault: &proxy.FaultSettings{DelayPercent: 100, Delay: 50 * time.Millisecond}}, up)
	began := time.Now()
	if got := get(t, g.addr, "/"); !strings.HasSuffix(got, "ok") || time.Since(began) < 50*time.Millisecond {
		t.Errorf("got %q after %v", got, time.Since(began))
	}
	g = start(t, proxy.Settings{Fault: &proxy.FaultSettings{DelayPercent: 100, Delay: time.Hour}}, up)
	c, _ := dial(t, g.addr, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	time.Sleep(300 * time.Millisecond)
	c.Close()
	if f := g.await(t, 1); f.refusal == nil || f.refusal.Reason != reason.ClientGone {
		t.Errorf("refusal %v", f.refusal)
	}
}
