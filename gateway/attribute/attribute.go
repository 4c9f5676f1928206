// Package attribute is the one vocabulary for parts of a request: what rate
// limits count by, balancers hash on, and templates write. Names are parsed
// when a route is compiled; reading a value then neither parses nor allocates.
// It knows nothing of what the values are used for.
package attribute

import (
	"fmt"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/target"
)

type kind uint8

const (
	clientIP kind = iota + 1
	method
	scheme
	host
	path
	query
	route
	listener
	consumer
	subject
	requestID
	traceID
	tlsVersion
	tlsCipher
	tlsServerName
	clientSubject
	clientSPIFFEID
	clientFingerprint
	header
	cookie
	parameter
	claim
)

// simple are the attributes without a name of their own, in the order they
// are listed to users.
var simple = [...]struct {
	name string
	kind kind
}{
	{"client_ip", clientIP},
	{"method", method},
	{"scheme", scheme},
	{"host", host},
	{"path", path},
	{"query", query},
	{"route", route},
	{"listener", listener},
	{"consumer", consumer},
	{"subject", subject},
	{"request_id", requestID},
	{"trace_id", traceID},
	{"tls.version", tlsVersion},
	{"tls.cipher", tlsCipher},
	{"tls.server_name", tlsServerName},
	{"tls.client.subject", clientSubject},
	{"tls.client.spiffe_id", clientSPIFFEID},
	{"tls.client.fingerprint", clientFingerprint},
}

var named = [...]struct {
	prefix string
	kind   kind
}{{"header.", header}, {"cookie.", cookie}, {"query.", parameter}, {"claim.", claim}}

// Known lists every attribute as users write it.
const Known = "client_ip, method, scheme, host, path, query, route, listener, consumer, subject, request_id, trace_id, " +
	"tls.version, tls.cipher, tls.server_name, tls.client.subject, tls.client.spiffe_id, tls.client.fingerprint, " +
	"header.NAME, cookie.NAME, query.NAME, claim.NAME"

// Attribute is one part of a request. The zero value is never there. It is
// small, immutable and safe for concurrent use.
type Attribute struct {
	kind  kind
	name  string   // of the header (canonical), cookie, query parameter or claim
	steps []string // the claim's name at its dots
}

// Parse reads an attribute as users write it: see Known. Header names are not
// case-sensitive; a claim's name may be a dotted path into objects.
func Parse(s string) (Attribute, error) {
	for _, a := range simple {
		if a.name == s {
			return Attribute{kind: a.kind}, nil
		}
	}
	for _, n := range named {
		name, ok := strings.CutPrefix(s, n.prefix)
		if !ok {
			continue
		}
		a := Attribute{kind: n.kind, name: name}
		switch {
		case name == "":
			return Attribute{}, fmt.Errorf("%q lacks a name after the dot, as in %sNAME", s, n.prefix)
		case n.kind == header || n.kind == cookie:
			if !isToken(name) {
				return Attribute{}, fmt.Errorf("%q: %q cannot be the name of a %s", s, name, strings.TrimSuffix(n.prefix, "."))
			}
			if n.kind == header {
				a.name = string(fasthttp.AppendNormalizedHeaderKey(nil, name))
			}
		case n.kind == claim:
			a.steps = strings.Split(name, ".")
		}
		return a, nil
	}
	return Attribute{}, fmt.Errorf("unknown attribute %q; known: %s", s, Known)
}

// String is the attribute as users write it.
func (a Attribute) String() string {
	for _, s := range simple {
		if s.kind == a.kind {
			return s.name
		}
	}
	for _, n := range named {
		if n.kind == a.kind {
			return n.prefix + a.name
		}
	}
	return ""
}

