package accesslog_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/telemetry/accesslog"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

func open(t testing.TB, s accesslog.Settings) *accesslog.Log {
	t.Helper()
	l, err := accesslog.Open(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeLog(t, l) })
	return l
}

func closeLog(t testing.TB, l *accesslog.Log) {
	t.Helper()
	if err := l.Close(context.Background()); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func lines(t testing.TB, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

func TestEveryLineArrivesOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	l := open(t, accesslog.Settings{Path: path, Sample: 1})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 2000 {
				l.Write(&accesslog.Record{Method: "GET", Path: fmt.Sprintf("/%d/%d", g, i), Status: 200})
			}
		})
	}
	wg.Wait()
	closeLog(t, l)
	seen := map[string]bool{}
	for _, line := range lines(t, path) {
		seen[line[strings.Index(line, `"path"`):]] = true
	}
	if written, dropped := l.Stats(); len(seen) != 8000 || written != 8000 || dropped != 0 {
		t.Fatalf("%d distinct lines, written %d, dropped %d", len(seen), written, dropped)
	}
	l.Write(&accesslog.Record{Status: 200})
	if _, dropped := l.Stats(); dropped != 1 {
		t.Errorf("a line after Close is not counted: %d", dropped)
	}
}

func TestLinesAppearWithoutClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	l := open(t, accesslog.Settings{Path: path, Sample: 1, Format: "console"})
	l.Write(&accesslog.Record{Method: "GET", Path: "/x", Status: 200})
	for stop := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if b, _ := os.ReadFile(path); strings.Contains(string(b), "200 GET /x") {
			return
		}
		if time.Now().After(stop) {
			t.Fatal("the line never came")
		}
	}
}

func TestSamplingKeepsWhatFailed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	l := open(t, accesslog.Settings{Path: path, Sample: 0})
	for _, r := range []accesslog.Record{
		{Status: 200, Path: "/left-out"},
		{Status: 404, Path: "/a"},
		{Status: 200, Reason: "x", Path: "/b"},
		{Status: 200, Flags: "UC", Path: "/c"},
		{Status: 200, WAF: accesslog.WAF{Policy: "p", Rules: []int{1}}, Path: "/d"},
	} {
		l.Write(&r)
	}
	closeLog(t, l)
	if got := lines(t, path); len(got) != 4 || strings.Contains(got[0], "left-out") {
		t.Fatalf("got %d lines: %v", len(got), got)
	}
	half := open(t, accesslog.Settings{Path: path + "2", Sample: 0.5})
	for range 10000 {
		half.Write(&accesslog.Record{Status: 200})
	}
	closeLog(t, half)
	if n, _ := half.Stats(); n < 4500 || n > 5500 {
		t.Errorf("sample 0.5 wrote %d of 10000", n)
	}
}

func TestReopenAfterRotation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "access.log")
	l := open(t, accesslog.Settings{Path: path, Sample: 1})
	l.Write(&accesslog.Record{Path: "/before", Status: 200})
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	l.Write(&accesslog.Record{Path: "/after", Status: 200})
	closeLog(t, l)
	old, now := lines(t, path+".1"), lines(t, path)
	if all := strings.Join(append(old, now...), "\n"); !strings.Contains(all, "/before") || !strings.Contains(now[len(now)-1], "/after") {
		t.Fatalf("old %v, new %v", old, now)
	}
	if err := l.Reopen(); err != nil {
		t.Errorf("Reopen after Close: %v", err)
	}
}

func TestOpenNamesTheSetting(t *testing.T) {
	_, err := accesslog.Open(accesslog.Settings{Path: filepath.Join(t.TempDir(), "no", "dir")})
	if !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "node.access_log.path: ") {
		t.Fatalf("got %v", err)
	}
}

func TestOff(t *testing.T) {
	l := open(t, accesslog.Settings{Path: "off", Sample: 1})
	l.Write(&accesslog.Record{Status: 500})
	if w, d := l.Stats(); l.Enabled() || w != 0 || d != 0 || l.Reopen() != nil {
		t.Fatalf("off: enabled %v, written %d, dropped %d", l.Enabled(), w, d)
	}
}

func record() *accesslog.Record {
	return &accesslog.Record{
		Time: time.Now(), Duration: time.Millisecond, RequestID: "0192f0c1-0000-7000-8000-000000000000",
		Listener: "web", Route: "users", Protocol: "HTTP/1.1", Method: "GET", Scheme: "http", Host: "api.example.com",
		Path: "/v1/users/42", Query: "fields=name&limit=10", Status: 200, BytesOut: 1024,
		Upstream: "api", Endpoint: "10.0.0.1:8080", Attempts: 1, UpstreamStatus: 200, UpstreamTook: time.Millisecond, Reused: true,
		UserAgent: "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
	}
}

func TestWriteDoesNotAllocate(t *testing.T) {
	for _, format := range []string{"json", "console"} {
		l := open(t, accesslog.Settings{Path: "/dev/null", Sample: 1, Format: format})
		r := record()
		for range 3000 { // let both buffers reach their size
			l.Write(r)
		}
		if n := testing.AllocsPerRun(200, func() { l.Write(r) }); n != 0 {
			t.Errorf("%s: %v allocations, want 0", format, n)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	l := open(b, accesslog.Settings{Path: "/dev/null", Sample: 1})
	r := record()
	b.ReportAllocs()
	for b.Loop() {
		l.Write(r)
	}
}
