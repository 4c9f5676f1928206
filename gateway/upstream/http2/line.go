package http2

import "github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"

// line is a queue of streams that wait to send. Only the first is woken; it
// wakes the next one when it has had its turn, or needs none. link.mu guards it.
type line struct{ first, last *Conn }

// place is where a stream waits. It is in one line at a time.
type place struct {
	in         *line
	prev, next *Conn
	bell       chan struct{}
}

// add puts c at the end, unless it is in this line already.
func (q *line) add(c *Conn, bell chan struct{}) {
	if c.place.in == q {
		return
	}
	c.place.in.remove(c)
	c.place = place{in: q, prev: q.last, bell: bell}
	if q.last == nil {
		q.first = c
	} else {
		q.last.place.next = c
	}
	q.last = c
}

// remove takes c out. A line that is nil has nobody in it.
func (q *line) remove(c *Conn) {
	if q == nil {
		return
	}
	if p := &c.place; p.prev == nil {
		q.first = p.next
	} else {
		p.prev.place.next = p.next
	}
	if p := &c.place; p.next == nil {
		q.last = p.prev
	} else {
		p.next.place.prev = p.prev
	}
	c.place = place{}
}

// wake lets the first one try.
func (q *line) wake() {
	if q.first != nil {
		ring(q.first.place.bell)
	}
}

// turn is true if nobody has waited for longer than c.
func (q *line) turn(c *Conn) bool { return q.first == nil || q.first == c }

// nextLocked lets those try whose turn it is. l.mu is held.
func (l *link) nextLocked() {
	l.room.wake()
	if l.window > 0 {
		l.share.wake()
	}
}

// drained is told that what waited has been written.
func (l *link) drained() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nextLocked()
}

// turnAway is called when who has the request turns from waiting to send to
// something else, which may take its time: others wait behind it.
func (c *Conn) turnAway() {
	if !c.uploaded { // or another goroutine sends
		c.link.unqueue(c)
	}
}

// unqueue takes c out of its line, and lets the next one try.
func (l *link) unqueue(c *Conn) {
	if !c.queued {
		return
	}
	c.queued = false
	l.mu.Lock()
	defer l.mu.Unlock()
	l.outLocked(c)
	l.nextLocked()
}

// outLocked takes c out of its line. l.mu is held.
func (l *link) outLocked(c *Conn) {
	c.stuck = nil
	if c.place.in != nil {
		c.place.in.remove(c)
		l.lined.Add(-1)
	}
}

// admit is false if c is not to begin now: then its bell will ring. full says
// that too much waits to be sent. Begin has been called.
func (l *link) admit(c *Conn, full bool) bool {
	if !full && l.lined.Load() == 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if full || !l.room.turn(c) {
		l.enqueue(&l.room, c, c.bell)
		return false
	}
	c.queued = false
	l.outLocked(c)
	return true
}

// enqueue makes c wait in q. l.mu is held.
func (l *link) enqueue(q *line, c *Conn, bell chan struct{}) {
	if c.place.in == nil {
		l.lined.Add(1)
	}
	c.queued, c.stuck = true, nil
	q.add(c, bell)
}

// endWrite ends a write that Begin has begun. If others wait for their turn, it is
// the next one's, as soon as there is room.
func (l *link) endWrite(b []byte) {
	switch {
	case l.lined.Load() == 0:
		l.w.End(b)
	case len(b) >= frames.Enough:
		l.w.Await(b)
	default:
		l.drained()
		l.w.End(b)
	}
}
