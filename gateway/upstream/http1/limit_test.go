package http1_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http1"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

// limiter counts like an upstream's breaker.
type limiter struct {
	maxOpen, maxPending int64
	open, pending, peak atomic.Int64
}

func (l *limiter) TryConnection() bool {
	n := l.open.Add(1)
	if n > l.maxOpen {
		l.open.Add(-1)
		return false
	}
	for p := l.peak.Load(); n > p && !l.peak.CompareAndSwap(p, n); p = l.peak.Load() {
	}
	return true
}
func (l *limiter) ReleaseConnection() { l.open.Add(-1) }
func (l *limiter) TryPending() bool {
	if l.pending.Add(1) > l.maxPending {
		l.pending.Add(-1)
		return false
	}
	return true
}
func (l *limiter) ReleasePending() { l.pending.Add(-1) }

// Many requests over few connections to two endpoints: each gets its turn, the
// limit holds, nothing is left behind, whatever order things happen in.
func TestLimitIsSharedAndFair(t *testing.T) {
	exact(t, testFairness)
}

func testFairness(t *testing.T, s http1.Settings) {
	l := &limiter{maxOpen: 3, maxPending: 1000}
	s.Manager, s.Limiter = http1.NewManager(), l
	a, b := newPool(t, s, plain(t)), newPool(t, s, plain(t))
	var wg sync.WaitGroup
	var failed atomic.Int32
	for i := range 200 {
		p := a
		if i%3 == 0 {
			p = b
		}
		wg.Go(func() {
			for range 5 {
				call := newCall()
				call.Deadline = time.Now().Add(time.Minute)
				_, _, err := do(p, call)
				var f *transport.Failure
				if errors.As(err, &f) && f.Stale {
					continue
				}
				if err != nil {
					failed.Add(1)
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if l.peak.Load() > 3 || l.pending.Load() != 0 {
		t.Errorf("%d connections at once, %d pending left", l.peak.Load(), l.pending.Load())
	}
	a.Close()
	b.Close()
	if n := l.open.Load(); n != 0 {
		t.Errorf("%d places are left", n)
	}
}

func TestOverflow(t *testing.T) {
	l := &limiter{maxOpen: 1, maxPending: 0}
	p := newPool(t, http1.Settings{Limiter: l}, server(t, func(_ int, _ net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) }))
	held, err := p.Get(newCall(), false)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Get(newCall(), false)
	if f := failure(t, err); f.Reason != reason.UpstreamOverflow {
		t.Errorf("%+v", f)
	}
	l.maxPending = 1
	call := newCall()
	call.Deadline = time.Now().Add(30 * time.Millisecond)
	_, err = p.Get(call, false)
	if f := failure(t, err); f.Reason != reason.UpstreamTimeout {
		t.Errorf("%+v", f)
	}
	call = newCall()
	call.Deadline = time.Now().Add(10 * time.Millisecond)
	if err := held.Do(call); err == nil {
		t.Error("an answer from nobody")
	}
	if l.open.Load() != 0 || l.pending.Load() != 0 {
		t.Errorf("%d open, %d pending are left", l.open.Load(), l.pending.Load())
	}
}

func TestPoolIsBounded(t *testing.T) {
	release := make(chan struct{})
	p := newPool(t, http1.Settings{MaxIdle: 2}, server(t, func(_ int, c net.Conn, r *bufio.Reader) {
		for readHead(r) {
			<-release
			io.WriteString(c, ok)
		}
	}))
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if _, _, err := do(p, newCall()); err != nil {
				t.Error(err)
			}
		})
	}
	waitFor(t, "six connections", func() bool { return p.Stats().Open == 6 })
	close(release)
	wg.Wait()
	if s := p.Stats(); s.Open != 2 || s.Idle != 2 {
		t.Errorf("%+v", s)
	}
}
