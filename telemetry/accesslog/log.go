package accesslog

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Settings of a log.
type Settings struct {
	// Path is a file, "stdout", "stderr" or "off".
	Path string
	// Format is "json" or "console"; empty means json.
	Format string
	// Sample is the share of successful requests to write, 0 to 1.
	Sample float64
	// Headers are request headers to write besides the usual fields.
	Headers []string
	// Mask adds names of headers and query parameters whose values are masked.
	Mask []string
	// OnError is told of the first of several failed writes in a row; it may
	// be nil. It is called by the log's own goroutine.
	OnError func(error)
}

const (
	// flushAfter is how long a line waits at most, flushAt how many bytes may
	// gather before they are written at once.
	flushAfter = 200 * time.Millisecond
	flushAt    = 64 << 10
	// maxWaiting bounds what waits for a disk that does not keep up.
	maxWaiting = 4 << 20
	// maxScratch bounds what one line's buffer may keep.
	maxScratch = 16 << 10
)

// Log is an open access log. Its methods are for concurrent use.
type Log struct {
	fields
	json   bool
	all    bool   // no sampling
	sample uint64 // write when a random number is below
	path   string
	off    bool
	report func(error)

	written, dropped atomic.Uint64

	mu     sync.Mutex // guards what follows
	active []byte
	lines  uint64 // in active
	closed bool

	dirty chan struct{} // active has something; capacity 1
	full  chan struct{} // active has much; capacity 1
	stop  chan struct{}
	done  chan struct{}

	fileMu sync.Mutex // guards file and ended; taken without mu
	file   io.WriteCloser
	ended  bool // file is closed for good
}

var scratch = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// Open opens the log and starts its goroutine. With path "off", the log takes
// everything and writes nothing.
func Open(s Settings) (*Log, error) {
	l := &Log{
		fields: newFields(s.Headers, s.Mask),
		json:   s.Format != "console",
		all:    s.Sample >= 1,
		sample: threshold(s.Sample),
		path:   s.Path,
		report: s.OnError,
		dirty:  make(chan struct{}, 1),
		full:   make(chan struct{}, 1),
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	f, err := open(s.Path)
	if err != nil {
		return nil, fmt.Errorf("node.access_log.path: %w", err)
	}
	l.file, l.off = f, f == nil
	if l.off {
		close(l.done)
		return l, nil
	}
	go l.run()
	return l, nil
}

func threshold(share float64) uint64 {
	switch {
	case share <= 0 || math.IsNaN(share):
		return 0
	case share >= 1:
		return math.MaxUint64
	default:
		return uint64(share * (1 << 63) * 2)
	}
}

// standard keeps Close away from the process's own streams.
type standard struct{ io.Writer }

func (standard) Close() error { return nil }

func open(path string) (io.WriteCloser, error) {
	switch path {
	case "off":
		return nil, nil
	case "stdout":
		return standard{os.Stdout}, nil
	case "stderr":
		return standard{os.Stderr}, nil
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640) //nolint:gosec // the operator's own path; its group may read
}

// Enabled is false for a log that writes nothing, so that a caller can save
// itself the Record.
func (l *Log) Enabled() bool { return !l.off }

// Stats are the lines written so far, and those lost because the disk did not
// keep up or failed.
func (l *Log) Stats() (written, dropped uint64) { return l.written.Load(), l.dropped.Load() }

// Write adds a line for r unless sampling leaves it out. It never waits for
// the disk and does not allocate.
func (l *Log) Write(r *Record) {
	if l.off || !l.all && r.successful() && rand.Uint64() >= l.sample {
		return
	}
	p := scratch.Get().(*[]byte)
	line := (*p)[:0]
	if l.json {
		line = l.appendJSON(line, r)
	} else {
		line = l.appendConsole(line, r)
	}
	l.add(line)
	if cap(line) <= maxScratch {
		*p = line
		scratch.Put(p)
	}
}

func (l *Log) add(line []byte) {
	l.mu.Lock()
	before := len(l.active)
	if l.closed || before+len(line) > maxWaiting {
		l.mu.Unlock()
		l.dropped.Add(1)
		return
	}
	l.active = append(l.active, line...)
	l.lines++
	l.mu.Unlock()
	if before == 0 {
		wake(l.dirty)
	}
	if before < flushAt && before+len(line) >= flushAt {
		wake(l.full)
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run writes out what gathers. It sleeps without a timer while nobody writes.
func (l *Log) run() {
	defer close(l.done)
	var spare []byte
	failing := false
	timer := time.NewTimer(flushAfter)
	timer.Stop()
	for {
		stopping := false
		select {
		case <-l.dirty:
			timer.Reset(flushAfter)
			select {
			case <-timer.C:
			case <-l.full:
			case <-l.stop:
				stopping = true
			}
			timer.Stop()
		case <-l.stop:
			stopping = true
		}
		spare, failing = l.flush(spare, failing)
		if stopping {
			return
		}
	}
}

// flush swaps the buffers and writes the full one out, without any lock that
// Write needs.
func (l *Log) flush(spare []byte, failing bool) ([]byte, bool) {
	l.mu.Lock()
	out, n := l.active, l.lines
	l.active, l.lines = spare[:0], 0
	l.mu.Unlock()
	if len(out) == 0 {
		return out, failing
	}
	l.fileMu.Lock()
	_, err := l.file.Write(out)
	l.fileMu.Unlock()
	if err != nil {
		l.dropped.Add(n)
		if !failing && l.report != nil {
			l.report(fmt.Errorf("node.access_log.path: %w", err))
		}
		return bounded(out), true
	}
	l.written.Add(n)
	return bounded(out), false
}

// bounded gives back a burst's memory.
func bounded(b []byte) []byte {
	if cap(b) > 4*flushAt {
		return nil
	}
	return b
}

// Reopen opens the path again, after the file was renamed for rotation. On an
// error the log goes on with the old file.
func (l *Log) Reopen() error {
	if l.off {
		return nil
	}
	f, err := open(l.path)
	if err != nil {
		return fmt.Errorf("node.access_log.path: %w", err)
	}
	l.fileMu.Lock()
	old := f
	if !l.ended {
		old, l.file = l.file, f
	}
	l.fileMu.Unlock()
	return old.Close()
}

// Close writes out what waits, closes the file and ends the goroutine. Lines
// written afterwards are lost and counted. Where the disk (or the reader of a
// pipe) hangs, Close returns with ctx and the goroutine ends when it can.
func (l *Log) Close(ctx context.Context) error {
	l.mu.Lock()
	first := !l.closed
	l.closed = true
	l.mu.Unlock()
	if l.off {
		return nil
	}
	if first {
		close(l.stop)
	}
	select {
	case <-l.done:
	case <-ctx.Done():
		return fmt.Errorf("node.access_log.path %q: still writing: %w", l.path, ctx.Err())
	}
	l.fileMu.Lock()
	defer l.fileMu.Unlock()
	if l.ended {
		return nil
	}
	l.ended = true
	return l.file.Close()
}
