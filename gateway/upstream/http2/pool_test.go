package http2_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	frames "golang.org/x/net/http2"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http2"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

// hold is a server whose requests wait until they are let go.
func hold(t testing.TB, streams int) (address string, inside *atomic.Int32, letGo func()) {
	open := make(chan struct{})
	inside = new(atomic.Int32)
	address = serveConfig(t, &http.HTTP2Config{MaxConcurrentStreams: streams}, func(_ http.ResponseWriter, r *http.Request) {
		inside.Add(1)
		defer inside.Add(-1)
		select {
		case <-open:
		case <-r.Context().Done():
		}
	})
	var once sync.Once
	letGo = func() { once.Do(func() { close(open) }) }
	t.Cleanup(letGo)
	return address, inside, letGo
}

func TestOneConnectionForManyRequests(t *testing.T) {
	addr, inside, letGo := hold(t, 250)
	p := newPool(t, http2.Settings{}, addr)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if r := do(p, newCall()); r.err != nil || r.status != 200 {
				t.Errorf("%+v", r)
			}
		})
	}
	if !eventually(func() bool { return inside.Load() == 100 }) {
		t.Errorf("%d requests are with the endpoint", inside.Load())
	}
	letGo()
	wg.Wait()
	if open, connects, _ := p.Counts(); open != 1 || connects != 1 {
		t.Errorf("%d connections, %d made", open, connects)
	}
}

func TestStreamsUsedUpMeansAnotherConnection(t *testing.T) {
	addr, inside, letGo := hold(t, 10)
	p := newPool(t, http2.Settings{}, addr)
	var wg sync.WaitGroup
	for range 35 {
		wg.Go(func() {
			if r := do(p, newCall()); r.err != nil || r.status != 200 {
				t.Errorf("%+v", r)
			}
		})
	}
	if !eventually(func() bool { return inside.Load() == 35 }) {
		t.Errorf("%d requests are with the endpoint", inside.Load())
	}
	if open, _, _ := p.Counts(); open != 4 {
		t.Errorf("%d connections", open)
	}
	letGo()
	wg.Wait()
}

func TestLimitsAreTheUpstreams(t *testing.T) {
	addr, inside, letGo := hold(t, 2)
	b := upstream.NewBreaker(upstream.BreakerSettings{MaxConnections: 2, MaxRequests: 100, MaxPending: 3, MaxRetries: 1})
	p := newPool(t, http2.Settings{Limiter: b}, addr)
	var wg sync.WaitGroup
	var served atomic.Int32
	ask := func(call *transport.Call) {
		wg.Go(func() {
			if r := do(p, call); r.err != nil {
				t.Errorf("%+v", r)
			}
			served.Add(1)
		})
	}
	for range 4 {
		ask(newCall())
	}
	if !eventually(func() bool { return inside.Load() == 4 }) {
		t.Fatalf("%d requests are with the endpoint", inside.Load())
	}
	if b.Connections() != 2 || b.Pending() != 0 {
		t.Errorf("%d connections, %d wait", b.Connections(), b.Pending())
	}
	for range 3 {
		ask(newCall())
	}
	if !eventually(func() bool { return b.Pending() == 3 }) {
		t.Errorf("%d wait", b.Pending())
	}
	if f := failure(t, do(p, newCall()).err); f.Reason != reason.UpstreamOverflow || !f.Unsent {
		t.Errorf("one too many: %+v", f)
	}
	letGo()
	wg.Wait()
	if served.Load() != 7 || b.Pending() != 0 {
		t.Errorf("%d were served, %d wait", served.Load(), b.Pending())
	}
	p.Close()
	if !eventually(func() bool { return b.Connections() == 0 }) {
		t.Errorf("%d connections are counted after Close", b.Connections())
	}
}

