package waf

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
)

// queued is how many events may wait to be written. An attack makes thousands
// a second; what a slow disk cannot take is dropped and counted.
const queued = 1024

// EventLog writes events to a file. Send never waits: a goroutine writes, and
// events that find its queue full are dropped.
type EventLog struct {
	format  Format
	path    string     // empty for what is not ours to open and close
	fileMu  sync.Mutex // guards out and ended; taken without mu
	out     io.Writer
	ended   bool // out is closed for good
	queue   chan *Event
	dropped atomic.Uint64
	failed  atomic.Uint64
	wg      sync.WaitGroup
	mu      sync.RWMutex // guards closed against Send
	closed  bool
}

var _ Sink = (*EventLog)(nil)

// OpenEventLog opens "stdout", "stderr" or a file, which is appended to, and
// starts writing. Close must be called.
func OpenEventLog(path string, format Format) (*EventLog, error) {
	switch path {
	case "stdout":
		return NewEventLog(os.Stdout, format), nil
	case "stderr":
		return NewEventLog(os.Stderr, format), nil
	}
	f, err := openEvents(path)
	if err != nil {
		return nil, err
	}
	l := NewEventLog(f, format)
	l.path = path
	return l, nil
}

func openEvents(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("waf.event_log.path: %w", err)
	}
	return f, nil
}

// NewEventLog starts writing to out, which it does not close.
func NewEventLog(out io.Writer, format Format) *EventLog {
	l := &EventLog{format: format, out: out, queue: make(chan *Event, queued)}
	l.wg.Go(l.write)
	return l
}

// Send implements Sink. After Close it drops.
func (l *EventLog) Send(e *Event) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if !l.closed {
		select {
		case l.queue <- e:
			return
		default:
		}
	}
	l.dropped.Add(1)
}

// Dropped is how many events were not written because the queue was full or
// writing failed.
func (l *EventLog) Dropped() uint64 { return l.dropped.Load() + l.failed.Load() }

func (l *EventLog) write() {
	var buf []byte
	for e := range l.queue {
		buf = l.format.Append(buf[:0], e)
		l.fileMu.Lock()
		_, err := l.out.Write(buf)
		l.fileMu.Unlock()
		if err != nil {
			l.failed.Add(1)
		}
		if cap(buf) > 1<<20 {
			buf = nil
		}
	}
}

// Reopen opens the path again, after the file was renamed for rotation. On an
// error the log goes on with the old file. After Close it does nothing.
func (l *EventLog) Reopen() error {
	if l.path == "" {
		return nil
	}
	f, err := openEvents(l.path)
	if err != nil {
		return err
	}
	var old io.Writer = f
	l.fileMu.Lock()
	if !l.ended {
		old, l.out = l.out, f
	}
	l.fileMu.Unlock()
	return closeEvents(old)
}

func closeEvents(out io.Writer) error {
	if err := out.(io.Closer).Close(); err != nil { // with a path it is a file
		return fmt.Errorf("waf.event_log: %w", err)
	}
	return nil
}

// Close writes what is waiting and ends. It is safe twice.
func (l *EventLog) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	close(l.queue)
	l.mu.Unlock()
	l.wg.Wait()
	if l.path == "" {
		return nil
	}
	l.fileMu.Lock()
	defer l.fileMu.Unlock()
	l.ended = true
	return closeEvents(l.out)
}
