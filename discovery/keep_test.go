package discovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

var discard = slog.New(slog.DiscardHandler)

// told is a source that says what it is told to.
type told struct {
	target  string
	reports chan upstream.Report
}

func (s *told) Name() (kind, target string) { return "test", s.target }

func (s *told) Run(ctx context.Context, report func(upstream.Report)) {
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-s.reports:
			report(r)
		}
	}
}

// node runs a kept source until it is stopped.
type node struct {
	source *told
	mu     sync.Mutex
	got    []upstream.Report
	stop   func()
}

func run(t *testing.T, dir, target string) *node {
	t.Helper()
	n := &node{source: &told{target, make(chan upstream.Report)}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	k := Keep(n.source, dir, "users", discard)
	go func() {
		defer close(done)
		k.Run(ctx, func(r upstream.Report) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.got = append(n.got, r)
		})
	}()
	n.stop = func() { cancel(); <-done }
	return n
}

func (n *node) say(r upstream.Report) {
	n.source.reports <- r
	synctest.Wait()
}

// last is the newest report as text.
func (n *node) last() string {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.got) == 0 {
		return "nothing"
	}
	r := n.got[len(n.got)-1]
	age := ""
	if !r.AsOf.IsZero() {
		age = time.Since(r.AsOf).Round(time.Minute).String()
	}
	return strings.TrimSpace(fmt.Sprintf("%d %v %v %s", len(n.got), r.Endpoints, r.Err, age))
}

func endpoints(addresses ...string) upstream.Report {
	var r upstream.Report
	for i, a := range addresses {
		r.Endpoints = append(r.Endpoints, upstream.EndpointSettings{Address: a, Weight: 3, Zone: "z", Priority: i})
	}
	return r
}

func TestTheLastListOutlivesTheProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "discovery")
	synctest.Test(t, func(t *testing.T) {
		n := run(t, dir, "users")
		n.say(endpoints("10.0.0.1:80"))
		n.say(endpoints("10.0.0.1:80", "10.0.0.2:80")) // within the pause between two copies
		n.stop()

		away := upstream.Report{Err: errors.New("away")}
		n = run(t, dir, "users")
		time.Sleep(2 * time.Hour) // after an hour of silence, too
		if got := n.last(); !strings.HasPrefix(got, "1 [{10.0.0.1:80 3 z 0} {10.0.0.2:80 3 z 1}] no answer yet") {
			t.Errorf("silence: %s", got)
		}
		n.say(away)
		if got := n.last(); got != "2 [] away" {
			t.Errorf("then a failure: %s", got)
		}
		n.stop()

		n = run(t, dir, "users")
		n.say(away)
		if got := n.last(); !strings.HasPrefix(got, "1 [{10.0.0.1:80 3 z 0} {10.0.0.2:80 3 z 1}] away") {
			t.Errorf("failure: %s", got)
		}
		n.say(endpoints())
		n.stop()

		n = run(t, dir, "users")
		n.say(endpoints("10.0.0.9:80"))
		time.Sleep(time.Minute)
		if got := n.last(); got != "1 [{10.0.0.9:80 3 z 0}] <nil>" {
			t.Errorf("an answer: %s", got)
		}
		n.stop()

		n = run(t, dir, "orders")
		n.say(away)
		if got := n.last(); got != "1 [] away" {
			t.Errorf("another target: %s", got)
		}
		n.stop()
	})
}

// A list that stays the same is confirmed by the time of its file.
func TestTheCopyIsAsOldAsItsLastConfirmation(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := run(t, dir, "users")
		defer n.stop()
		path := Keep(n.source, dir, "users", discard).Path()
		n.say(endpoints("10.0.0.1:80"))
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
		n.say(endpoints("10.0.0.1:80"))
		if info, _ := os.Stat(path); !info.ModTime().Equal(old) {
			t.Error("written again at once")
		}
		time.Sleep(confirmEvery)
		n.say(endpoints("10.0.0.1:80"))
		if info, _ := os.Stat(path); time.Since(info.ModTime()) > time.Second {
			t.Errorf("confirmed %v ago", time.Since(info.ModTime()))
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(confirmEvery)
		n.say(endpoints("10.0.0.1:80"))
		if _, err := os.Stat(path); err != nil {
			t.Error("a copy that was removed does not come back")
		}
	})
}

func TestBadCopiesAreNotUsed(t *testing.T) {
	dir := t.TempDir()
	k := Keep(&told{target: "users"}, dir, "users", discard)
	for _, content := range []string{
		"", "{", "[]", `{"kind":"test","target":"orders","endpoints":[{"address":"10.0.0.1:80"}]}`,
		`{"kind":"test","target":"users","endpoints":[{"address":7}]}`, strings.Repeat(" ", maxKept+1),
	} {
		if err := os.WriteFile(k.Path(), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if list, _ := k.read(); list != nil {
			t.Errorf("%.60q: %v", content, list)
		}
	}
}

func TestPruneRemovesTheCopiesOfOthers(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a-1.json", "b-2.json", "note.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Prune(dir, []string{filepath.Join(dir, "a-1.json")}); err != nil {
		t.Error(err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(left) != 2 || filepath.Base(left[0]) != "a-1.json" || filepath.Base(left[1]) != "note.txt" {
		t.Errorf("left %v", left)
	}
	if err := Prune(filepath.Join(dir, "none"), nil); err != nil {
		t.Error(err)
	}
}

// A folder that cannot be written is told of, and nothing else happens.
func TestListsThatCannotBeKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	k := Keep(&told{target: "users"}, file, "users", slog.New(slog.NewTextHandler(&log, nil)))
	k.note(endpoints("10.0.0.1:80").Endpoints)
	k.save()
	if !strings.Contains(log.String(), "not a directory") {
		t.Errorf("log: %s", log.String())
	}
}

func TestBackoff(t *testing.T) {
	var b Backoff
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		want *= time.Second
		if got := b.Next(); got < want || got > want+want/2 {
			t.Errorf("got %v, want %v to half more", got, want)
		}
	}
	b.Reset()
	if got := b.Next(); got > 1500*time.Millisecond {
		t.Errorf("after a success: %v", got)
	}
}

func FuzzCopy(f *testing.F) {
	f.Add([]byte(`{"kind":"test","target":"users","endpoints":[{"address":"10.0.0.1:80","weight":2,"zone":"a","priority":1}]}`))
	f.Add([]byte(`{"endpoints":null}`))
	k := Keep(&told{target: "users"}, f.TempDir(), "users", discard)
	f.Fuzz(func(t *testing.T, content []byte) {
		if list, err := k.parse(content); err != nil && list != nil {
			t.Error("both a list and an error")
		}
	})
}
