package watch_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config/watch"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// start watches paths; the result gets a value for every change.
func start(t *testing.T, paths ...string) <-chan struct{} {
	t.Helper()
	changes := make(chan struct{}, 100)
	w, err := watch.New(paths, func() { changes <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return changes
}

// change waits for one change, which must come.
func change(t *testing.T, changes <-chan struct{}) {
	t.Helper()
	select {
	case <-changes:
	case <-time.After(time.Minute): // under load; the usual is 200 ms
		t.Fatal("the change went unnoticed")
	}
}

// quiet makes sure that no change has been reported, by making one more that
// must be the next and only one.
func quiet(t *testing.T, changes <-chan struct{}, provoke func()) {
	t.Helper()
	provoke()
	change(t, changes)
	select {
	case <-changes:
		t.Fatal("more changes than there were")
	default:
	}
}

// write puts a file there, or changes it in place, at one moment: neither shows
// an empty file before the text, which a machine that stalls would make a change
// of its own.
func write(t *testing.T, name, text string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		aside := filepath.Join(t.TempDir(), "new")
		do(t, os.WriteFile(aside, []byte(text), 0o600), os.Rename(aside, name))
		return
	}
	do(t, err)
	_, err = f.WriteString(text) // no shorter than what is there
	do(t, err, f.Close())
}

func do(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "gatehouse.yaml")
	write(t, file, "one")
	changes := start(t, file)
	t.Run("written in place", func(t *testing.T) {
		write(t, file, "two")
		change(t, changes)
	})
	t.Run("replaced by rename", func(t *testing.T) {
		write(t, file+".new", "three")
		do(t, os.Rename(file+".new", file))
		change(t, changes)
	})
	t.Run("removed and made again", func(t *testing.T) {
		do(t, os.Remove(file))
		change(t, changes)
		write(t, file, "four")
		change(t, changes)
	})
	t.Run("touched, and neighbours", func(t *testing.T) {
		now := time.Now()
		write(t, file+".bak", "x")
		do(t, os.Chtimes(file, now, now))
		write(t, file, "four")
		quiet(t, changes, func() { write(t, file, "five") })
	})
}

// A burst is usually one change; on a machine that stalls for longer than
// bursts are waited for it may be more, but never more than there were writes.
func TestBurst(t *testing.T) {
	dir := t.TempDir()
	changes := start(t, dir)
	const writes = 50
	for i := range writes {
		write(t, filepath.Join(dir, "a.yaml"), string(rune('a'+i)))
	}
	seen := 0
	write(t, filepath.Join(dir, "b.yaml"), "last")
	change(t, changes)
	for seen = 1; len(changes) > 0; seen++ {
		<-changes
	}
	if seen > writes/2 {
		t.Fatalf("%d changes for a burst of %d writes", seen, writes)
	}
}

func TestFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "conf")
	do(t, os.Mkdir(dir, 0o700))
	write(t, filepath.Join(dir, "a.yaml"), "a")
	changes := start(t, dir)
	write(t, filepath.Join(dir, "b.yml"), "b")
	change(t, changes)
	do(t, os.Remove(filepath.Join(dir, "a.yaml")))
	change(t, changes)
	write(t, filepath.Join(dir, "notes.txt"), "c")
	write(t, filepath.Join(dir, ".swap.yaml"), "c")
	quiet(t, changes, func() { write(t, filepath.Join(dir, "b.yml"), "bb") })
	do(t, os.RemoveAll(dir))
	change(t, changes)
	do(t, os.Mkdir(dir, 0o700))
	write(t, filepath.Join(dir, "a.yaml"), "again")
	change(t, changes)
	write(t, filepath.Join(dir, "a.yaml"), "and again")
	change(t, changes)
}

// A Kubernetes ConfigMap is a folder of links through ..data, which is swapped.
func TestSwappedLink(t *testing.T) {
	f := func(name string, watched func(dir string) string) {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			version := func(v, text string) {
				do(t, os.Mkdir(filepath.Join(dir, v), 0o700))
				write(t, filepath.Join(dir, v, "gatehouse.yaml"), text)
				do(t, os.Symlink(v, filepath.Join(dir, "..data_tmp")),
					os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
			}
			version("..2026_1", "one")
			do(t, os.Symlink("..data/gatehouse.yaml", filepath.Join(dir, "gatehouse.yaml")))
			changes := start(t, watched(dir))
			version("..2026_2", "two")
			change(t, changes)
			do(t, os.RemoveAll(filepath.Join(dir, "..2026_1")))
			quiet(t, changes, func() { version("..2026_3", "three") })
		})
	}
	f("file", func(dir string) string { return filepath.Join(dir, "gatehouse.yaml") })
	f("folder", func(dir string) string { return dir })
}

func TestLinkedFileElsewhere(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	write(t, filepath.Join(elsewhere, "real.yaml"), "one")
	do(t, os.Symlink(filepath.Join(elsewhere, "real.yaml"), filepath.Join(dir, "in.yaml")))
	changes := start(t, filepath.Join(dir, "in.yaml"))
	write(t, filepath.Join(elsewhere, "real.yaml"), "two")
	change(t, changes)
}

func TestChangeBetweenNewAndRunIsNoticed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "in.yaml")
	write(t, file, "one")
	changes := make(chan struct{}, 1)
	w, err := watch.New([]string{file}, func() { changes <- struct{}{} })
	do(t, err)
	write(t, file, "two")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.Run(ctx) }()
	change(t, changes)
	cancel()
	<-done
	do(t, w.Close())
}

func TestMissingFolderIsAnError(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "no", "such", "in.yaml")
	if _, err := watch.New([]string{missing}, func() {}); err == nil {
		t.Fatal("no error")
	}
}
