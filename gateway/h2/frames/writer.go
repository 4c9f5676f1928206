package frames

import (
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Enough is how many bytes may wait for a connection that takes no more before
	// bodies and new streams should (see Await).
	Enough = 64 << 10
	// TooMuch is when the connection is given up: a peer that makes us answer and
	// does not read.
	TooMuch = 4 << 20
	// lastWords is how long Close lets what was written still go out.
	lastWords = time.Second
)

var longAgo = time.Unix(1, 0)

// Writer is the sending side of a connection, for any number of writers. What
// they append while a write is under way goes out together with the next one:
// system calls, and records over TLS, are far fewer than frames. Nobody waits
// for the kernel.
type Writer struct {
	nc      net.Conn
	timeout time.Duration
	drained func()
	run     func() // flush, made once
	watch   *time.Timer
	began   atomic.Int64 // when the write that is under way did, in Unix nanoseconds; 0: none is

	mu      sync.Mutex // guards what follows
	waiting []byte
	spare   []byte // what waits while waiting is being written
	writing bool   // somebody writes, and looks for more when done
	wanted  bool   // drained is to be called when bytes have gone
	closed  bool   // Close was called: no more is taken
	failed  error  // of the first write that failed
}

// NewWriter writes to nc, which it closes when a write fails or gets nowhere for
// timeout (0: never). drained is told when bytes have gone that Await was called
// for, or will never go; it runs on the goroutine that writes.
func NewWriter(nc net.Conn, timeout time.Duration, drained func()) *Writer {
	w := &Writer{nc: nc, timeout: timeout, drained: drained}
	w.run = w.flush
	return w
}

// Begin begins to append to what waits: whatever is appended to b until End is
// sent in one piece, and nobody else writes before. An error, which is final,
// says that nothing more can be sent; End is not to be called then.
func (w *Writer) Begin() (b []byte, err error) {
	w.mu.Lock()
	if w.closed || w.failed != nil {
		err := w.failed
		w.mu.Unlock()
		if err == nil {
			err = net.ErrClosed
		}
		return nil, err
	}
	if w.waiting == nil {
		w.waiting = buffers.Get().(*[bufferSize]byte)[:0]
	}
	return w.waiting, nil
}

// End ends what Begin has begun.
func (w *Writer) End(b []byte) {
	w.waiting = b
	start := !w.writing && len(b) > 0
	if !w.writing && !start {
		give(b)
		w.waiting = nil
	}
	if len(b) > TooMuch && w.failed == nil {
		w.failed = Break(EnhanceYourCalm, "the peer does not read what it makes us send")
		_ = w.nc.Close() // whoever writes fails
	}
	w.writing = w.writing || start
	w.mu.Unlock()
	if start {
		go w.run()
	}
}

// Await ends what Begin has begun where b is too full to append more: drained
// will be told.
func (w *Writer) Await(b []byte) {
	w.wanted = true
	w.End(b)
}

// buffers have room for all that may wait, so that they seldom grow.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

const bufferSize = Enough + MinFrame + HeaderLen

func give(b []byte) {
	if cap(b) == bufferSize {
		buffers.Put((*[bufferSize]byte)(b[:bufferSize]))
	}
}

// flush writes what waits, and what has come meanwhile, until there is no more.
func (w *Writer) flush() {
	// Whoever is about to write the next frame gets to do so first.
	runtime.Gosched()
	w.mu.Lock()
	for len(w.waiting) > 0 && w.failed == nil {
		out := w.waiting
		w.waiting, w.spare = w.spare, nil
		w.write(out)
		if w.waiting == nil {
			w.waiting = out[:0]
		} else {
			w.spare = out[:0]
		}
	}
	give(w.waiting)
	give(w.spare)
	w.waiting, w.spare, w.writing = nil, nil, false
	closed := w.closed || w.failed != nil
	w.tell()
	if closed {
		_ = w.nc.Close() // Close has answered already
	}
}

// tell calls drained if it is wanted. w.mu is held, and is not after.
func (w *Writer) tell() {
	wanted := w.wanted
	w.wanted = false
	w.mu.Unlock()
	if wanted && w.drained != nil {
		w.drained()
	}
}

// write writes out. w.mu is held, but not while writing.
func (w *Writer) write(out []byte) {
	watched := w.timeout > 0 && !w.closed // Close has set the last deadline
	if watched {
		w.began.Store(time.Now().UnixNano())
		if w.watch == nil {
			w.watch = time.AfterFunc(w.timeout, w.look)
		}
	}
	w.mu.Unlock()
	_, err := w.nc.Write(out)
	w.began.Store(0)
	w.mu.Lock()
	if w.failed == nil {
		w.failed = err
	}
	if w.wanted {
		w.tell()
		w.mu.Lock()
	}
}

// look ends a connection whose write gets nowhere. The timer is not set for
// every write: it looks itself whether one takes too long.
func (w *Writer) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	began := w.began.Load()
	if w.closed || w.failed != nil || !w.writing || began == 0 {
		w.watch = nil
		return
	}
	if left := w.timeout - time.Duration(time.Now().UnixNano()-began); left > 0 {
		w.watch.Reset(left)
		return
	}
	w.failed = errStuck
	_ = w.nc.Close() // whoever writes fails
}

var errStuck = Break(InternalError, "the peer takes nothing any more")

// Close takes no more and closes the connection once what was written has gone
// out, within a second; reads end at once.
func (w *Writer) Close() {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return
	}
	w.closed = true
	if w.watch != nil {
		w.watch.Stop()
	}
	if !w.writing {
		w.mu.Unlock()
		_ = w.nc.Close() // nobody is left to hear of an error
		return
	}
	// Both fail only where the writer will fail as well.
	_ = w.nc.SetWriteDeadline(time.Now().Add(lastWords))
	_ = w.nc.SetReadDeadline(longAgo)
	w.tell()
}
