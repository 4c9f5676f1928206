package http2

import (
	"errors"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// input is what only the goroutine that reads a connection touches.
type input struct {
	link   *link
	r      *frames.Reader
	dec    *hpack.Decoder
	inflow frames.Inflow
	begun  bool // the first frame has come
	block  block
	bells  []chan struct{} // to be rung
	calm   int             // frames that ask for nothing which the endpoint may still send
	calmed int64           // when it was last given some, in Unix nanoseconds
	moved  int             // frames since then that have moved something on
}

func (in *input) start(l *link) {
	in.link = l
	in.calm, in.calmed = frames.MaxCalm, l.heard.Load()
	in.r = frames.NewReader(l, nil)
	in.dec = hpack.NewDecoder(frames.DefaultTable, in.block.field)
	in.dec.SetMaxStringLength(headFactor * l.pool.settings.Limits.Head)
	in.inflow = frames.NewInflow(connWindow)
	in.block.limit = uint32(headFactor * l.pool.settings.Limits.Head)
}

// run reads the connection until it ends.
func (in *input) run() {
	l := in.link
	var err error
	for err == nil {
		err = in.next()
	}
	code := frames.NoError
	fail := &fault{reason: reason.UpstreamReset, cause: err, connection: true}
	if broken := brokenBy(err); broken != nil {
		code = broken.Code
		fail.cause = errors.New("the endpoint broke the rules of HTTP/2: " + err.Error())
		if code != frames.FrameSizeError { // what is none of HTTP/2 at all
			fail.reason = reason.UpstreamProtocol
		}
	}
	if !in.begun {
		fail.cause = l.stranger(err)
	}
	in.ring()
	l.end(fail, code)
	in.r.Release()
}

// next reads and deals with one frame. An error ends the connection.
func (in *input) next() error {
	f, err := in.r.Next()
	if err == nil {
		err = in.frame(f)
	}
	if err != nil {
		if broken := brokenBy(err); broken != nil && broken.Stream != 0 {
			in.broken(broken)
			return nil
		}
	}
	return err
}

// brokenBy is err as the rule that has been broken; nil if it is none.
func brokenBy(err error) (broken *frames.Error) {
	errors.As(err, &broken)
	return broken
}

// ring wakes all who wait for what has come.
func (in *input) ring() {
	for i, bell := range in.bells {
		ring(bell)
		in.bells[i] = nil
	}
	in.bells = in.bells[:0]
}

// frame deals with one frame.
func (in *input) frame(f frames.Frame) error {
	if !in.begun {
		if f.Type != frames.Settings || f.Acknowledges() {
			return frames.Break(frames.ProtocolError, "the first frame is not SETTINGS")
		}
		in.begun = true
		err := in.settings(&f)
		if err == nil {
			close(in.link.settled)
		}
		return err
	}
	switch f.Type {
	case frames.Data:
		return in.data(&f)
	case frames.Headers:
		if err := in.known(f.Stream); err != nil {
			return err
		}
		in.block.begin(f.Stream, f.Ended())
		return in.fragment(&f)
	case frames.Continuation:
		return in.fragment(&f)
	case frames.Reset:
		return in.reset(&f)
	case frames.Settings:
		return in.settings(&f)
	case frames.PushPromise:
		return frames.Break(frames.ProtocolError, "a push, which was not allowed")
	case frames.Ping:
		if !f.Acknowledges() {
			data := [8]byte(f.Payload)
			in.link.control(func(b []byte) []byte { return frames.AppendPing(b, true, data) })
		}
		return in.spend(1)
	case frames.GoAway:
		in.link.leaving(f.Uint32(), f.GoAwayCode())
		return in.spend(1)
	case frames.WindowUpdate:
		return in.windowUpdate(&f)
	default: // unknown ones are ignored; priorities are history
		return in.spend(1)
	}
}

// spend accounts for a frame that moves nothing on, as our server does: PING,
// SETTINGS, empty DATA and what is like them cost the endpoint next to nothing,
// and us an answer.
func (in *input) spend(cost int) error {
	if in.calm -= cost; in.calm >= 0 {
		return nil
	}
	l, now := in.link, time.Now().UnixNano()
	l.mu.Lock()
	moved := in.moved + l.moved
	in.moved, l.moved = 0, 0
	l.mu.Unlock()
	in.calm += int(min(frames.MaxCalm, (now-in.calmed)*frames.CalmBySecond/int64(time.Second)+int64(moved)*frames.CalmByFrame))
	if in.calmed = now; in.calm < 0 {
		return frames.Break(frames.EnhanceYourCalm, "too many frames that ask for nothing")
	}
	return nil
}

// known makes sure that the stream has been opened; it may be over.
func (in *input) known(id uint32) error {
	l := in.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if id%2 == 0 || id >= l.next {
		return frames.Break(frames.ProtocolError, "a frame on a stream that was never opened")
	}
	return nil
}

// stream finds who has a stream, with its lock held; nil: nobody, or nobody any
// more.
func (in *input) stream(id uint32) *Conn {
	l := in.link
	l.mu.Lock()
	c := l.streams[id]
	l.mu.Unlock()
	if c == nil {
		return nil
	}
	c.mu.Lock()
	if c.link != l || c.id.Load() != id {
		c.mu.Unlock()
		return nil
	}
	return c
}

// settings takes the endpoint's SETTINGS over and says so.
func (in *input) settings(f *frames.Frame) error {
	l := in.link
	if f.Acknowledges() {
		return in.spend(1)
	}
	b, err := l.w.Begin()
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		s, more, err := f.Setting(i)
		if err == nil && more {
			err = l.set(s)
		}
		if err != nil {
			l.w.End(b)
			return err
		}
		if !more {
			break
		}
	}
	l.w.End(frames.AppendSettingsAck(b))
	l.pool.freed()
	return in.spend(1 + len(f.Payload)/60)
}

