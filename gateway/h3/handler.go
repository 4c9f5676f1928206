package h3

import (
	"net/http"
	"strconv"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/gatehouse-proxy/gatehouse/gateway/pipeline"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// ServeHTTP is what quic-go calls for every request of this connection.
func (c *Conn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := quic.StreamID(-1)
	if b, ok := r.Body.(interface{ StreamID() quic.StreamID }); ok {
		id = b.StreamID()
	}
	c.enter(id)
	defer c.leaveStream(id)
	// What comes as early data (0-RTT) may be somebody's replay of it, until the
	// handshake is over: only the client itself can complete it. quic-go waits
	// for that too, because it asks for the state of TLS first; that is not a
	// promise, and this is. So no request, of whatever method, gets to a route
	// twice, and none needs Early-Data (RFC 8470 5.1).
	select {
	case <-c.quic.HandshakeComplete():
	case <-r.Context().Done():
		panic(http.ErrAbortHandler)
	}
	if why := c.sentence(id); why != nil {
		refuse(w, r, why)
		return
	}
	if !extended(r) && (r.ContentLength == 0 || r.ContentLength < 0 && bodyIsUnusual(r.Method)) {
		p := peek(r.Body)
		defer p.finish()
		switch {
		case p.empty(), r.ContentLength == 0 && !p.read():
			r.Body, r.ContentLength = http.NoBody, 0
		case r.ContentLength == 0: // quic-go has reset the stream
			c.malformed(reason.BadContentLength, r.Method, r.RequestURI)
			panic(http.ErrAbortHandler)
		default:
			r.Body = p
		}
	}
	c.server.settings.Load().Handler.ServeHTTP(w, r)
}

// extended reports a CONNECT that names a protocol (RFC 9220), which quic-go
// gives in the place of the version: what follows is no body.
func extended(r *http.Request) bool {
	return r.Method == http.MethodConnect && r.Proto != "HTTP/3.0"
}

func (c *Conn) enter(id quic.StreamID) {
	c.mu.Lock()
	c.running[id] = struct{}{}
	c.mu.Unlock()
}

func (c *Conn) leaveStream(id quic.StreamID) {
	c.mu.Lock()
	delete(c.running, id)
	c.rest = time.Now()
	if len(c.running) == 0 && !c.ended {
		c.idling.Reset(c.maxRest)
	}
	c.mu.Unlock()
}

// runs reports whether a request is in Handler.
func (c *Conn) runs(id quic.StreamID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.running[id]
	return ok
}

// refuse answers as the bridge does.
func refuse(w http.ResponseWriter, r *http.Request, why *reason.Reason) {
	content := pipeline.AppendProblem(nil, why.Status, why, "")
	h := w.Header()
	h["Content-Type"] = []string{"application/problem+json"}
	h["Cache-Control"] = []string{"no-store"}
	h["Content-Length"] = []string{strconv.Itoa(len(content))}
	w.WriteHeader(why.Status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(content) // whether it arrives or not
	}
}
