package h3

import (
	"net/http"
	"time"

	"github.com/quic-go/quic-go"
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
	if r.ContentLength < 0 && bodyIsUnusual(r.Method) {
		p := peek(r.Body)
		defer p.finish()
		if p.empty() {
			r.Body, r.ContentLength = http.NoBody, 0
		} else {
			r.Body = p
		}
	}
	c.server.settings.Load().Handler.ServeHTTP(w, r)
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
	c.mu.Unlock()
}

// runs reports whether a request is in Handler.
func (c *Conn) runs(id quic.StreamID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.running[id]
	return ok
}
