package bridge

import (
	"net/http"
	"slices"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

const (
	version = " HTTP/1.1\r\n"
	// maxPooledHead keeps one large head from holding memory for ever.
	maxPooledHead = 64 << 10
)

// readHead writes the request's head down in the form of HTTP/1 and has it read
// as such. That its fields come in alphabetical order is because their own is
// not known any more, and any other would change from one request to the next.
func (s *stream) readHead(r *http.Request) *reason.Reason {
	lines, why := 1, s.lineOf(r)
	method := r.Method
	if s.connect {
		method = http.MethodGet
	}
	o := append(s.raw[:0], method...)
	o = append(o, ' ')
	o = append(o, r.RequestURI...)
	s.line = len(o)
	o = append(o, version...)
	o = append(append(append(o, "Host: "...), r.Host...), "\r\n"...)
	s.names = s.names[:0]
	for name := range r.Header {
		s.names = append(s.names, name)
	}
	slices.Sort(s.names)
	for _, name := range s.names {
		values := r.Header[name]
		switch {
		case why != nil:
		case name == "Host":
			why = sameHost(r.Host, values)
			continue
		case ofConnection(name, values):
			why = reason.ConnectionHeader
		case !s.connect:
		case name == "Sec-Websocket-Key", name == "Sec-Websocket-Accept":
			continue // they have no meaning here (RFC 8441, 5)
		case name == "Content-Length":
			why = reason.BadContentLength // what follows is no body
		}
		for _, v := range values {
			o = append(append(append(append(o, name...), ": "...), v...), "\r\n"...)
			lines++
		}
	}
	if len(r.Trailer) > 0 { // net/http has taken the field away
		o = s.appendTrailer(o, r)
		lines++
	}
	if s.connect {
		o = wire.AppendHandshake(o)
		lines += wire.HandshakeLines
	}
	o = append(o, "\r\n"...)
	s.raw = o
	if why != nil {
		return why
	}
	h := &s.head
	n, why := h.Parse(o, &s.settings.Limits)
	switch {
	case why == wire.NeedMore: // an empty line that should not be: cannot be, see below
		return reason.BadHeaderValue
	case why != nil:
		return why
	case n != len(o) || len(h.Fields) != lines:
		return reason.BadHeaderValue // a line end in what is to be one line
	case h.Chunked, h.ContentLength > 0 && r.ContentLength == 0:
		return reason.BadContentLength // the stream has ended, or the header lies
	}
	return nil
}

// lineOf checks what HTTP/1 would allow of a request target, and others do not,
// and what only others have: a CONNECT that names a protocol, which the server
// gives in the place of the version (RFC 9220).
func (s *stream) lineOf(r *http.Request) *reason.Reason {
	extended := r.Method == http.MethodConnect && r.ProtoMajor == 3 && r.Proto != "HTTP/3.0"
	switch {
	case extended && (r.Proto != wire.WebSocket || !s.settings.WebSockets):
		return reason.ProtocolRefused
	case extended && r.RequestURI != "" && r.RequestURI[0] == '/':
		s.connect = true
	case r.Method == http.MethodConnect:
		return reason.MethodRefused
	case r.RequestURI == "" || r.RequestURI[0] != '/' && r.RequestURI != "*":
		return reason.BadTarget
	}
	return nil
}

// sameHost holds the Host field against :authority (RFC 9113, 8.3.1).
func sameHost(authority string, values []string) *reason.Reason {
	switch {
	case len(values) != 1:
		return reason.BadHost
	case !strings.EqualFold(values[0], authority):
		return reason.AuthorityDiffers
	}
	return nil
}

// ofConnection reports the fields that only HTTP/1 has (RFC 9113, 8.2.2). The
// server has refused them already, we hope.
func ofConnection(name string, values []string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade":
		return true
	case "Te":
		return len(values) != 1 || values[0] != "trailers"
	}
	return false
}

func (s *stream) appendTrailer(o []byte, r *http.Request) []byte {
	s.names = s.names[:0]
	for name := range r.Trailer {
		s.names = append(s.names, name)
	}
	slices.Sort(s.names)
	o = append(o, "Trailer: "...)
	for i, name := range s.names {
		if i > 0 {
			o = append(o, ", "...)
		}
		o = append(o, name...)
	}
	return append(o, "\r\n"...)
}

// sent is the head for whoever takes down that it was refused.
func (s *stream) sent(protocol string) []byte {
	// As long as HTTP/1.1, whose place it takes.
	copy(s.raw[s.line+1:], protocol)
	return s.raw
}
