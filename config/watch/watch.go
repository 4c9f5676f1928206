// Package watch notices that config files have changed. It watches folders,
// not files, because editors and Kubernetes replace a file instead of writing
// into it; it waits until a burst of changes is over; and it compares contents,
// so that a touched file is no change. It knows nothing of what is in them.
package watch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long nothing may happen before a change counts as whole:
	// longer than writing several files takes, shorter than a person notices.
	settle = 200 * time.Millisecond
	// maxSettle bounds the waiting when something never stops changing.
	maxSettle = 2 * time.Second
	// poll is how often contents are compared without an event: network file
	// systems and overflowing queues lose events.
	poll = 30 * time.Second
	// maxFile bounds what is read of one file to compare it.
	maxFile = 64 << 20
)

// Watcher follows paths from New until the end of Run.
type Watcher struct {
	paths   []string
	changed func()
	notify  *fsnotify.Watcher
	dirs    []string // watched, sorted
	last    [sha256.Size]byte
}

// New begins to watch files and folders. What the paths hold now is not a
// change; what happens after New is, even before Run. Run or Close must follow.
func New(paths []string, changed func()) (*Watcher, error) {
	n, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watching files: %w", err)
	}
	w := &Watcher{paths: slices.Clone(paths), changed: changed, notify: n}
	if err := w.follow(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	w.last = digest(w.paths)
	return w, nil
}

// Run calls changed, from its own goroutine, once after each change, until ctx
// is done. Then it stops watching and returns.
func (w *Watcher) Run(ctx context.Context) {
	defer w.Close() //nolint:errcheck // nothing is written
	tick := time.NewTicker(poll)
	defer tick.Stop()
	var quiet, late <-chan time.Time // set while a burst goes on
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-w.notify.Events:
			if !ok {
				return
			}
			quiet = time.After(settle)
			if late == nil {
				late = time.After(maxSettle)
			}
			continue
		case <-w.notify.Errors: // overflow, most likely: look for ourselves
		case <-quiet:
		case <-late:
		case <-tick.C:
		}
		quiet, late = nil, nil
		w.look()
	}
}

// Close stops watching. It is for a Watcher that is not run, and safe twice.
func (w *Watcher) Close() error { return w.notify.Close() }

// look calls changed if the contents differ.
func (w *Watcher) look() {
	_ = w.follow() // a folder that is gone for the moment is found by a later look
	now := digest(w.paths)
	if now == w.last {
		return
	}
	w.last = now
	w.changed()
}

// follow watches the folders of the paths and of what they link to, which a
// swapped link may have changed.
func (w *Watcher) follow() error {
	var dirs []string
	for _, p := range w.paths {
		st, err := os.Stat(p)
		if err == nil && st.IsDir() {
			dirs = append(dirs, p)
		}
		dirs = append(dirs, filepath.Dir(p))
		if real, err := filepath.EvalSymlinks(p); err == nil && real != filepath.Clean(p) {
			dirs = append(dirs, filepath.Dir(real))
			if st != nil && st.IsDir() {
				dirs = append(dirs, real)
			}
		}
	}
	slices.Sort(dirs)
	dirs = slices.Compact(dirs)
	var failed error
	for _, d := range dirs {
		// Adding again is free, and finds a folder that was made anew.
		if err := w.notify.Add(d); err != nil && failed == nil {
			failed = fmt.Errorf("watching %s: %w", d, err)
		}
	}
	for _, old := range w.dirs {
		if !slices.Contains(dirs, old) {
			_ = w.notify.Remove(old) // it may be gone already
		}
	}
	w.dirs = dirs
	return failed
}

// digest is of the names and contents of the files that config.Load would read.
func digest(paths []string) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, p := range paths {
		names := []string{p}
		if st, err := os.Stat(p); err == nil && st.IsDir() {
			names = names[:0]
			list, _ := os.ReadDir(p) //nolint:errcheck // as good as empty
			for _, e := range list {
				if ext := filepath.Ext(e.Name()); e.Name()[0] != '.' && (ext == ".yaml" || ext == ".yml") {
					names = append(names, filepath.Join(p, e.Name()))
				}
			}
		}
		for _, name := range names {
			fmt.Fprintf(h, "%q ", name)
			if err := hashFile(h, name); err != nil {
				fmt.Fprintf(h, "unreadable: %t", errors.Is(err, fs.ErrNotExist))
			}
		}
	}
	h.Sum(sum[:0])
	return sum
}

func hashFile(h io.Writer, name string) error {
	st, err := os.Stat(name)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return errors.New("is not a regular file") // reading it might never end
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	n, err := io.Copy(h, io.LimitReader(f, maxFile))
	fmt.Fprintf(h, " %d bytes\n", n)
	return err
}