func TestWaitEndsWithTheClientOrTheDeadline(t *testing.T) {
	addr, inside, _ := hold(t, 1)
	b := upstream.NewBreaker(upstream.BreakerSettings{MaxConnections: 1, MaxRequests: 100, MaxPending: 10, MaxRetries: 1})
	p := newPool(t, http2.Settings{Limiter: b}, addr)
	first := newClient()
	var wg sync.WaitGroup
	wg.Go(func() { do(p, &transport.Call{Head: head("GET /"), Front: first, Watch: first}) })
	eventually(func() bool { return inside.Load() == 1 })

	r := do(p, &transport.Call{Head: head("GET /"), Deadline: time.Now().Add(30 * time.Millisecond)})
	if f := failure(t, r.err); f.Reason != reason.UpstreamTimeout || !f.Unsent {
		t.Errorf("%+v", f)
	}
	front := newClient()
	wg.Go(func() {
		r := do(p, &transport.Call{Head: head("GET /"), Front: front, Watch: front})
		if f := failure(t, r.err); f.Reason != reason.ClientGone || !f.Unsent {
			t.Errorf("%+v", f)
		}
	})
	eventually(func() bool { return b.Pending() == 1 })
	front.leave()
	if !eventually(func() bool { return b.Pending() == 0 }) {
		t.Error("it still waits")
	}
	first.leave()
	wg.Wait()
}

func TestIdleConnectionMakesRoomForAnotherEndpoint(t *testing.T) {
	b := upstream.NewBreaker(upstream.BreakerSettings{MaxConnections: 1, MaxRequests: 100, MaxPending: 10, MaxRetries: 1})
	m := http2.NewManager()
	ok := func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "x") }
	one := newPool(t, http2.Settings{Limiter: b, Manager: m}, serve(t, ok))
	two := newPool(t, http2.Settings{Limiter: b, Manager: m}, serve(t, ok))
	for i := range 10 {
		p := []*http2.Pool{one, two}[i%2]
		r := do(p, &transport.Call{Head: head("GET /"), Deadline: time.Now().Add(time.Minute)})
		if r.err != nil || r.body != "x" {
			t.Fatalf("%+v", r)
		}
	}
}

func TestGoAwayMeansAnotherConnection(t *testing.T) {
	addr := endpoints(t, each(func(e *endpoint, v event) {
		if v.stream == 3 {
			e.goAway(3, 0) // what has begun goes on
		}
		e.headers(v.stream, false, ":status", "200")
		time.Sleep(5 * time.Millisecond)
		e.data(v.stream, true, "x")
	}))
	p := newPool(t, http2.Settings{}, addr)
	for range 10 {
		if r := do(p, newCall()); r.err != nil || r.body != "x" {
			t.Fatalf("%+v", r)
		}
	}
	if !eventually(func() bool { open, connects, _ := p.Counts(); return open <= 1 && connects == 5 }) {
		open, connects, _ := p.Counts()
		t.Errorf("%d connections, %d made", open, connects)
	}
}

func TestIdleConnectionsGo(t *testing.T) {
	ok := func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "x") }
	for name, s := range map[string]http2.Settings{
		"after a while": {IdleTimeout: 50 * time.Millisecond},
		"at once":       {KeepNone: true},
	} {
		p := newPool(t, s, serve(t, ok))
		if r := do(p, newCall()); r.err != nil {
			t.Fatal(r.err)
		}
		if !eventually(func() bool { open, _, _ := p.Counts(); return open == 0 }) {
			t.Errorf("%s: it stays", name)
		}
		if r := do(p, newCall()); r.err != nil || r.reused {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// tardy is a connection on which nothing is heard for a while.
type tardy struct {
	net.Conn
	wait sync.Once
	d    time.Duration
}

func (c *tardy) Read(p []byte) (int, error) {
	c.wait.Do(func() { time.Sleep(c.d) })
	return c.Conn.Read(p)
}

// A connection is not idle before it can be used.
func TestSettingsMayTakeLongerThanTheIdleTime(t *testing.T) {
	const idle = 20 * time.Millisecond
	p := newPool(t, http2.Settings{IdleTimeout: idle, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		var d net.Dialer
		nc, err := d.DialContext(ctx, network, address)
		return &tardy{Conn: nc, d: 5 * idle}, err
	}}, serve(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "x") }))
	if r := do(p, newCall()); r.err != nil || r.body != "x" {
		t.Errorf("%+v", r)
	}
}