// set takes one setting over. What is sent is held up meanwhile.
func (l *link) set(s frames.Setting) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch s.ID {
	case frames.HeaderTableSize:
		l.enc.SetTable(s.Value)
	case frames.EnablePush:
		if s.Value != 0 {
			return frames.Break(frames.ProtocolError, "SETTINGS_ENABLE_PUSH from a server")
		}
	case frames.MaxConcurrentStreams:
		l.most.Store(int32(min(s.Value, frames.MaxWindow)))
	case frames.MaxFrameSize:
		l.frame = int(min(s.Value, frames.Enough)) // no more goes out at once anyway
	case frames.MaxHeaderListSize:
		l.list = int64(s.Value)
	case frames.InitialWindowSize:
		grow := int64(s.Value) - int64(l.initial)
		l.initial = frames.Window(s.Value)
		for _, c := range l.streams {
			if !c.window.Add(grow) {
				return frames.Break(frames.FlowControlError, "SETTINGS_INITIAL_WINDOW_SIZE makes a window too large")
			}
			c.unstick()
		}
	}
	return nil
}

func (in *input) windowUpdate(f *frames.Frame) error {
	l := in.link
	if f.Stream != 0 {
		if err := in.known(f.Stream); err != nil {
			return err
		}
	}
	if f.Uint32() < frames.SmallStep {
		if err := in.spend(1); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.Stream == 0 {
		if !l.window.Add(int64(f.Uint32())) {
			return frames.Break(frames.FlowControlError, "the connection's window is too large")
		}
		l.nextLocked()
	} else if c := l.streams[f.Stream]; c != nil {
		if !c.window.Add(int64(f.Uint32())) {
			return &frames.Error{Code: frames.FlowControlError, Stream: f.Stream, Detail: "the stream's window is too large"}
		}
		c.unstick()
	}
	return nil
}

// unstick wakes who waits for the stream's window. l.mu is held.
func (c *Conn) unstick() {
	if c.stuck != nil && c.window > 0 {
		ring(c.stuck)
		c.stuck = nil
	}
}

// leaving is told by GOAWAY that streams above last will not be looked at.
func (l *link) leaving(last uint32, code frames.Code) {
	l.ending.Store(true)
	f := &fault{
		reason: reason.UpstreamReset, unsent: true, connection: true,
		cause: errors.New("the endpoint takes no more requests on this connection: GOAWAY with " + code.String()),
	}
	l.mu.Lock()
	l.last = min(l.last, last)
	var all []ended
	for id, c := range l.streams {
		if id > l.last {
			c.over = true
			all = append(all, ended{c, id})
			delete(l.streams, id)
		}
	}
	l.mu.Unlock()
	for _, e := range all {
		e.c.fail(l, e.id, f)
	}
	l.pool.retire(l)
}
