package h1

import (
	"errors"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/live"
	"github.com/gatehouse-proxy/gatehouse/gateway/pipeline"
	"github.com/gatehouse-proxy/gatehouse/gateway/proxyproto"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

var (
	statusLines   = allStatusLines()
	statusLine100 = []byte("HTTP/1.1 100 Continue\r\n\r\n")
)

const firstStatus, lastStatus = 100, 999

func allStatusLines() (t [lastStatus + 1][]byte) {
	for i := firstStatus; i < 600; i++ {
		t[i] = []byte("HTTP/1.1 " + strconv.Itoa(i) + " " + fasthttp.StatusMessage(i) + "\r\n")
	}
	for i := 600; i <= lastStatus; i++ {
		t[i] = []byte("HTTP/1.1 " + strconv.Itoa(i) + " \r\n")
	}
	return t
}

// statusLine is for status codes from 100 to 999.
func statusLine(status int) []byte { return statusLines[status] }

// write writes all of p, or fails when the client takes too long over a piece of it.
func (c *conn) write(p []byte) error {
	if c.inReady {
		var err error
		if p, err = c.writeNow(p); err != nil || len(p) == 0 {
			return err
		}
	}
	for len(p) > 0 {
		piece := p[:min(len(p), maxWrite)]
		if !c.startWrite() {
			return errWriteTimeout
		}
		n, err := c.nc.Write(piece)
		if c.writeBy.Swap(0) == timedOut {
			c.writeBy.Store(timedOut)
			return errWriteTimeout
		}
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err = errWriteTimeout
			}
			return err
		}
		p = p[n:]
	}
	return nil
}

// startWrite sets the time limit of a write. Once one was missed there are no more.
func (c *conn) startWrite() bool {
	before := c.writeBy.Load()
	return before != timedOut && c.writeBy.CompareAndSwap(before, c.srv.clock.After(c.settings.WriteTimeout))
}

// refuse answers what never became a request, and is the last thing said.
func (c *conn) refuse(why *reason.Reason) {
	c.phase.Store(phaseEnding)
	if c.seq.Load() == 0 && c.announced() {
		why = reason.ProxyHeaderUntrusted
	}
	if f := c.settings.Refused; f != nil {
		var head []byte
		if c.s != nil {
			head = c.s.in[c.r:c.w]
			if why == reason.Internal {
				head = c.s.head.Raw
			}
		}
		f(why, c.peer, head)
	}
	body := pipeline.AppendProblem(nil, why.Status, why, "")
	o := append(make([]byte, 0, 512), statusLine(why.Status)...)
	o = append(o, "Content-Type: application/problem+json\r\nCache-Control: no-store\r\nDate: "...)
	o = append(o, c.srv.clock.Date()...)
	o = append(o, "\r\nConnection: close\r\nContent-Length: "...)
	o = strconv.AppendInt(o, int64(len(body)), 10)
	o = append(o, "\r\n\r\n"...)
	_ = c.write(append(o, body...)) // the connection ends, whether it arrives or not
}

// announced reports that what the client sent first is a PROXY header: those
// that are to be believed never come here.
func (c *conn) announced() bool {
	if c.s == nil {
		return false
	}
	b := c.s.in[:c.w] // from the first byte on: of version 2, two are a blank line to us
	return len(b) > len("\r\n\r\n") && proxyproto.Look(b) != proxyproto.Other
}

// linger lets the client read our last words: it closes our side and swallows
// what the client still sends. Closing at once would make the kernel throw the
// reply away if the client is sending.
func (c *conn) linger() {
	c.phase.Store(phaseEnding)
	if t, ok := c.nc.(interface{ CloseWrite() error }); !ok || t.CloseWrite() != nil {
		return
	}
	by := c.srv.clock.After(lingerTime)
	if c.nc.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	var p [4 << 10]byte
	for n := 0; n < maxLinger; {
		m, err := c.nc.Read(p[:])
		if errors.Is(err, os.ErrDeadlineExceeded) && c.srv.clock.Now() < by {
			err = c.nc.SetReadDeadline(time.Now().Add(live.Tick)) // it was us who paused
		}
		if err != nil {
			return
		}
		n += m
	}
}

// reset makes closing the connection an error for the client: a reply that was
// cut must not look whole.
func (c *conn) reset() {
	c.cut = true
	nc := c.nc
	below, isTLS := nc.(interface{ NetConn() net.Conn })
	if isTLS {
		nc = below.NetConn()
	}
	if t, ok := nc.(interface{ SetLinger(int) error }); ok {
		_ = t.SetLinger(0) // closed already: as good
	}
	if isTLS {
		_ = nc.Close() // at once: closing TLS would first say that all is well
	}
}
