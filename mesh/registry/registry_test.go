package registry_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config/unit"
	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/control/store/local"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis"
	"github.com/gatehouse-proxy/gatehouse/mesh/registry"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) {
	redis.LogTo(slog.New(slog.DiscardHandler)) // every failure is an error as well
	leak.VerifyTestMain(m)
}

// open makes a registry that is closed with the test.
func open(t *testing.T, s registry.Settings) *registry.Registry {
	t.Helper()
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	r := registry.New(s)
	t.Cleanup(r.Close)
	return r
}

func single(t *testing.T) store.Store {
	t.Helper()
	s := local.New(t.TempDir())
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func instance(service, id string) registry.Instance {
	return registry.Instance{
		Service: service, ID: id, Host: "10.0.0.1", Port: 8080, Status: registry.Up, TTL: unit.Duration(30 * time.Second),
	}
}

func register(t *testing.T, r *registry.Registry, i registry.Instance) *registry.Entry {
	t.Helper()
	e, _, err := r.Register(t.Context(), i, registry.Expect{})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func no(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// seen lists the instances of a service as ID=status.
func seen(r *registry.Registry, service string) string {
	var list []string
	for _, e := range r.Instances(service) {
		list = append(list, fmt.Sprintf("%s=%s", e.ID, e.Effective()))
	}
	return strings.Join(list, " ")
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	// A Sentinel that finds that its machine has stalled does nothing for half a minute.
	for end := time.Now().Add(2 * time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in two minutes: %s", what)
		}
	}
}

func sees(t *testing.T, r *registry.Registry, service, want string) {
	t.Helper()
	eventually(t, "the instances are "+want, func() bool { return seen(r, service) == want })
}

func TestLifeOfAnInstance(t *testing.T) {
	s := single(t)
	a, b := open(t, registry.Settings{Store: s}), open(t, registry.Settings{Store: s})
	ctx := t.Context()
	if err := a.Heartbeat(ctx, "users", "u1"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("a heartbeat of nobody: %v", err)
	}
	i := instance("users", "u1")
	i.Metadata = map[string]string{"version": "1"}
	_, created, err := a.Register(ctx, i, registry.Expect{})
	if err != nil || !created {
		t.Fatal(created, err)
	}
	if got := seen(a, "users"); got != "u1=up" {
		t.Errorf("whoever registers does not see it: %q", got)
	}
	sees(t, b, "users", "u1=up")
	no(t, b.Heartbeat(ctx, "users", "u1"))
	if _, created, err = b.Register(ctx, i, registry.Expect{}); err != nil || created {
		t.Errorf("registered again: %t, %v", created, err)
	}
	changed, stop := b.Changed("users")
	defer stop()
	if _, err := a.Override(ctx, "users", "u1", registry.Drain, registry.Expect{}); err != nil {
		t.Fatal(err)
	}
	<-changed
	sees(t, b, "users", "u1=drain")
	// An instance that says that it is up does not undo what somebody decided.
	i.Metadata["version"] = "2"
	register(t, b, i)
	sees(t, a, "users", "u1=drain")
	e, err := b.SetMetadata(ctx, "users", "u1", map[string]string{"zone": "x", "version": ""}, registry.Expect{})
	if err != nil || fmt.Sprint(e.Metadata) != "map[zone:x]" {
		t.Errorf("%v, %v", e, err)
	}
	if _, err := b.Override(ctx, "users", "u1", "", registry.Expect{}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.SetStatus(ctx, "users", "u1", registry.Down, registry.Expect{}); err != nil {
		t.Fatal(err)
	}
	sees(t, a, "users", "u1=down")
	no(t, a.Deregister(ctx, "users", "u1", registry.Expect{}))
	sees(t, b, "users", "")
	for doing, err := range map[string]error{
		"deregister": a.Deregister(ctx, "users", "u1", registry.Expect{}),
		"heartbeat":  a.Heartbeat(ctx, "users", "u1"),
	} {
		if !errors.Is(err, registry.ErrNotFound) {
			t.Errorf("%s: %v", doing, err)
		}
	}
	if _, err := a.Override(ctx, "users", "u1", registry.Drain, registry.Expect{}); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("drain: %v", err)
	}
	var kinds []string
	for _, e := range b.View().Events {
		kinds = append(kinds, string(e.Kind))
	}
	if got := strings.Join(kinds, " "); !strings.HasPrefix(got, "ADDED MODIFIED") || !strings.HasSuffix(got, "DELETED") {
		t.Errorf("events: %s", got)
	}
}

func TestNobodyLosesAnUpdate(t *testing.T) {
	s := single(t)
	nodes := []*registry.Registry{open(t, registry.Settings{Store: s}), open(t, registry.Settings{Store: s})}
	register(t, nodes[0], instance("users", "u1"))
	var wg sync.WaitGroup
	for n := range 12 {
		wg.Go(func() {
			for {
				_, err := nodes[n%2].SetMetadata(context.Background(), "users", "u1", map[string]string{fmt.Sprint("k", n): "v"}, registry.Expect{})
				if err == nil {
					return
				}
				if !errors.Is(err, registry.ErrBusy) {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, r := range nodes {
		eventually(t, "all twelve are there", func() bool { return len(r.Get("users", "u1").Metadata) == 12 })
	}
	e := nodes[0].Get("users", "u1")
	if _, err := nodes[1].SetStatus(t.Context(), "users", "u1", registry.Down, registry.Expect{Tag: "another"}); !errors.Is(err, registry.ErrStale) {
		t.Errorf("another tag: %v", err)
	}
	if _, err := nodes[1].SetStatus(t.Context(), "users", "u1", registry.Down, registry.Expect{Tag: e.Tag}); err != nil {
		t.Errorf("the right tag: %v", err)
	}
	if _, _, err := nodes[0].Register(t.Context(), instance("users", "u1"), registry.Expect{Absent: true}); !errors.Is(err, registry.ErrStale) {
		t.Errorf("one that must not be there: %v", err)
	}
}

func TestStaticEntries(t *testing.T) {
	dir := t.TempDir()
	s := local.New(dir)
	r := open(t, registry.Settings{Store: s})
	i := instance("legacy", "host:8080")
	i.TTL = 0
	register(t, r, i)
	if _, err := r.Override(t.Context(), "legacy", "host:8080", registry.Drain, registry.Expect{}); err != nil {
		t.Fatal(err)
	}
	no(t, r.Heartbeat(t.Context(), "legacy", "host:8080"))
	i.TTL = unit.Duration(time.Minute)
	if _, _, err := r.Register(t.Context(), i, registry.Expect{}); !errors.Is(err, registry.ErrExists) {
		t.Errorf("a lease beside a static entry: %v", err)
	}
	r.Close()
	no(t, s.Close())
	again := local.New(dir)
	r = open(t, registry.Settings{Store: again})
	sees(t, r, "legacy", "host:8080=drain")
	no(t, r.Deregister(t.Context(), "legacy", "host:8080", registry.Expect{}))
	sees(t, r, "legacy", "")
	r.Close()
	no(t, again.Close())
}

func TestInstancesAreChecked(t *testing.T) {
	r := open(t, registry.Settings{Store: single(t), MaxInstances: 2})
	for want, f := range map[string]func(*registry.Instance){
		"service must be":  func(i *registry.Instance) { i.Service = "Users" },
		"service must":     func(i *registry.Instance) { i.Service = "" },
		"id must be":       func(i *registry.Instance) { i.ID = "a/b" },
		"id must":          func(i *registry.Instance) { i.ID = ".." },
		"id":               func(i *registry.Instance) { i.ID = "a\nb" },
		"host must be":     func(i *registry.Instance) { i.Host = "10.0.0.256" },
		"host must":        func(i *registry.Instance) { i.Host = "a b" },
		"host":             func(i *registry.Instance) { i.Host = "fe80::1%eth0" },
		"port must be":     func(i *registry.Instance) { i.Port = 65536 },
		"secure_port must": func(i *registry.Instance) { i.SecurePort = -1 },
		"port or":          func(i *registry.Instance) { i.Port = 0 },
		"zone must":        func(i *registry.Instance) { i.Zone = "a zone" },
		"weight must":      func(i *registry.Instance) { i.Weight = 1001 },
		"status must be up, starting, drain, down or out_of_service": func(i *registry.Instance) { i.Status = "UP" },
		"override is set": func(i *registry.Instance) { i.Override = registry.Drain },
		"ttl must be":     func(i *registry.Instance) { i.TTL = 1 },
		"metadata needs":  func(i *registry.Instance) { i.Metadata = map[string]string{"a\x00": ""} },
		"metadata.a must": func(i *registry.Instance) { i.Metadata = map[string]string{"a": "\x1b[2J"} },
		"metadata is too large": func(i *registry.Instance) {
			i.Metadata = map[string]string{"a": strings.Repeat("x", 70<<10)}
		},
	} {
		i := instance("users", "u1")
		f(&i)
		_, _, err := r.Register(t.Context(), i, registry.Expect{})
		if bad := new(registry.InvalidError); !errors.As(err, &bad) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	register(t, r, instance("users", "u1"))
	register(t, r, instance("users", "u2"))
	if _, _, err := r.Register(t.Context(), instance("users", "u3"), registry.Expect{}); !errors.Is(err, registry.ErrFull) {
		t.Errorf("one too many: %v", err)
	}
	register(t, r, instance("users", "u2"))
}

// wrongData is what must be left out.
func TestWrongDataIsReportedAndLeftOut(t *testing.T) {
	s := single(t)
	ctx := t.Context()
	r := open(t, registry.Settings{Store: s})
	register(t, r, instance("users", "good"))
	for id, data := range map[string]string{
		"users/a": "not json", "users/b": `{"service":"users","id":"x","host":"h","port":1,"status":"up","ttl":"1m"}`,
		"users/c": `{"service":"users","id":"c","host":"h","port":1,"status":"up"}`, "users/d": `{} {}`, "": "", "x": "[]",
		"users/e": strings.Repeat(" ", 100<<10),
	} {
		no(t, s.Register(ctx, id, []byte(data), time.Minute))
	}
	no(t, s.Put(ctx, "services", "wrong", []byte("{"), 0))
	eventually(t, "all eight are reported", func() bool { return r.Summary().Malformed == 8 })
	if sum := r.Summary(); len(sum.Problems) != 8 || sum.Instances != 1 {
		t.Errorf("%+v", sum)
	}
	// What went wrong under an entry that is known does not take it out at once,
	// and registering again mends it.
	no(t, s.Register(ctx, "users/good", []byte("garbage"), time.Minute))
	eventually(t, "it is reported", func() bool { return r.Summary().Malformed == 9 })
	if got := seen(r, "users"); got != "good=up" {
		t.Errorf("got %q", got)
	}
	register(t, r, instance("users", "good"))
	eventually(t, "it is mended", func() bool { sum := r.Summary(); return sum.Malformed == 8 && sum.Missing == 0 })
}

func TestCopyOnDisk(t *testing.T) {
	dir := t.TempDir()
	s := newMoody(t)
	r := open(t, registry.Settings{Store: s, Dir: dir})
	register(t, r, instance("users", "u1"))
	static := instance("legacy", "l1")
	static.TTL = 0
	register(t, r, static)
	r.Close()
	path := filepath.Join(dir, "services.json")
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", st, err)
	}
	s.set(errors.New("the store is away"))
	r = open(t, registry.Settings{Store: s, Dir: dir})
	if got := seen(r, "users") + " " + seen(r, "legacy"); got != "u1=up l1=up" {
		t.Errorf("got %q", got)
	}
	eventually(t, "it says so", func() bool {
		sum := r.Summary()
		return sum.FromDisk && !sum.StoreUp && sum.Error == "the store is away" && !sum.Saved.IsZero()
	})
	if err := r.Heartbeat(t.Context(), "users", "u1"); err == nil || errors.Is(err, registry.ErrNotFound) {
		t.Errorf("a store that is away knows nothing of heartbeats: %v", err)
	}
	s.set(nil)
	eventually(t, "the store is back", func() bool { sum := r.Summary(); return !sum.FromDisk && sum.StoreUp && sum.Missing == 0 })
	r.Close()
	for _, text := range []string{"garbage", `{"leases":[1,{"id":"x"}],"position":7}`, `{"leases":[1,{"id":"x"},null]}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := open(t, registry.Settings{Store: s, Dir: dir})
		sees(t, r, "users", "u1=up")
		r.Close()
	}
}
