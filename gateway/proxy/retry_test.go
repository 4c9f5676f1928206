package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

// refusing is an address where nobody listens, nor can while the test lasts: it
// is the near end of a connection.
func refusing(t testing.TB) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.LocalAddr().String()
}

func retryOn(t testing.TB, words ...string) proxy.RetryOn {
	on, err := proxy.ParseRetryOn(words)
	if err != nil {
		t.Fatal(err)
	}
	return on
}

func TestRetries(t *testing.T) {
	resetting := raw(t, func(_ int, c net.Conn, r *bufio.Reader) { readHead(r) })
	hanging := hanging(t)
	failing := answering(t, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nfail")
	reading := handle(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(503)
	})
	for _, tc := range []struct {
		name, method, body string
		bad                string
		on                 []string
		settings           proxy.RetrySettings
		perTry             time.Duration
		status, tries      int
	}{
		{name: "connect failure", method: "GET", bad: refusing(t), settings: proxy.RetrySettings{Attempts: 1}, status: 200, tries: 2},
		{name: "connect failure, POST was not sent", method: "POST", body: "x", bad: refusing(t), settings: proxy.RetrySettings{Attempts: 1}, status: 200, tries: 2},
		{name: "no attempts", method: "GET", bad: refusing(t), status: 502, tries: 1},
		{name: "reset", method: "GET", bad: resetting, settings: proxy.RetrySettings{Attempts: 1}, status: 200, tries: 2},
		{name: "reset, PUT with body", method: "PUT", body: "abc", bad: resetting, settings: proxy.RetrySettings{Attempts: 1}, status: 200, tries: 2},
		{name: "reset, POST is not repeated", method: "POST", body: "abc", bad: resetting, settings: proxy.RetrySettings{Attempts: 1}, status: 502, tries: 1},
		{name: "reset, POST by order", method: "POST", body: "abc", bad: resetting, settings: proxy.RetrySettings{Attempts: 1, NonIdempotent: true}, status: 200, tries: 2},
		{name: "reset, not asked for", method: "GET", bad: resetting, on: []string{"connect_failure"}, settings: proxy.RetrySettings{Attempts: 1}, status: 502, tries: 1},
		{name: "timeout", method: "GET", bad: hanging, on: []string{"timeout"}, settings: proxy.RetrySettings{Attempts: 1}, perTry: 200 * time.Millisecond, status: 200, tries: 2},
		{name: "timeout, not asked for", method: "GET", bad: hanging, settings: proxy.RetrySettings{Attempts: 1}, perTry: 200 * time.Millisecond, status: 504, tries: 1},
		{name: "status", method: "GET", bad: failing, on: []string{"503"}, settings: proxy.RetrySettings{Attempts: 1}, status: 200, tries: 2},
		{name: "class of statuses", method: "GET", bad: failing, on: []string{"5xx"}, settings: proxy.RetrySettings{Attempts: 1}, status: 200, tries: 2},
		{name: "status, not asked for", method: "GET", bad: failing, settings: proxy.RetrySettings{Attempts: 1}, status: 503, tries: 1},
		{name: "chunked PUT, kept", method: "PUT", body: "chunked", bad: reading, on: []string{"503"}, settings: proxy.RetrySettings{Attempts: 1, BufferBody: 1 << 10}, status: 200, tries: 2},
		{name: "chunked PUT, too long to keep", method: "PUT", body: "chunked", bad: reading, on: []string{"503"}, settings: proxy.RetrySettings{Attempts: 1, BufferBody: 3}, status: 503, tries: 1},
		{name: "chunked PUT, nothing read of it", method: "PUT", body: "chunked", bad: refusing(t), settings: proxy.RetrySettings{Attempts: 1}, status: 200, tries: 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			good := handle(t, func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				if string(b) != tc.body {
					t.Errorf("body %q", b)
				}
			})
			// Round robin begins anywhere: the bad one is first by priority.
			up := newUpstream(t, upstream.Settings{Algorithm: upstream.RoundRobin, Endpoints: []upstream.EndpointSettings{{Address: tc.bad}, {Address: good}}})
			s := proxy.Settings{Backends: []proxy.Backend{{Upstream: up, Weight: 1}}, Retries: tc.settings}
			s.Retries.On, s.Retries.BudgetPercent, s.Retries.Backoff = retryOn(t, tc.on...), 20, time.Millisecond
			s.Timeouts.PerTry = tc.perTry
			g := start(t, s)
			c := client(t)
			for range 20 { // until the bad one was first
				var body io.Reader
				if tc.body == "chunked" {
					body = io.MultiReader(strings.NewReader(tc.body))
				} else if tc.body != "" {
					body = strings.NewReader(tc.body)
				}
				req, _ := http.NewRequest(tc.method, "http://"+g.addr+"/", body)
				before := len(g.tried())
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				tries := g.tried()[before:]
				last := tries[len(tries)-1]
				if tries[0].Endpoint != tc.bad || last.Endpoint == good && last.Failure == upstream.FailedTimeout {
					continue // the second: on a machine that is too slow for perTry
				}
				if resp.StatusCode != tc.status || len(tries) != tc.tries {
					t.Fatalf("status %d after %+v", resp.StatusCode, tries)
				}
				if len(tries) > 1 && tries[1].Endpoint != good {
					t.Errorf("the second try went to the same endpoint")
				}
				return
			}
			t.Fatal("the bad endpoint was never tried first")
		})
	}
}

