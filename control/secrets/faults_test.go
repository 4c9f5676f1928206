package secrets_test

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store/redis/redistest"
)

// hold keeps the first order just before its end, where held is closed, until
// release is called.
func (w *town) hold() (held <-chan struct{}, release func()) {
	w.t.Helper()
	there, open, first := make(chan struct{}), make(chan struct{}), sync.Once{}
	release = sync.OnceFunc(func() { close(open) })
	w.t.Cleanup(release)
	w.ca.Filter(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/finalize-order") {
			first.Do(func() {
				close(there)
				select {
				case <-open:
				case <-r.Context().Done():
				}
			})
		}
		return false
	})
	return there, release
}

// ordering has two nodes want a certificate, of which the first is in the middle
// of its order, with its challenges behind it, and the second waits for it.
func (w *town) ordering() (a, b *node, release func()) {
	w.t.Helper()
	a, b = w.join(options{}), w.join(options{})
	w.ca.Reach(b.web, b.secure)
	held, release := w.hold()
	a.source.Live()
	eventually(w.t, "the first has the lock", func() error {
		if len(w.entries(a, "order-locks")) == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	eventually(w.t, "the first orders", func() error {
		if w.ca.Orders() == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	b.source.Live()
	eventually(w.t, "it is known who orders", func() error {
		for _, n := range []*node{a, b} {
			if s := n.shared.Status(); len(s.Orders) != 1 || s.Orders[0].Node != "n0" || !strings.HasPrefix(s.Orders[0].Name, "certificate-shop-") {
				return errors.New("not yet")
			}
		}
		select {
		case <-held:
			return nil
		default:
			return errors.New("nobody is about to end an order")
		}
	})
	return a, b, release
}

// locked waits until the first node, which is n, has put its lock back.
func (w *town) locked(n *node) {
	w.t.Helper()
	eventually(w.t, "the first has the lock again", func() error {
		for _, lock := range w.entries(n, "order-locks") {
			if strings.Contains(string(lock), `"n0"`) {
				return nil
			}
		}
		return errors.New("not yet")
	})
}

// back waits until the store has everything again.
func (w *town) back(n *node) {
	w.t.Helper()
	eventually(w.t, "it is all put back", func() error {
		var have []string
		for name := range w.entries(n, "secrets") {
			kind, _, _ := strings.Cut(name, "-")
			have = append(have, kind)
		}
		for _, kind := range []string{"key", "version", "account", "certificate"} {
			if !strings.Contains(strings.Join(have, " "), kind) {
				return errors.New("no " + kind)
			}
		}
		return nil
	})
}

func TestRedisIsEmptiedInTheMiddle(t *testing.T) {
	t.Parallel()
	w := newTown(t, redistest.Start(t))
	a, b, release := w.ordering()
	w.redis.Do(t, "FLUSHALL")
	w.locked(a)
	time.Sleep(time.Second) // for what must not happen: the second takes it
	release()
	leaf := w.has(a, b)
	w.orders(1)
	w.back(a)
	w.redis.Do(t, "FLUSHALL")
	w.back(b)
	c := w.join(options{})
	if x := c.source.Current(); x == nil || !x.Leaf.Equal(leaf) {
		t.Error("what the nodes have put back is something else")
	}
	w.orders(1)
}

func TestRedisIsKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	w := newTown(t, redistest.Start(t))
	a, b, release := w.ordering()
	w.redis.Kill(t)
	b.says("the store is away")
	w.redis.Run(t) // empty; whether the first has seen it away too depends on when it asked
	b.says("the store answers again")
	w.locked(a)
	release()
	w.has(a, b)
	w.orders(1)
	w.back(a)
	eventually(t, "all is well", func() error {
		for _, n := range w.nodes {
			if s := n.source.Stats(); s.Fault != "" || n.shared.Status().Error != "" {
				return errors.New(s.Fault)
			}
		}
		return nil
	})
}

// A lock that cannot be renewed is as good as lost: the order is given up, and
// whoever comes first after that orders again.
func TestRedisHangsInTheMiddle(t *testing.T) {
	t.Parallel()
	w := newTown(t, redistest.Start(t))
	w.lease, w.hangs = 10*time.Second, 4*time.Second
	a, b, release := w.ordering()
	w.redis.Pause(t)
	a.says("a lock could not be renewed in time; its order is given up")
	if a.source.Current() != nil || b.source.Current() != nil {
		t.Error("a certificate from nowhere")
	}
	release()
	w.redis.Resume(t)
	w.has(a, b)
	orders := w.ca.Orders()
	if orders < 2 {
		t.Error("an order was finished without its lock")
	}
	w.has(a, b)
	w.orders(orders)
}
