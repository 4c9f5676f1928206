package proxy

import (
	"bytes"
	"io"
	"strconv"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// appendHead writes the request head of a try into l.head.
func (f *forward) appendHead(l *leg) {
	q := &f.ctx.Request.Header
	s := &f.proxy.settings
	o := append(l.head[:0], q.Method()...)
	o = append(o, ' ')
	if s.Rewrite != nil {
		o = s.Rewrite.AppendTarget(o, f.ctx, f.e)
	} else {
		o = append(o, f.e.Path...)
		if uri := q.RequestURI(); f.e.Query != "" || len(uri) > 0 && uri[len(uri)-1] == '?' {
			o = append(append(o, '?'), f.e.Query...)
		}
	}
	o = append(o, " HTTP/1.1\r\nHost: "...)
	switch s.HostMode {
	case HostEndpoint:
		o = append(o, l.ep.Address...)
	case HostFixed:
		o = append(o, f.proxy.host...)
	default:
		o = append(o, q.Host()...)
	}
	o = append(o, "\r\n"...)
	protocol, upgrade := f.upgrade()
	o, te := f.appendFields(o, l, q)
	o = append(o, f.proxy.via[f.version()]...)
	switch {
	case l.span != nil:
		o = append(l.span.AppendTraceparent(append(o, "Traceparent: "...)), "\r\n"...)
	case f.e.Trace.Valid():
		o = append(f.e.Trace.AppendTraceparent(append(o, "Traceparent: "...)), "\r\n"...)
	}
	switch {
	case upgrade:
		o = append(append(append(o, "Connection: Upgrade\r\nUpgrade: "...), protocol...), "\r\n"...)
	case te && f.last():
		o = append(o, "Connection: close, TE\r\nTE: trailers\r\n"...)
	case te:
		o = append(o, "Connection: TE\r\nTE: trailers\r\n"...)
	case f.last():
		o = append(o, "Connection: close\r\n"...)
	}
	l.head = append(f.appendFraming(o), "\r\n"...)
}

// appendFields copies the header fields that go on. te says that the client
// takes trailers.
func (f *forward) appendFields(o []byte, l *leg, q *fasthttp.RequestHeader) (_ []byte, te bool) {
	cookie, traced := false, l.span != nil || f.e.Trace.Valid()
	for k, v := range q.All() {
		if hopRequest(k) {
			continue
		}
		switch len(k) {
		case 2:
			if wire.EqualFold(k, "te") {
				te = te || listsTrailers(v)
				continue
			}
		case 4:
			if wire.EqualFold(k, "host") {
				continue
			}
		case 6:
			if wire.EqualFold(k, "cookie") {
				cookie = true
				o = f.appendCookie(o, v)
				continue
			}
		case 12:
			if !f.e.RPC.Deadline.IsZero() && wire.EqualFold(k, "grpc-timeout") {
				o = f.appendTimeLeft(o)
				continue
			}
		case 11:
			if traced && wire.EqualFold(k, "traceparent") {
				continue
			}
		}
		o = append(append(append(append(o, k...), ": "...), v...), "\r\n"...)
	}
	if !cookie && f.e.Front != nil {
		o = f.appendCookie(o, nil)
	}
	return o, te
}

// hopRequest reports a field that concerns only the connection from the
// client, or that the proxy writes itself. What Connection lists besides has
// been removed at dispatch.
func hopRequest(k []byte) bool {
	switch len(k) {
	case 6:
		return wire.EqualFold(k, "expect")
	case 7:
		return wire.EqualFold(k, "upgrade") || wire.EqualFold(k, "trailer")
	case 10:
		return wire.EqualFold(k, "connection") || wire.EqualFold(k, "keep-alive")
	case 14:
		return wire.EqualFold(k, "content-length") || wire.EqualFold(k, "http2-settings")
	case 16:
		return wire.EqualFold(k, "proxy-connection")
	case 17:
		return wire.EqualFold(k, "transfer-encoding")
	case 19:
		return wire.EqualFold(k, "proxy-authorization")
	}
	return false
}

func listsTrailers(v []byte) bool {
	for len(v) > 0 {
		var t []byte
		if i := bytes.IndexByte(v, ','); i >= 0 {
			t, v = v[:i], v[i+1:]
		} else {
			t, v = v, nil
		}
		if wire.EqualFold(bytes.TrimSpace(t), "trailers") {
			return true
		}
	}
	return false
}

// version is the index in Proxy.via of the protocol the request came by.
func (f *forward) version() int {
	switch f.e.Front.Protocol() {
	case "HTTP/1.1":
		return 1
	case "HTTP/1.0":
		return 0
	case "HTTP/3.0":
		return 3
	}
	return 2
}

// upgrade is the protocol to ask for. HTTP/2 in clear text is never one: what
// goes through such a tunnel would be requests that no plugin has seen.
func (f *forward) upgrade() (protocol []byte, ok bool) {
	protocol, ok = f.e.Front.WantsUpgrade()
	if !ok || f.body.some {
		return nil, false
	}
	for rest := protocol; len(rest) > 0; {
		var t []byte
		if i := bytes.IndexByte(rest, ','); i >= 0 {
			t, rest = rest[:i], rest[i+1:]
		} else {
			t, rest = rest, nil
		}
		t = bytes.TrimSpace(t)
		if len(t) >= 2 && wire.EqualFold(t[:2], "h2") || len(t) >= 4 && wire.EqualFold(t[:4], "http") {
			return nil, false
		}
	}
	return protocol, true
}

// last reports that the request must be the last one on its connection to the
// endpoint. A body means nothing in these methods (RFC 9110, 9.3), and there
// are servers that leave one unread and take it for the next request, which no
// guard of ours has seen.
func (f *forward) last() bool {
	if !f.body.some {
		return false
	}
	switch string(f.ctx.Method()) {
	case "GET", "HEAD", "DELETE":
		return true
	}
	return false
}

// appendFraming says how the body ends.
func (f *forward) appendFraming(o []byte) []byte {
	b := &f.body
	switch {
	case !b.some:
		switch string(f.ctx.Method()) {
		case "POST", "PUT", "PATCH": // of which a body is expected (RFC 9110, 8.6)
			return append(o, "Content-Length: 0\r\n"...)
		}
		return o
	case b.length >= 0 && !f.trailers():
		o = strconv.AppendInt(append(o, "Content-Length: "...), b.length, 10)
		return append(o, "\r\n"...)
	}
	o = append(o, "Transfer-Encoding: chunked\r\n"...)
	f.scratch = f.scratch[:0]
	f.e.Front.EachField(f.eachTrailer)
	return append(o, f.scratch...)
}

// addTrailer collects the announcements of trailers; they go on together with
// what they announce.
func (f *forward) addTrailer(name, value []byte) bool {
	if wire.EqualFold(name, "trailer") {
		f.scratch = append(append(append(f.scratch, "Trailer: "...), value...), "\r\n"...)
	}
	return true
}

// nothing is an empty stream.
type nothing struct{}

// Read implements io.Reader.
func (nothing) Read([]byte) (int, error) { return 0, io.EOF }