func TestParseRetryOnNamesWhatItDoesNotKnow(t *testing.T) {
	_, err := proxy.ParseRetryOn([]string{"reset", "50x", "200", "gone"})
	if err == nil || strings.Count(err.Error(), "is not known") != 3 {
		t.Errorf("got %v", err)
	}
}

// A connection that its endpoint has closed while it was idle costs a
// request nothing, without any retry being allowed.
func TestStaleConnections(t *testing.T) {
	for _, method := range []string{"GET", "POST"} {
		t.Run(method, func(t *testing.T) {
			var conns atomic.Int32
			closed := make(chan struct{}, 1)
			up := raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
				conns.Add(1)
				readHead(r)
				io.WriteString(c, ok)
				c.Close()
				closed <- struct{}{}
			})
			g := start(t, proxy.Settings{}, up)
			for i := range 5 {
				_, r := dial(t, g.addr, "%s / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n", method)
				if head := readHead(r); !strings.HasPrefix(head, "HTTP/1.1 200") {
					t.Fatalf("request %d: %q", i, head)
				}
				<-closed
			}
			if n := conns.Load(); n != 5 {
				t.Errorf("%d connections", n)
			}
			if n := len(g.tried()); n != 5 {
				t.Errorf("%d tries counted", n)
			}
		})
	}
}

// An endpoint that takes a second request on a connection and closes it
// without an answer: most likely it was closing it anyway.
func TestConnectionClosedUnderTheRequest(t *testing.T) {
	up := raw(t, func(n int, c net.Conn, r *bufio.Reader) {
		readHead(r)
		io.WriteString(c, ok)
		if n == 0 {
			readHead(r)
			return
		}
		readHead(r)
	})
	g := start(t, proxy.Settings{}, up)
	get(t, g.addr, "/")
	if got := get(t, g.addr, "/"); !strings.HasPrefix(got, "HTTP/1.1 200") {
		t.Fatalf("got %q", got)
	}
	if f := g.await(t, 2); f.upstream.Attempts != 1 {
		t.Errorf("%d attempts", f.upstream.Attempts)
	}
}

func TestRetryBudget(t *testing.T) {
	const all, least = 40, 3
	var g *gateway
	var asked atomic.Int32
	failing := handle(t, func(w http.ResponseWriter, _ *http.Request) {
		// All fail at the same time, and no retry ends before every other was denied.
		if asked.Add(1) <= all {
			eventually(t, "all have come", func() bool { return asked.Load() >= all })
		} else {
			eventually(t, "all others are denied", func() bool { return g.denied.Load() >= all-least })
		}
		w.WriteHeader(503)
	})
	s := proxy.Settings{Backends: backends(t, failing)}
	s.Retries = proxy.RetrySettings{Attempts: 1, On: retryOn(t, "503"), BudgetPercent: 1, Backoff: time.Millisecond}
	g = start(t, s)
	var wg sync.WaitGroup
	for range all {
		wg.Go(func() { get(t, g.addr, "/") })
	}
	wg.Wait()
	retries := 0
	for _, try := range g.tried() {
		if try.Number > 1 {
			retries++
		}
	}
	if n := int(g.denied.Load()); retries != least || n != all-least {
		t.Errorf("%d retries, %d denied", retries, n)
	}
}

// What never reached an endpoint needs no budget to be sent to another.
func TestUnsentRequestsNeedNoBudget(t *testing.T) {
	up := newUpstream(t, upstream.Settings{}, refusing(t), answering(t, ok))
	s := proxy.Settings{Backends: []proxy.Backend{{Upstream: up, Weight: 1}}}
	s.Retries = proxy.RetrySettings{Attempts: 1, On: retryOn(t), BudgetPercent: 1, Backoff: 50 * time.Millisecond}
	g := start(t, s)
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			if got := get(t, g.addr, "/"); !strings.HasPrefix(got, "HTTP/1.1 200") {
				t.Errorf("got %q", got)
			}
		})
	}
	wg.Wait()
	if n := g.denied.Load(); n != 0 {
		t.Errorf("%d retries denied", n)
	}
}

