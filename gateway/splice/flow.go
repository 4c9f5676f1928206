package splice

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// smallBuffer is what a connection that is no socket holds while it waits.
	smallBuffer = 4 << 10
	// largeBuffer is for streams, and for what is read from a socket. What fills
	// it is a stream, for the kernel to move if it can.
	largeBuffer = 32 << 10
	// fewBytes in one piece say that the stream has become a conversation.
	fewBytes = 8 << 10
)

var (
	smallBuffers = sync.Pool{New: func() any { b := make([]byte, smallBuffer); return &b }}
	largeBuffers = sync.Pool{New: func() any { b := make([]byte, largeBuffer); return &b }}
)

// flow is one direction. Its goroutine owns all fields but count.
type flow struct {
	pair                        *Pair
	src, dst                    *end
	ended, srcFailed, dstFailed End
	count                       atomic.Int64

	// When the deadlines were last set: they move only when they have become
	// much too early, since whoever meets one looks at the idle time again.
	readArmed, writeArmed time.Time

	buf    *[]byte // holds what was read, while there is something
	n      int     // bytes read and not yet written, in buf or pipe
	err    error   // of the last system call
	bulk   bool    // it is a stream: the kernel moves it
	copies bool    // the kernel does not
	pipe   *kernelPipe

	// Made once, because a method value allocates.
	read, fill, flush func(fd uintptr) bool
}

func (f *flow) init(p *Pair, src, dst *end, ended, srcFailed, dstFailed End) {
	f.pair, f.src, f.dst = p, src, dst
	f.ended, f.srcFailed, f.dstFailed = ended, srcFailed, dstFailed
	f.copies = src.raw == nil || dst.raw == nil
	f.read, f.fill, f.flush = f.readReady, f.fillReady, f.flushReady
}

// run passes on first and what src sends until it ends, then half-closes dst.
func (f *flow) run(first []byte) {
	defer f.free()
	if f.pass(first) {
		f.pair.note(f.ended, nil)
		if err := halfClose(f.dst.Conn); err != nil {
			f.pair.fail(f.dstFailed, err)
		}
	}
}

func (f *flow) free() {
	f.giveBuffer()
	if f.pipe != nil {
		f.pipe.put(f.n == 0)
		f.pipe = nil
	}
}

// pass returns true when src has ended; else it has told why.
func (f *flow) pass(first []byte) bool {
	p := f.pair
	if p.settings.Screen != nil && f == &p.up {
		held, ok := f.screen(first)
		if !ok {
			return false
		}
		first = held
	}
	if !f.write(first) {
		return false
	}
	for {
		err := f.await()
		if err == nil {
			err = f.take()
		}
		switch {
		case err == nil:
			if !f.put() {
				return false
			}
		case err == io.EOF, f.ending():
			return true
		case !timedOut(err) || p.over.Load():
			p.fail(f.srcFailed, err)
			return false
		default:
			if !f.idles() {
				return false
			}
			f.readArmed = time.Time{}
			if p.settings.Idle <= 0 {
				_ = f.src.SetReadDeadline(time.Time{}) // one that somebody left behind
			}
		}
	}
}

// ending reports that nothing more of src is wanted.
func (f *flow) ending() bool { return f == &f.pair.up && f.pair.told.Load() && !f.pair.over.Load() }

// idles is called when a deadline has passed: perhaps only because the other
// direction was busy. It ends both if not.
func (f *flow) idles() bool {
	p := f.pair
	if p.settings.Idle > 0 && p.left(time.Now()) <= 0 {
		p.fail(Idle, errIdle)
		return false
	}
	return true
}

// await sets the time until which src may be silent.
func (f *flow) await() error {
	p := f.pair
	if idle := p.settings.Idle; idle > 0 {
		now := time.Now()
		if now.Sub(f.readArmed) > idle/8 {
			f.readArmed = now
			if err := f.src.SetReadDeadline(now.Add(max(p.left(now), time.Millisecond))); err != nil {
				return err
			}
		}
	}
	if p.over.Load() || f.ending() { // do not undo the deadline that says so
		return errStopped
	}
	return nil
}