func TestClosedPoolServesOnAndKeepsNothing(t *testing.T) {
	addr, inside, letGo := hold(t, 10)
	p := newPool(t, http2.Settings{}, addr)
	var wg sync.WaitGroup
	wg.Go(func() {
		if r := do(p, newCall()); r.err != nil || r.status != 200 {
			t.Errorf("%+v", r)
		}
	})
	eventually(func() bool { return inside.Load() == 1 })
	p.Close()
	p.Close()
	letGo()
	wg.Wait()
	if r := do(p, newCall()); r.err != nil {
		t.Errorf("%+v", r)
	}
	if !eventually(func() bool { open, _, _ := p.Counts(); return open == 0 }) {
		t.Error("a connection was kept")
	}
}

func TestManagerClosesBusyConnections(t *testing.T) {
	addr, inside, _ := hold(t, 10)
	m := http2.NewManager()
	p := newPool(t, http2.Settings{Manager: m}, addr)
	done := make(chan error, 1)
	go func() { done <- do(p, newCall()).err }()
	eventually(func() bool { return inside.Load() == 1 })
	m.Close()
	if f := failure(t, <-done); f.Reason != reason.UpstreamReset {
		t.Errorf("%+v", f)
	}
}

// Streams that come and go at once, are cancelled, refused and cut.
func TestStorm(t *testing.T) {
	addr := endpoints(t, each(func(e *endpoint, v event) {
		switch v.stream % 14 {
		case 1:
			e.reset(v.stream, frames.ErrCodeRefusedStream)
		case 3:
			e.goAway(v.stream, 0)
			fallthrough
		default:
			e.headers(v.stream, false, ":status", "200")
			e.data(v.stream, true, "x")
		case 7: // never answered
		}
	}), frames.Setting{ID: frames.SettingMaxConcurrentStreams, Val: 5})
	b := upstream.NewBreaker(upstream.BreakerSettings{MaxConnections: 4, MaxRequests: 100, MaxPending: 100, MaxRetries: 1})
	p := newPool(t, http2.Settings{Limiter: b}, addr)
	var wg sync.WaitGroup
	var ok, failed atomic.Int32
	for range 16 {
		wg.Go(func() {
			for i := range 40 {
				front := newClient()
				call := &transport.Call{Head: head("GET /"), Front: front, Watch: front, Deadline: time.Now().Add(40 * time.Millisecond)}
				if i%5 == 0 {
					time.AfterFunc(time.Millisecond, front.leave)
				}
				if do(p, call).err == nil {
					ok.Add(1)
				} else {
					failed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if ok.Load() == 0 || ok.Load()+failed.Load() != 16*40 {
		t.Errorf("%d replies, %d failures", ok.Load(), failed.Load())
	}
	if b.Pending() != 0 {
		t.Errorf("%d wait", b.Pending())
	}
	p.Close()
	if !eventually(func() bool { return b.Connections() == 0 }) {
		open, _, _ := p.Counts()
		t.Errorf("%d connections are counted, %d open", b.Connections(), open)
	}
}

// An endpoint that ends every connection at once is not dialed for ever.
func TestEndpointThatTakesNobodyIsNoEndpoint(t *testing.T) {
	var dials atomic.Int32
	addr := endpoints(t, func(e *endpoint, _ <-chan event) {
		dials.Add(1)
		e.goAway(0, 0)
		e.nc.Close()
	})
	p := newPool(t, http2.Settings{}, addr)
	for range 20 {
		if r := do(p, &transport.Call{Head: head("GET /"), Deadline: time.Now().Add(20 * time.Second)}); r.err == nil || errors.Is(r.err, reason.UpstreamTimeout) {
			t.Errorf("%+v", r)
		}
	}
	// A connection that ended before its request could be sent is dialed once more.
	if n := dials.Load(); n > 100 {
		t.Errorf("%d connections for 20 requests", n)
	}
}
