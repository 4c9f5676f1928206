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
	out     io.Writer
	closer  io.Closer // nil for what is not ours to close
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
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("waf.event_log.path: %w", err)
	}
	l := NewEventLog(f, format)
	l.closer = f
	return l, nil
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
		if _, err := l.out.Write(buf); err != nil {
			l.failed.Add(1)
		}
		if cap(buf) > 1<<20 {
			buf = nil
		}
	}
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
	if l.closer == nil {
		return nil
	}
	if err := l.closer.Close(); err != nil {
		return fmt.Errorf("waf.event_log: %w", err)
	}
	return nil
}