// take reads something, into the kernel's pipe or a buffer.
func (f *flow) take() error {
	switch {
	case f.bulk && !f.copies:
		return f.call(f.src.raw.Read(f.fill))
	case f.src.raw != nil:
		return f.call(f.src.raw.Read(f.read))
	}
	if f.buf == nil {
		f.buf = f.buffer()
	}
	n, err := f.src.Read(*f.buf)
	if n > 0 {
		f.n = n
		return nil // err comes again
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// buffer is one for a connection that is no socket, which holds it while it waits.
func (f *flow) buffer() *[]byte {
	if f.bulk {
		return largeBuffers.Get().(*[]byte)
	}
	return smallBuffers.Get().(*[]byte)
}

func (f *flow) giveBuffer() {
	if f.buf == nil {
		return
	}
	if len(*f.buf) == largeBuffer {
		largeBuffers.Put(f.buf)
	} else {
		smallBuffers.Put(f.buf)
	}
	f.buf = nil
}

// call is the outcome of a RawConn's function: its own error, else that of the
// system call inside.
func (f *flow) call(err error) error {
	if err == nil {
		err = f.err
	}
	if err == nil && f.n == 0 {
		err = io.EOF
	}
	return err
}

// readReady reads what there is. The buffer is taken only when there is
// something.
func (f *flow) readReady(fd uintptr) (done bool) {
	f.n, f.err = 0, nil
	f.buf = largeBuffers.Get().(*[]byte)
	for {
		n, err := syscall.Read(int(fd), *f.buf)
		switch {
		case err == syscall.EINTR:
			continue
		case n > 0:
			f.n = n
			return true
		}
		f.giveBuffer()
		if err == syscall.EAGAIN {
			return false
		}
		if err != nil {
			f.err = err
		}
		return true
	}
}

// put writes what was taken, and decides how to take the next piece.
func (f *flow) put() bool {
	n := f.n
	f.pair.touch(time.Now())
	if f.pipe != nil {
		if !f.writePipe() {
			return false
		}
		f.bulk = n >= fewBytes
		return true
	}
	size := len(*f.buf)
	ok := f.write((*f.buf)[:n])
	f.n = 0
	f.bulk = n == size || f.bulk && n >= fewBytes
	if f.src.raw != nil || f.bulk != (size == largeBuffer) {
		f.giveBuffer()
	}
	return ok
}

// write writes all of b to dst. It is given up only when dst takes nothing for
// the idle time, not when it is slow.
func (f *flow) write(b []byte) bool {
	for len(b) > 0 {
		if err := f.awaitWrite(); err != nil {
			f.pair.fail(f.dstFailed, err)
			return false
		}
		n, err := f.dst.Write(b)
		f.wrote(n)
		b = b[n:]
		if err != nil && !f.goesOn(err, n) {
			return false
		}
	}
	return true
}

// wrote counts what dst has taken.
func (f *flow) wrote(n int) {
	if n > 0 {
		f.count.Add(int64(n))
		f.pair.touch(time.Now())
	}
}

// awaitWrite sets the time within which dst must take something.
func (f *flow) awaitWrite() error {
	p := f.pair
	if idle := p.settings.Idle; idle > 0 {
		if now := time.Now(); now.Sub(f.writeArmed) > idle/8 {
			f.writeArmed = now
			if err := f.dst.SetWriteDeadline(now.Add(idle)); err != nil {
				return err
			}
		}
	}
	if p.over.Load() {
		return errStopped
	}
	return nil
}

// goesOn looks at why not all was written.
func (f *flow) goesOn(err error, n int) bool {
	p := f.pair
	if !timedOut(err) || p.over.Load() || !f.dst.parts {
		p.fail(f.dstFailed, err)
		return false
	}
	if n == 0 && !f.idles() {
		return false
	}
	f.writeArmed = time.Time{}
	return true
}

// screen shows the client's first bytes to Settings.Screen before the server.
func (f *flow) screen(first []byte) (held []byte, ok bool) {
	p := f.pair
	held = append(make([]byte, 0, max(Screened, len(first))), first...)
	for {
		decided, err := p.settings.Screen(held[:min(len(held), Screened)])
		if err != nil {
			p.fail(Refused, err)
			return nil, false
		}
		if decided || len(held) >= Screened {
			return held, true
		}
		f.readArmed = time.Time{}
		if len(held) > 0 {
			err = f.src.SetReadDeadline(time.Now().Add(p.settings.ScreenTime))
		} else {
			err = f.await()
		}
		if err == nil && (p.over.Load() || f.ending()) {
			err = errStopped
		}
		if err == nil {
			var n int
			n, err = f.src.Read(held[len(held):Screened])
			held = held[:len(held)+n]
			if n > 0 {
				p.touch(time.Now())
				continue
			}
		}
		if errors.Is(err, io.EOF) || f.ending() || timedOut(err) && len(held) > 0 && !p.over.Load() {
			f.readArmed = time.Time{}
			return held, true // an end comes again
		}
		if !timedOut(err) || p.over.Load() {
			p.fail(f.srcFailed, err)
			return nil, false
		}
		if !f.idles() {
			return nil, false
		}
	}
}
