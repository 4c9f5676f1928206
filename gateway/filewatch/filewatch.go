// Package filewatch keeps what was read from a file up to date: it looks at
// the file every few seconds and hands over new content. Looking, instead of
// asking the kernel, also notices replaced symbolic links and network file
// systems. A file that has become unreadable or invalid changes nothing.
package filewatch

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Interval is how often a file is looked at.
const Interval = 2 * time.Second

// settle is for how long a file just written may change again without a
// change of its time stamp.
const settle = 4 * time.Second

// Settings describe a watched file.
type Settings struct {
	Path string
	// Limit is the most bytes the file may have.
	Limit int64
	// Load takes new content, or says why it cannot. It runs in Load's caller
	// or in the watching goroutine, never in both at once.
	Load func(content []byte) error
	// Failed is told, in the watching goroutine, once for every new error;
	// Changed that new content was loaded. Both may be nil.
	Failed  func(error)
	Changed func()
	// Every is how often to look, default Interval.
	Every time.Duration
}

// File is a watched file.
type File struct {
	s Settings

	seen   os.FileInfo
	digest [sha256.Size]byte
	broken string // the last error told
	fault  atomic.Pointer[Fault]

	once sync.Once
	stop chan struct{}
	wg   sync.WaitGroup
}

// Fault is why the newest content of a file is not in use.
type Fault struct {
	Err   error
	Since time.Time
}

// New prepares a watch; nothing is read before Load.
func New(s Settings) *File {
	if s.Every == 0 {
		s.Every = Interval
	}
	return &File{s: s, stop: make(chan struct{})}
}

// Load reads the file for the first time. It must not be called after Start.
func (f *File) Load() error {
	_, err := f.look()
	f.note(err)
	return err
}

// Fault is nil while the file's newest content is in use. It may be called at
// any time.
func (f *File) Fault() *Fault { return f.fault.Load() }

// note keeps the time of an error that stays the same.
func (f *File) note(err error) {
	switch old := f.fault.Load(); {
	case err == nil:
		f.fault.Store(nil)
	case old == nil || old.Err.Error() != err.Error():
		f.fault.Store(&Fault{Err: err, Since: time.Now()})
	}
}

// Start begins to watch.
func (f *File) Start() {
	f.wg.Go(func() {
		t := time.NewTicker(f.s.Every)
		defer t.Stop()
		for {
			select {
			case <-f.stop:
				return
			case <-t.C:
				f.check()
			}
		}
	})
}

// Close ends the watch and waits for it. It is safe twice and without Start.
func (f *File) Close() {
	f.once.Do(func() { close(f.stop) })
	f.wg.Wait()
}

func (f *File) check() {
	changed, err := f.look()
	f.note(err)
	switch {
	case err != nil && err.Error() != f.broken:
		f.broken = err.Error()
		if f.s.Failed != nil {
			f.s.Failed(err)
		}
	case err == nil:
		f.broken = ""
		if changed && f.s.Changed != nil {
			f.s.Changed()
		}
	}
}

// look reads the file if it seems to have changed and loads it if it has.
func (f *File) look() (changed bool, err error) {
	info, err := os.Stat(f.s.Path)
	if err != nil {
		return false, f.wrap(err)
	}
	if f.seen != nil && os.SameFile(info, f.seen) && info.Size() == f.seen.Size() &&
		info.ModTime().Equal(f.seen.ModTime()) && time.Since(info.ModTime()) > settle {
		return false, nil
	}
	content, err := Read(f.s.Path, f.s.Limit)
	if err != nil {
		return false, f.wrap(err)
	}
	digest := sha256.Sum256(content)
	if f.seen != nil && digest == f.digest {
		f.seen = info
		return false, nil
	}
	if err := f.s.Load(content); err != nil {
		return false, f.wrap(err)
	}
	f.seen, f.digest = info, digest
	return true, nil
}

// Read returns the content of a regular file of at most limit bytes. Anything
// else is refused before it is opened: a FIFO would hang its reader, who then
// cannot be closed, and a device may never end.
func Read(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	// It may have been replaced since: then opening it must not wait either.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // nothing was written
	content, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = fmt.Errorf("has more than %d bytes", limit)
	}
	return content, err
}

func (f *File) wrap(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		err = p.Err // the path is in the message already
	}
	return fmt.Errorf("%q: %w", f.s.Path, err)
}
