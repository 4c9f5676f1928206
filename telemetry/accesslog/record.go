package accesslog

import (
	"net/netip"
	"time"
)

// Record is everything a line can say. Empty strings and zero numbers are left
// out of it, except for the fields every request has. The strings may be
// borrowed: nothing is kept after Write.
type Record struct {
	Time     time.Time // of the request head's first byte
	Duration time.Duration

	RequestID string
	TraceID   string

	Client   netip.Addr     // whom we believe the request comes from
	Peer     netip.AddrPort // the socket's other end
	Listener string
	Route    string

	Protocol string
	Method   string
	Scheme   string
	Host     string
	Path     string
	// Query without '?'; values of sensitive parameters are masked.
	Query string

	Status            int
	BytesIn, BytesOut int64

	// GRPCStatus is how a gRPC call ended, such as "NOT_FOUND"; GRPCMessage is
	// what the status says, decoded. Empty for requests that are no calls.
	GRPCStatus, GRPCMessage string

	Upstream         string
	Endpoint         string
	Attempts         int
	UpstreamStatus   int
	UpstreamTook     time.Duration
	UpstreamProtocol string // http/1.1, h2 or h2c
	Reused           bool

	// Flags are the short upper-case flags of what went wrong, comma separated.
	Flags string
	// Reason is why Gatehouse answered instead of the upstream, Detail what
	// only the operator may know, Step the plugin that refused.
	Reason, Detail, Step string

	Consumer string
	Subject  string
	Auth     string // how the caller was authenticated

	TLS TLS
	WAF WAF

	UserAgent string
	Referer   string

	// Request gives the chosen headers by name; nil logs none.
	Request HeaderSource
}

// HeaderSource gives one header's value; *fasthttp.RequestHeader is one.
type HeaderSource interface{ Peek(name string) []byte }

// TLS tells of an encrypted connection; one without a version is left out of
// the line.
type TLS struct {
	Version, Cipher, ServerName string
	Resumed                     bool
	// Subject, SPIFFEID and Fingerprint are the client certificate's.
	Subject, SPIFFEID, Fingerprint string
}

// WAF is the firewall's decision; a zero value is left out of the line.
type WAF struct {
	Policy, Mode string
	Blocked      bool
	Score        int
	Rules        []int
}

// successful requests may be sampled; what failed in any way is always logged.
func (r *Record) successful() bool {
	return r.Status < 400 && (r.GRPCStatus == "" || r.GRPCStatus == "OK") && r.Reason == "" && r.Flags == "" && !r.WAF.Blocked && len(r.WAF.Rules) == 0
}
