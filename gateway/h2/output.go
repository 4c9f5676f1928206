package h2

import (
	"runtime"
	"sync"

	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

const (
	// enough is how many bytes may wait for the connection before streams do.
	enough = 64 << 10
	// tooMuch is when it is given up: its client makes us answer and does not read.
	tooMuch = 1 << 20
	// timedOut marks a write whose time is over.
	timedOut = -1
	// rounds is how often a goroutine with better things to do writes what others
	// have left meanwhile.
	rounds = 4
)

// output is what a connection sends. All of it is guarded by conn.mu.
type output struct {
	c       *conn
	encoder *frames.Encoder
	block   []byte // where fields are compressed
	name    []byte // of a field, in lower case
	digits  []byte
	out     []byte // frames that wait
	// flushing says that somebody writes, and looks for more when done.
	flushing bool
	quiet    sync.Cond // told when nobody writes, and when the last handler has ended

	window, initial int64     // the client's: of the connection, and of a new stream
	queue           []*stream // those that wait for the window, or for room in out
	run             func()    // flushes, made once
}

func (o *output) init(c *conn) {
	o.c = c
	o.encoder = frames.NewEncoder()
	o.window, o.initial = frames.DefaultWindow, frames.DefaultWindow
	o.quiet.L = &c.mu
	o.run = c.flushForOthers
}

// greet says what the server allows.
func (c *conn) greet() {
	set := c.srv.settings.Load()
	all := [...]frames.Setting{
		{ID: frames.MaxFrameSize, Value: frames.MinFrame},
		{ID: frames.MaxConcurrentStreams, Value: uint32(c.limits.MaxStreams)},
		{ID: frames.MaxHeaderListSize, Value: uint32(listSize(&set.Heads))},
		{ID: frames.InitialWindowSize, Value: uint32(c.limits.StreamWindow)},
		{ID: frames.EnableConnectProtocol, Value: 1},
	}
	said := all[:]
	if !c.extended {
		said = said[:len(said)-1]
	}
	o := frames.AppendSettings(c.room(), said...)
	if more := c.receive - frames.DefaultWindow; more > 0 {
		o = frames.AppendWindowUpdate(o, 0, int32(more))
	}
	c.out = o
}

// The buffers of what waits: nearly all replies are small, and many connections
// may have one at the same time.
const smallOut, largeOut = 4 << 10, enough + frames.MinFrame + 2<<10

var (
	smallOuts = sync.Pool{New: func() any { return new([smallOut]byte) }}
	largeOuts = sync.Pool{New: func() any { return new([largeOut]byte) }}
)

// room is where the next frame is to be appended. c.mu is held.
func (c *conn) room() []byte {
	switch n := len(c.out); {
	case c.out == nil:
		c.out = smallOuts.Get().(*[smallOut]byte)[:0]
	case cap(c.out) == smallOut && n > smallOut/2:
		larger := largeOuts.Get().(*[largeOut]byte)[:n]
		copy(larger, c.out)
		giveOut(c.out)
		c.out = larger
	case n > tooMuch && !c.dead:
		c.refuseLater(reason.HTTP2Flood)
		c.fail()
	}
	return c.out
}

func giveOut(b []byte) {
	switch cap(b) {
	case smallOut:
		smallOuts.Put((*[smallOut]byte)(b[:smallOut]))
	case largeOut:
		largeOuts.Put((*[largeOut]byte)(b[:largeOut]))
	}
}

// kick has what waits written by a goroutine of its own, unless somebody is at
// it: the reader must go on reading. c.mu is held.
func (c *conn) kick() {
	if c.claim() {
		go c.run()
	}
}

// claim makes the caller the one who writes. c.mu is held.
func (c *conn) claim() bool {
	if c.flushing || len(c.out) == 0 || c.dead {
		return false
	}
	c.flushing = true
	return true
}

func (c *conn) flushForOthers() {
	// Whoever is about to add a frame gets to do so first.
	runtime.Gosched()
	c.mu.Lock()
	c.flush(1 << 30)
	c.mu.Unlock()
}

// flushOwn is for a handler's goroutine that has claimed the writing.
func (c *conn) flushOwn() {
	runtime.Gosched()
	c.mu.Lock()
	if c.flush(rounds); c.flushing {
		go c.run()
	}
	c.mu.Unlock()
}

// flush writes what waits, and what comes meanwhile, at most so many times. It
// still is the caller's job where c.flushing remains. c.mu is held, but not while
// writing.
func (c *conn) flush(times int) {
	for ; len(c.out) > 0 && !c.dead; times-- {
		if times == 0 {
			return
		}
		out := c.out
		c.out = nil
		c.mu.Unlock()
		if c.writeBy.Load() != timedOut {
			c.writeBy.Store(c.srv.clock.After(c.srv.settings.Load().WriteTimeout))
		}
		_, err := c.nc.Write(out)
		late := c.writeBy.Swap(0) == timedOut
		giveOut(out)
		c.mu.Lock()
		if (err != nil || late) && !c.dead {
			c.fail()
		}
		c.wakeNext()
	}
	if c.dead {
		giveOut(c.out)
		c.out = nil
	}
	c.flushing = false
	c.quiet.Broadcast()
}

// wakeNext lets the first of those go on that wait for the connection, if it
// can. c.mu is held.
func (c *conn) wakeNext() {
	if len(c.queue) > 0 && c.window > 0 && len(c.out) < enough {
		c.queue[0].canWrite.Signal()
	}
}

// enqueue makes s wait for its turn, with the others.
func (s *stream) enqueue() {
	if !s.queued {
		s.queued = true
		s.c.queue = append(s.c.queue, s)
	}
}

// dequeue takes s out, and lets the next one go on.
func (s *stream) dequeue() {
	if !s.queued {
		return
	}
	s.queued = false
	q := s.c.queue
	for i, one := range q {
		if one == s {
			copy(q[i:], q[i+1:])
			q[len(q)-1] = nil
			s.c.queue = q[:len(q)-1]
			break
		}
	}
	s.c.wakeNext()
}

// turn is true when no other stream has waited for longer.
func (s *stream) turn() bool { return len(s.c.queue) == 0 || s.c.queue[0] == s }

// pause waits until something may have changed; what waits is written meanwhile.
// c.mu is held.
func (s *stream) pause() {
	c := s.c
	if c.claim() {
		c.flush(rounds)
		if c.flushing {
			go c.run()
		}
		return
	}
	if s.writeBy == 0 {
		s.writeBy = s.patience()
	}
	s.canWrite.Wait()
}

// patience is the coarse time until which the client has to take something.
func (s *stream) patience() int64 {
	if s.tunnel != nil {
		return s.tunnel.writeBy
	}
	return s.c.srv.clock.After(s.settings.WriteTimeout)
}

// fault is why nothing more can be said on s.
func (s *stream) fault() error {
	switch {
	case s.reset || s.c.dead:
		return errGone
	case s.late:
		return errWriteTimeout
	}
	return nil
}

// awaitRoom waits until a head can be added. c.mu is held.
func (s *stream) awaitRoom() error {
	for {
		if err := s.fault(); err != nil {
			s.dequeue()
			return err
		}
		if len(s.c.out) < enough && s.turn() {
			s.dequeue()
			s.writeBy = 0
			return nil
		}
		s.enqueue()
		s.pause()
	}
}

// send adds p in frames, and with end that nothing follows; it waits for the
// windows and for others. c.mu is held, but not while waiting.
func (s *stream) send(p []byte, end bool) error {
	c := s.c
	for len(p) > 0 {
		if err := s.fault(); err != nil {
			s.dequeue()
			return err
		}
		n := min(int64(len(p)), frames.MinFrame, s.window, c.window)
		switch {
		case s.window <= 0:
			s.dequeue()
			s.pause()
			continue
		case n <= 0 || len(c.out) >= enough || !s.turn():
			s.enqueue()
			s.pause()
			continue
		}
		last := end && n == int64(len(p))
		c.out = frames.AppendData(c.roomFor(int(n)), s.id, last, p[:n])
		s.window -= n
		c.window -= n
		s.replied += n
		s.writeBy = 0
		c.earn(calmByFrame)
		p = p[n:]
		s.dequeue() // one frame, and then the others
		if last {
			s.close()
			return nil
		}
	}
	if err := s.fault(); err != nil {
		return err
	}
	if end {
		c.out = frames.AppendData(c.room(), s.id, true, nil)
		s.close()
	}
	return nil
}

// roomFor is room for a frame of n bytes.
func (c *conn) roomFor(n int) []byte {
	if n > smallOut/2 && cap(c.out) <= smallOut {
		larger := largeOuts.Get().(*[largeOut]byte)[:len(c.out)]
		copy(larger, c.out)
		giveOut(c.out)
		c.out = larger
	}
	return c.room()
}

// close ends the stream once we have ended it: what the client has not sent is
// of no use any more (RFC 9113, 8.1). Its place is free before its client can
// know. c.mu is held.
func (s *stream) close() {
	c := s.c
	if s.tunnel != nil { // its client may go on
		s.closed = true
		return
	}
	if !s.ended && !s.reset {
		c.out = frames.AppendReset(c.room(), s.id, frames.NoError)
		c.cut.add(s.id)
	}
	s.closed = true
	c.forget(s)
}

// sendBlock adds a block of fields that has been compressed into c.block.
func (s *stream) sendBlock(end bool) {
	c := s.c
	c.out = frames.AppendBlock(c.room(), s.id, end, c.block, frames.MinFrame)
	c.block = little(c.block)
	if end {
		s.close()
	}
}

// maxKept is what a connection keeps of a buffer that it needs now and then: there
// may be many of them that do nothing, and clients say how large it grows.
const maxKept = 8 << 10

// little is b, to be used again, unless it has grown large.
func little(b []byte) []byte {
	if cap(b) > maxKept {
		return nil
	}
	return b[:0]
}
