package waf

import "net/netip"

// Field is one header field, in the case sent.
type Field struct{ Name, Value string }

// Request is what an engine looks at: one request, in no framework's terms and
// not normalised, because what attackers hide is in what normalising removes.
// An inspection keeps its strings until End, so they must not be borrowed.
type Request struct {
	// ID is the request ID; empty lets the engine make one.
	ID string
	// Client and Server are the two ends: whom the request comes from, as far
	// as trusted proxies say, and where it arrived.
	Client, Server netip.AddrPort
	// Protocol is "HTTP/1.1" and the like.
	Protocol, Method string
	// Target is the request target exactly as sent.
	Target string
	// Host is the name asked for, lower case, without port.
	Host string
	// Path is the path as routing sees it. Exclusions are matched against this
	// one, never against the target: else "/free/../admin" would be excluded
	// like "/free/".
	Path string
	// Fields are all header fields in the order sent, Host and Cookie included.
	Fields []Field
}