// With all of the budget, everything may be tried again at once, although
// nothing is with an endpoint while it waits for that.
func TestWholeBudgetAllowsEverything(t *testing.T) {
	var n atomic.Int32
	up := handle(t, func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) <= 20 {
			w.WriteHeader(503)
		}
	})
	s := proxy.Settings{Backends: backends(t, up)}
	s.Retries = proxy.RetrySettings{Attempts: 20, On: retryOn(t, "503"), BudgetPercent: 100, Backoff: time.Millisecond}
	g := start(t, s)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if got := get(t, g.addr, "/"); !strings.HasPrefix(got, "HTTP/1.1 200") {
				t.Errorf("got %q", got)
			}
		})
	}
	wg.Wait()
}

func TestPerTryAndRequestTimeouts(t *testing.T) {
	hanging := hanging(t)
	for _, tc := range []struct {
		name     string
		timeouts proxy.Timeouts
		want     *reason.Reason
		at       time.Duration
	}{
		{"per try", proxy.Timeouts{PerTry: 80 * time.Millisecond, Request: time.Minute}, reason.UpstreamTimeout, 80 * time.Millisecond},
		{"request", proxy.Timeouts{Request: 80 * time.Millisecond}, reason.RequestTimeout, 80 * time.Millisecond},
		{"idle", proxy.Timeouts{Idle: 80 * time.Millisecond}, reason.UpstreamTimeout, 80 * time.Millisecond},
		{"long request", proxy.Timeouts{Request: 1100 * time.Millisecond}, reason.RequestTimeout, 1100 * time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := start(t, proxy.Settings{Timeouts: tc.timeouts}, hanging)
			began := time.Now()
			got := get(t, g.addr, "/")
			took := time.Since(began)
			if !strings.HasPrefix(got, fmt.Sprint("HTTP/1.1 ", tc.want.Status)) {
				t.Fatalf("got %q", got)
			}
			if f := g.await(t, 1); f.refusal == nil || f.refusal.Reason != tc.want {
				t.Errorf("refusal %v", f.refusal)
			}
			if took < tc.at {
				t.Errorf("after %v, too early", took)
			}
		})
	}
}

func TestUpstreamWithoutEndpointsAndOverLimits(t *testing.T) {
	up := newUpstream(t, upstream.Settings{Breaker: upstream.BreakerSettings{MaxConnections: 1, MaxPending: 1, MaxRequests: 10}}, hanging(t))
	b := up.Breaker()
	patient := proxy.Settings{Backends: []proxy.Backend{{Upstream: up, Weight: 1}}}
	hasty := patient
	hasty.Timeouts.Request = 100 * time.Millisecond
	refused := func(g *gateway, n int, want *reason.Reason) {
		t.Helper()
		if f := g.await(t, n); f.refusal == nil || f.refusal.Reason != want {
			t.Errorf("refusal %v, want %s", f.refusal, want.Name)
		}
	}
	// One holds the connection, one waits for it in vain or is too many.
	g, h := start(t, patient), start(t, hasty)
	holds, _ := dial(t, g.addr, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	eventually(t, "one holds the connection", func() bool { return b.Connections() == 1 && b.Pending() == 0 && b.Requests() == 1 })
	get(t, h.addr, "/")
	refused(h, 1, reason.RequestTimeout)
	waits, _ := dial(t, g.addr, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	eventually(t, "one waits for the connection", func() bool { return b.Pending() == 1 })
	third := start(t, patient)
	get(t, third.addr, "/")
	refused(third, 1, reason.UpstreamOverflow)
	waits.Close()
	refused(g, 1, reason.ClientGone)
	holds.Close()
	refused(g, 2, reason.ClientGone)
	get(t, h.addr, "/")
	refused(h, 2, reason.RequestTimeout)
	if n := b.Connections(); n != 0 {
		t.Errorf("%d connections left", n)
	}
	if n := b.Pending(); n != 0 {
		t.Errorf("%d pending left", n)
	}
}

func TestWaitingForAConnection(t *testing.T) {
	up := newUpstream(t, upstream.Settings{Breaker: upstream.BreakerSettings{MaxConnections: 2, MaxPending: 100, MaxRequests: 100}},
		handle(t, func(w http.ResponseWriter, r *http.Request) { time.Sleep(2 * time.Millisecond) }),
		handle(t, func(w http.ResponseWriter, r *http.Request) { time.Sleep(2 * time.Millisecond) }))
	g := start(t, proxy.Settings{Backends: []proxy.Backend{{Upstream: up, Weight: 1}}})
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			if got := get(t, g.addr, "/"); !strings.HasPrefix(got, "HTTP/1.1 200") {
				t.Errorf("got %q", got)
			}
		})
	}
	wg.Wait()
}
