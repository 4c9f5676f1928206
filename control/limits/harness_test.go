package limits

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/control/store/local"
	"github.com/gatehouse-proxy/gatehouse/ratelimit"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// fake is a store that is as slow and as broken as a test wants.
type fake struct {
	store.Limits
	delay  atomic.Int64
	broken atomic.Bool
	calls  atomic.Int64
	takes  atomic.Int64
}

var errBroken = errors.New("broken")

func (f *fake) wait(ctx context.Context) error {
	f.calls.Add(1)
	select {
	case <-time.After(time.Duration(f.delay.Load())):
	case <-ctx.Done():
		return ctx.Err()
	}
	if f.broken.Load() {
		return errBroken
	}
	return nil
}

func (f *fake) Take(ctx context.Context, q []store.Take) ([]store.Taken, error) {
	f.takes.Add(int64(len(q)))
	if err := f.wait(ctx); err != nil {
		return nil, err
	}
	return f.Limits.Take(ctx, q)
}

func (f *fake) Count(ctx context.Context, q []store.Count) ([]store.Counted, error) {
	if err := f.wait(ctx); err != nil {
		return nil, err
	}
	return f.Limits.Count(ctx, q)
}

func (f *fake) Hold(ctx context.Context, q []store.Hold) ([]store.Held, error) {
	if err := f.wait(ctx); err != nil {
		return nil, err
	}
	return f.Limits.Hold(ctx, q)
}

// newFake must be called outside of a bubble's time where its file is used.
func newFake(t testing.TB) *fake {
	s := local.New(t.TempDir())
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &fake{Limits: s}
}

// node starts a node's part in the limits of a store; the caller closes it.
func node(s store.Limits, live *atomic.Int64, deadline time.Duration) *Limits {
	n := New(Settings{
		Store: s, Deadline: deadline, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Live: func() int {
			if live == nil {
				return 1
			}
			return int(live.Load())
		},
	})
	n.Start(context.Background())
	return n
}

func limiter(t testing.TB, n *Limits, s ratelimit.SharedSettings) ratelimit.Limiter {
	t.Helper()
	if s.Name == "" {
		s.Name = t.Name()
	}
	l, err := n.Limiter(s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func per(limit, burst int64, per time.Duration) []ratelimit.Window {
	return []ratelimit.Window{{Limit: limit, Per: per, Burst: burst}}
}

// noon is a place where it is noon: no test of quotas sees the end of a day there.
func noon() *time.Location {
	day := time.Since(time.Now().UTC().Truncate(24 * time.Hour))
	return time.FixedZone("noon", int((12*time.Hour-day)/time.Second))
}

func take(t testing.TB, l ratelimit.Limiter, key string, cost uint32) (d ratelimit.Decision) {
	t.Helper()
	if err := l.Take([]byte(key), cost, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

// together runs f so often on each node at once.
func together(nodes, times int, f func(node int)) {
	var wg sync.WaitGroup
	for i := range nodes {
		for range 4 {
			wg.Go(func() {
				for range times / 4 {
					f(i)
				}
			})
		}
	}
	wg.Wait()
}
