package fleet_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/control/fleet"
	"github.com/gatehouse-proxy/gatehouse/control/revision"
	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis/redistest"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

// The library notices up to a second after Close that nobody wants a server back.
func TestMain(m *testing.M) {
	leak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

// member is a node as far as this package sees one: a config is one file, and
// making it live is remembering its text. Texts with "!NAME" cannot be built on
// the node of that name, those with "?" can be parsed nowhere.
type member struct {
	*fleet.Follower
	*fleet.Publisher
	t     *testing.T
	name  string
	dir   string
	store store.Store
	key   *revision.Key
	log   *logbook

	metrics *metrics.Metrics

	tries  atomic.Int64 // to make a config live
	mended atomic.Bool  // "!NAME" can be built after all
	broken atomic.Bool  // what is live does not work as a whole

	mu   sync.Mutex
	live []string
}

type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (l *logbook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// String is what was logged so far.
func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

type options struct {
	dir     string
	gateway bool // no control role
	trusted revision.Keyring
	broken  bool // the first config may be broken in part
	poll    time.Duration
	ahead   time.Duration // of the node's clock
	keep    uint64        // revisions
	version string
}

// often is how often nodes ask a real Redis in tests.
const often = 50 * time.Millisecond

func parse(files []config.File) (*config.Config, *config.Source, error) {
	if bytes.Contains(files[0].Data, []byte("?")) {
		return nil, nil, errors.New("cannot be parsed")
	}
	return &config.Config{}, &config.Source{Files: files}, nil
}

// join makes a member and starts it.
func join(t *testing.T, name string, s store.Store, o options) *member {
	t.Helper()
	if o.dir == "" {
		o.dir = t.TempDir()
	}
	m := &member{t: t, name: name, dir: o.dir, store: s, log: &logbook{}, metrics: metrics.New(metrics.Settings{})}
	ring, role := o.trusted, "gateway"
	if !o.gateway {
		key, _, err := revision.LoadOrCreateKey(filepath.Join(o.dir, "control.key"))
		if err != nil {
			t.Fatal(err)
		}
		m.key, ring, role = key, append(ring, key.Public()), "control"
	}
	log := slog.New(slog.NewTextHandler(m.log, nil))
	var err error
	m.Follower, err = fleet.New(fleet.Settings{
		Store: s, Trusted: ring, Control: !o.gateway, Dir: o.dir,
		Self: fleet.Member{Node: name, Role: role, Version: cmp.Or(o.version, "v1")}, Parse: parse,
		Metrics: m.metrics, Log: log, Incomplete: m.broken.Load, Poll: o.poll,
		Now: func() time.Time { return time.Now().Add(o.ahead) },
	})
	if err != nil {
		t.Fatal(err)
	}
	m.broken.Store(o.broken)
	m.Publisher = fleet.NewPublisher(fleet.PublisherSettings{
		Store: s, Key: m.key, Follower: m.Follower, Parse: parse, Log: log, Keep: o.keep,
		Check: func(context.Context, *config.Config, *config.Source) error { return nil },
	})
	m.Begin(t.Context())
	m.Start(t.Context(), m.take)
	t.Cleanup(m.leave)
	return m
}

func (m *member) scrape() string {
	w := httptest.NewRecorder()
	m.metrics.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return w.Body.String()
}

// leave ends a member; twice is allowed.
func (m *member) leave() {
	m.Publisher.Close()
	m.Follower.Close()
	if m.t.Failed() {
		m.t.Logf("log of %s:\n%s", m.name, m.log)
	}
}

// Close settles which of the two is meant.
func (m *member) Close() { m.leave() }

func (m *member) take(_ context.Context, _ *config.Config, src *config.Source, _ string) error {
	text := string(src.Files[0].Data)
	m.tries.Add(1)
	m.mu.Lock()
	defer m.mu.Unlock()
	bad := strings.Contains(text, "!"+m.name) && !m.mended.Load()
	if bad && (len(m.live) > 0 || !m.broken.Load()) {
		return fmt.Errorf("%s: no such file", text)
	}
	m.broken.Store(bad)
	if n := len(m.live); n == 0 || m.live[n-1] != text {
		m.live = append(m.live, text)
	}
	return nil
}

// history is every text that was live, in order.
func (m *member) history() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.live, " ")
}

func pack(t testing.TB, text string) []byte {
	t.Helper()
	data, err := revision.Pack([]config.File{{Name: "a.yaml", Data: []byte(text)}})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// publish publishes and wants it to go well.
func (m *member) publish(text string) *store.Revision {
	m.t.Helper()
	r, err := m.Publish(m.t.Context(), fleet.Draft{Data: pack(m.t, text), Author: "ann", Message: "why"})
	if err != nil {
		m.t.Fatal(err)
	}
	return r
}

// runs waits until a revision is live and nothing is wrong, the store included.
func (m *member) runs(n uint64, texts string) {
	m.t.Helper()
	eventually(m.t, fmt.Sprintf("%s runs %d", m.name, n), func() error {
		if s := m.Status(); s.Revision != n || s.Error != "" || s.FromDisk || !s.Store.Up || m.history() != texts {
			return fmt.Errorf("%q, %+v", m.history(), s)
		}
		return nil
	})
}

// refuses waits until a revision is reported as refused, to the others as well.
func (m *member) refuses(n uint64, why string) {
	m.t.Helper()
	eventually(m.t, fmt.Sprintf("%s refuses %d", m.name, n), func() error {
		if s := m.Status(); s.Refused != n || !strings.Contains(s.Error, why) || s.ErrorAt.IsZero() {
			return fmt.Errorf("%+v", s)
		}
		list, err := fleet.Members(m.t.Context(), m.store)
		if err != nil {
			return err
		}
		for _, x := range list {
			if x.Node == m.name && x.Refused == n && strings.Contains(x.Error, why) {
				if !strings.Contains(m.log.String(), why) {
					return fmt.Errorf("%q is not in the log", why)
				}
				return nil
			}
		}
		return fmt.Errorf("the others do not know: %+v", list)
	})
}

// eventually waits for up to two minutes: a Sentinel that finds that its machine
// has stalled does nothing for the half of one.
func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// connect opens a store of its own in a Redis.
func connect(t *testing.T, server *redistest.Server, change ...func(*redis.Settings)) store.Store {
	t.Helper()
	s := redis.Settings{Addresses: []string{server.Address}, Timeout: 30 * time.Second} // longer than any delay of a busy machine
	for _, c := range change {
		c(&s)
	}
	x := redis.New(s)
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	return x
}
