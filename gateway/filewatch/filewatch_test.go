package filewatch_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/filewatch"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Time is virtual, the file is real: the goroutine has looked again once all
// is idle after an interval.
func TestNewContentIsLoadedAndBadContentKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	write(t, path, "one")
	synctest.Test(t, func(t *testing.T) {
		var loaded, failed []string
		f := filewatch.New(filewatch.Settings{
			Path: path, Limit: 10,
			Load: func(b []byte) error {
				if string(b) == "bad" {
					return errors.New("is bad")
				}
				loaded = append(loaded, string(b))
				return nil
			},
			Failed:  func(err error) { failed = append(failed, err.Error()) },
			Changed: func() { loaded = append(loaded, "changed") },
		})
		if err := f.Load(); err != nil {
			t.Fatal(err)
		}
		f.Start()
		look := func() { time.Sleep(3 * filewatch.Interval); synctest.Wait() }
		look()
		write(t, path, "two")
		look()
		write(t, path, "bad")
		look()
		write(t, path, strings.Repeat("x", 11))
		look()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		look()
		write(t, path, "three")
		look()
		f.Close()
		f.Close()
		if got := strings.Join(loaded, " "); got != "one two changed three changed" {
			t.Errorf("loaded %q", got)
		}
		want := []string{": is bad", ": has more than 10 bytes", ": no such file or directory"}
		if len(failed) != len(want) {
			t.Fatalf("failures %q, want one for each of %q", failed, want)
		}
		for i, w := range want {
			if !strings.HasSuffix(failed[i], w) || !strings.Contains(failed[i], path) {
				t.Errorf("failure %q, want …%q", failed[i], w)
			}
		}
	})
}

// What is no file is never waited for: Close would wait as well.
func TestWhatIsNoFileIsNotRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		path: "is not a regular file", dir: "is not a regular file", "/dev/zero": "is not a regular file",
		loop: "too many levels of symbolic links",
	} {
		f := filewatch.New(filewatch.Settings{Path: path, Limit: 10, Every: time.Millisecond, Load: func([]byte) error { return nil }})
		if err := f.Load(); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: got %v", path, err)
		}
		f.Start()
		f.Close()
	}
}

func TestCloseWithoutStart(t *testing.T) {
	f := filewatch.New(filewatch.Settings{Path: "/nonexistent/file"})
	if err := f.Load(); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Fatalf("got %v", err)
	}
	f.Close()
}