// Append appends the attribute's value in this request to dst. ok is false
// when the request has none, and dst is then returned as it was. Lines of a
// repeated header are joined with ", "; of repeated cookies and query
// parameters the first counts; query parameters are decoded. It does not
// allocate when dst has room. The value is as the client sent it: whoever
// writes it into a header must use Template.AppendHeaderSafe.
func (a Attribute) Append(dst []byte, ctx *fasthttp.RequestCtx, e *exchange.Exchange) (out []byte, ok bool) {
	switch a.kind {
	case clientIP:
		if !e.Client.IsValid() {
			return dst, false
		}
		return e.Client.Unmap().AppendTo(dst), true
	case method:
		return append(dst, ctx.Request.Header.Method()...), true
	case scheme:
		return text(dst, e.Scheme)
	case host:
		return text(dst, e.Host)
	case path:
		return text(dst, e.Path)
	case query:
		return text(dst, e.Query)
	case route:
		if e.Route == nil {
			return dst, false
		}
		return text(dst, e.Route.Name)
	case listener:
		return text(dst, e.Listener)
	case consumer:
		if e.Identity.Consumer == nil {
			return dst, false
		}
		return text(dst, e.Identity.Consumer.Name)
	case subject:
		return text(dst, e.Identity.Subject)
	case requestID:
		return text(dst, e.RequestID)
	case traceID:
		return appendTraceID(dst, ctx, e)
	case tlsVersion, tlsCipher, tlsServerName, clientSubject, clientSPIFFEID, clientFingerprint:
		if e.TLS == nil {
			return dst, false
		}
		return text(dst, ofTLS(e.TLS, a.kind))
	case header:
		return appendHeader(dst, ctx, a.name)
	case cookie:
		return appendCookie(dst, ctx, a.name)
	case parameter:
		v, ok := target.Query(e.Query, a.name)
		return target.AppendDecoded(dst, v), ok
	case claim:
		return appendClaim(dst, e.Identity.Claims, a.name, a.steps)
	}
	return dst, false
}

func ofTLS(t *exchange.TLS, k kind) string {
	switch k {
	case tlsVersion:
		return t.Version
	case tlsCipher:
		return t.Cipher
	case tlsServerName:
		return t.ServerName
	case clientSubject:
		return t.Subject
	case clientSPIFFEID:
		return t.SPIFFEID
	default:
		return t.Fingerprint
	}
}

func text(dst []byte, s string) ([]byte, bool) { return append(dst, s...), s != "" }

func appendHeader(dst []byte, ctx *fasthttp.RequestCtx, name string) ([]byte, bool) {
	lines := ctx.Request.Header.PeekAll(name)
	for i, l := range lines {
		if i > 0 {
			dst = append(dst, ", "...)
		}
		dst = append(dst, l...)
	}
	return dst, len(lines) > 0
}

func appendCookie(dst []byte, ctx *fasthttp.RequestCtx, name string) ([]byte, bool) {
	for _, line := range ctx.Request.Header.PeekAll(fasthttp.HeaderCookie) {
		if v, ok := target.Cookie(line, name); ok {
			return append(dst, v...), true
		}
	}
	return dst, false
}

// appendTraceID takes the trace of our own span, else the caller's if its
// traceparent is well-formed (W3C Trace Context, 3.2): VERSION-TRACE-PARENT-FLAGS.
func appendTraceID(dst []byte, ctx *fasthttp.RequestCtx, e *exchange.Exchange) ([]byte, bool) {
	const begin, end, shortest = 3, 35, 55
	if e.Span != nil {
		at := len(dst)
		full := e.Span.AppendTraceparent(dst)
		if len(full)-at < shortest {
			return full[:at], false
		}
		n := copy(full[at:], full[at+begin:at+end])
		return full[:at+n], true
	}
	v := ctx.Request.Header.Peek("Traceparent")
	if len(v) < shortest || v[begin-1] != '-' || v[end] != '-' {
		return dst, false
	}
	zero := true
	for _, c := range v[begin:end] {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return dst, false
		}
		zero = zero && c == '0'
	}
	if zero {
		return dst, false
	}
	return append(dst, v[begin:end]...), true
}

func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z' || c >= 0x80) && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}
