package h2

import (
	"errors"
	"io"

	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// broken says why a connection is ended by us.
type broken struct {
	code frames.Code
	why  *reason.Reason
}

func (b *broken) Error() string { return "h2: " + b.code.String() + ": " + b.why.Name }

func protocolError(code frames.Code) *broken { return &broken{code, reason.HTTP2Protocol} }

func flood() *broken { return &broken{frames.EnhanceYourCalm, reason.HTTP2Flood} }

// read reads frames until the connection ends. Its error is a *broken, or of
// the connection.
func (c *conn) read(early []byte) error {
	early, err := c.preface(early)
	if err != nil {
		return err
	}
	r := frames.NewReader(c, early)
	defer r.Release()
	c.frames = r
	for {
		f, err := r.Next()
		if err == nil {
			err = c.take(&f)
		} else {
			err = c.misread(err)
		}
		if err != nil {
			return err
		}
	}
}

// preface reads what every connection begins with.
func (c *conn) preface(early []byte) (rest []byte, err error) {
	const preface = frames.Preface
	if n := min(len(early), len(preface)); n > 0 {
		if string(early[:n]) != preface[:n] {
			return nil, protocolError(frames.ProtocolError)
		}
	}
	if len(early) >= len(preface) {
		return early[len(preface):], nil
	}
	var b [len(preface)]byte
	for n := copy(b[:], early); n < len(b); {
		m, err := c.Read(b[n:])
		if n += m; string(b[:n]) != preface[:n] {
			return nil, protocolError(frames.ProtocolError)
		}
		if m == 0 {
			return nil, err
		}
	}
	return nil, nil
}

// misread tells an error of the connection from one of a frame on it.
func (c *conn) misread(err error) error {
	var e *frames.Error
	if !errors.As(err, &e) {
		return err
	}
	if e.Stream == 0 {
		return protocolError(e.Code)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unopened(e.Stream) { // there is nothing to reset
		return protocolError(e.Code)
	}
	return c.breakHeld(e.Stream, e.Code, reason.HTTP2Protocol)
}

// Read is where the reader waits for the client: what has come is worked off.
func (c *conn) Read(p []byte) (int, error) {
	c.abort()
	for i, s := range c.starting {
		c.starting[i] = nil
		c.srv.workers.run(s)
	}
	c.starting = c.starting[:0]
	c.mu.Lock()
	c.kick()
	c.mu.Unlock()
	c.expect()
	n, err := c.nc.Read(p)
	if n > 0 {
		c.cameAt.Store(c.srv.clock.Now())
	}
	return n, err
}

// expect notes how long what is to come may take.
func (c *conn) expect() {
	var b []byte
	if c.frames != nil {
		b = c.frames.Peek()
	}
	midway := uint32(0)
	if len(b) >= frames.HeaderLen && frames.Type(b[3]) == frames.Data {
		midway = uint32(b[5]&0x7f)<<24 | uint32(b[6])<<16 | uint32(b[7])<<8 | uint32(b[8])
	}
	if c.midway.Load() != midway {
		c.midway.Store(midway)
	}
	late := c.headBy.Load()
	switch {
	case !c.settled || c.head.id != 0 || len(b) > 0 && midway == 0:
		if late == 0 || c.marked != c.taken {
			c.marked = c.taken
			c.headBy.Store(c.srv.clock.After(c.srv.settings.Load().HeadTimeout))
		}
	case late != 0:
		c.headBy.Store(0)
	}
}

func (c *conn) take(f *frames.Frame) error {
	if !c.settled && f.Type != frames.Settings {
		return protocolError(frames.ProtocolError)
	}
	if f.Type != frames.Continuation { // which is a part of what is timed
		c.taken++
	}
	switch f.Type {
	case frames.Data:
		return c.takeData(f)
	case frames.Headers:
		return c.takeHeaders(f)
	case frames.Continuation:
		return c.decode(f)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch f.Type {
	case frames.Settings:
		return c.takeSettings(f)
	case frames.WindowUpdate:
		return c.takeWindow(f)
	case frames.Ping:
		return c.takePing(f)
	case frames.Reset:
		return c.takeReset(f)
	case frames.GoAway:
		c.leave()
	case frames.PushPromise:
		return protocolError(frames.ProtocolError)
	}
	return c.spend(1) // RFC 9113, 5.5: unknown ones are ignored; priorities are history
}

const (
	maxCalm     = frames.MaxCalm
	calmByFrame = frames.CalmByFrame
	calmByTick  = frames.CalmBySecond / 10
	smallStep   = frames.SmallStep
)

// spend accounts for a frame that moves nothing on: PING, SETTINGS, PRIORITY,
// empty DATA and what is like them cost their sender next to nothing, and us an
// answer. c.mu is held.
func (c *conn) spend(cost int) error {
	if c.calm -= cost; c.calm < 0 {
		return flood()
	}
	return nil
}

// earn takes back some of it. c.mu is held.
func (c *conn) earn(n int) { c.calm = min(c.calm+n, maxCalm) }

var _ io.Reader = (*conn)(nil)
