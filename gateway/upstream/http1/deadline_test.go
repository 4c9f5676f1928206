package http1_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http1"
)

// gone is a Watcher whose client goes away when told so.
type gone struct {
	mu sync.Mutex
	a  exchange.Aborter
}

func (g *gone) OnGone(a exchange.Aborter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.a = a
}

func (g *gone) leave() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.a == nil {
		return false
	}
	g.a.Abort()
	g.a = nil
	return true
}

func TestAbort(t *testing.T) {
	each(t, func(t *testing.T, s http1.Settings) {
		p := newPool(t, s, server(t, func(_ int, _ net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) }))
		best := time.Hour
		for range 100 {
			g := &gone{}
			call := newCall()
			call.Watch = g
			ended := make(chan error, 1)
			go func() {
				_, _, err := do(p, call)
				ended <- err
			}()
			time.Sleep(20 * time.Millisecond)
			began := time.Now()
			waitFor(t, "somebody to tell", g.leave)
			err := <-ended
			best = min(best, time.Since(began))
			if f := failure(t, err); f.Reason != reason.ClientGone {
				t.Fatalf("%+v", f)
			}
			if best <= 5*time.Millisecond { // about 50 µs on a quiet machine
				break
			}
		}
		t.Logf("seen after %v", best)
		if best > 5*time.Millisecond {
			t.Errorf("an abort took %v at best", best)
		}
	})
}

// blackhole is an address that takes connections only into its queue; the
// dialer below never comes back by itself.
func TestAbortWhileConnecting(t *testing.T) {
	s := http1.Settings{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	p := newPool(t, s, "192.0.2.1:1")
	g := &gone{}
	call := newCall()
	call.Watch = g
	ended := make(chan error, 1)
	go func() {
		_, err := p.Get(call, false)
		ended <- err
	}()
	waitFor(t, "the dial to begin", g.leave)
	if f := failure(t, <-ended); f.Reason != reason.ClientGone || !f.Unsent {
		t.Errorf("%+v", f)
	}
	call = newCall()
	call.Deadline = time.Now().Add(20 * time.Millisecond)
	_, err := p.Get(call, false)
	if f := failure(t, err); f.Reason != reason.UpstreamTimeout {
		t.Errorf("%+v", f)
	}
	s.DialTimeout = 20 * time.Millisecond
	_, err = newPool(t, s, "192.0.2.1:1").Get(newCall(), false)
	if f := failure(t, err); f.Reason != reason.UpstreamConnect || !f.Unsent {
		t.Errorf("%+v", f)
	}
}

// Want of descriptors is not the endpoint's fault, and no other would do better.
func TestOutOfDescriptors(t *testing.T) {
	s := http1.Settings{Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}
	}}
	p := newPool(t, s, "192.0.2.1:1")
	_, err := p.Get(newCall(), false)
	if f := failure(t, err); f.Reason != reason.Overloaded || !f.Unsent || !errors.Is(f, syscall.EMFILE) {
		t.Errorf("%+v", f)
	}
	if _, _, failures := p.Counts(); failures != 0 {
		t.Errorf("%d failures of the endpoint counted", failures)
	}
}

func TestTimeouts(t *testing.T) {
	for _, tc := range []struct {
		name     string
		deadline time.Duration
		idle     time.Duration
		want     time.Duration
	}{
		{"short deadline", 50 * time.Millisecond, time.Minute, 50 * time.Millisecond},
		{"long deadline", 1200 * time.Millisecond, 0, 1200 * time.Millisecond},
		{"short idle", 0, 50 * time.Millisecond, 50 * time.Millisecond},
		{"long idle", time.Minute, 1200 * time.Millisecond, 1200 * time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, s http1.Settings) {
				p := newPool(t, s, server(t, func(_ int, _ net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) }))
				call := newCall()
				call.Idle = tc.idle
				began := time.Now()
				if tc.deadline > 0 {
					call.Deadline = began.Add(tc.deadline)
				}
				_, _, err := do(p, call)
				took := time.Since(began)
				if f := failure(t, err); f.Reason != reason.UpstreamTimeout {
					t.Fatalf("%+v", f)
				}
				if took < tc.want-5*time.Millisecond || took > tc.want+20*time.Second {
					t.Errorf("after %v", took)
				}
			})
		})
	}
}

// A reply that keeps coming is not idle, and a deadline of an earlier request
// never hits a later one on the same connection.
func TestDeadlinesOfOneRequestOnly(t *testing.T) {
	each(t, func(t *testing.T, s http1.Settings) {
		stretched(t, 200*time.Millisecond, func(pause time.Duration) error { return testDeadlines(t, s, pause) })
	})
}

func testDeadlines(t *testing.T, s http1.Settings, pause time.Duration) error {
	p := newPool(t, s, server(t, func(_ int, c net.Conn, r *bufio.Reader) {
		for i := 0; readHead(r); i++ {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
			for range 6 {
				if i == 1 { // longer in all than it may be idle, and than the deadline before
					time.Sleep(pause)
				}
				io.WriteString(c, "x")
			}
		}
	}))
	for i := range 3 {
		call := newCall()
		call.Idle = 5 * pause
		if i == 0 {
			call.Deadline = time.Now().Add(5 * pause)
		}
		if body, _, err := do(p, call); err != nil || body != "xxxxxx" {
			return fmt.Errorf("request %d: %q, %w", i, body, err)
		}
	}
	if s := p.Stats(); s.Open != 1 {
		return fmt.Errorf("%+v", s)
	}
	return nil
}
