// Package config is what users write: its types, read strictly from YAML with
// the place of every mistake, defaulted, validated, and described as JSON
// schema and reference. It knows nothing of how any of it is carried out.
package config

import (
	"net/netip"

	"github.com/gatehouse-proxy/gatehouse/config/unit"
)

// Config is a whole configuration: one YAML file, or a folder of files merged.
// Collections are maps keyed by name.
type Config struct {
	// This process. Changes here need a restart.
	Node Node `yaml:"node"`
	// Addresses traffic enters by.
	Listeners map[string]Listener `yaml:"listeners"`
	// Certificates that listeners show.
	Certificates map[string]Certificate `yaml:"certificates"`
	// Named sets of endpoints, each with one balancing policy.
	Upstreams map[string]Upstream `yaml:"upstreams"`
	// Who may call, and how they prove it.
	Consumers map[string]Consumer `yaml:"consumers"`
	// Web application firewall policies and virtual patches.
	WAF WAF `yaml:"waf"`
	// Plugins that run on every route, before the route's own.
	Plugins []Plugin `yaml:"plugins"`
	// What happens to which requests.
	Routes map[string]Route `yaml:"routes"`
}

// Node is this process.
type Node struct {
	// Name in logs, metrics and status. Default: the host name.
	Name string `yaml:"name"`
	// Zone this node runs in, for zone-aware balancing.
	Zone string `yaml:"zone"`
	// Where the node keeps its own files, such as the token of the admin API. Relative to where the node is started.
	DataDir string `yaml:"data_dir" default:"./data"`
	// Encrypts the private keys that the node keeps in data_dir, and what it
	// shares with other nodes through store.redis: ACME certificates and the
	// secrets of session tickets. At least 32 bytes, the same on all nodes.
	// Absent: data_dir/secret.key, made on first use, and nothing of the kind is
	// shared. Give it, as ${ENV_NAME} or file:PATH, to keep it away from what it
	// encrypts.
	SecretKey unit.Secret `yaml:"secret_key"`
	// The admin address: metrics, health, profiles.
	Admin Admin `yaml:"admin"`
	// Traces.
	Tracing Tracing `yaml:"tracing"`
	// Access log.
	AccessLog AccessLog `yaml:"access_log"`
	// The node's own log.
	Log Log `yaml:"log"`
	// How the node stops.
	Drain Drain `yaml:"drain"`
	// How a new process takes over from this one (SIGUSR2).
	Handover Handover `yaml:"handover"`
	// What is live: file, this file as it is now; or store, the newest revision in
	// the store, which gatehouse apply publishes. With store, only node may stand
	// in this file.
	Config string `yaml:"config" enum:"file,store" default:"file"`
	// What the nodes of a fleet share.
	Store Store `yaml:"store"`
	// The control role: who may publish revisions.
	Control Control `yaml:"control"`
	// The service registry.
	Registry Registry `yaml:"registry"`
}

// Admin is the address for operators. Never expose it to the world.
type Admin struct {
	// Address to listen on; "off" switches it off.
	Address string `yaml:"address" default:"127.0.0.1:9901"`
	// Serve Go profiles under /debug/pprof/.
	Pprof bool `yaml:"pprof" default:"false"`
}

// Tracing is where spans go.
type Tracing struct {
	// OTLP collector: http://HOST:4318 (HTTP), grpc://HOST:4317 (gRPC) or their
	// TLS forms https:// and grpcs://. Empty: no spans; trace headers still pass.
	OTLP string `yaml:"otlp"`
	// Share of new traces to sample, 0 to 1. A caller's decision is kept.
	Sample float64 `yaml:"sample" default:"0.1" min:"0" max:"1"`
	// service.name of the spans.
	ServiceName string `yaml:"service_name" default:"gatehouse"`
}

// AccessLog is one line for every request.
type AccessLog struct {
	// A file, "stdout", "stderr" or "off".
	Path string `yaml:"path" default:"stdout"`
	// json or console.
	Format string `yaml:"format" enum:"json,console" default:"json"`
	// Share of successful requests to log, 0 to 1; refusals and errors always are.
	Sample float64 `yaml:"sample" default:"1" min:"0" max:"1"`
	// Request headers to log besides the usual fields.
	Headers []string `yaml:"headers"`
	// Headers, query parameters and cookies whose values are masked, besides
	// Authorization, Cookie, Set-Cookie, X-API-Key and the like.
	Mask []string `yaml:"mask"`
}

// Log is the node's own log, on stderr.
type Log struct {
	// The least severe messages written.
	Level string `yaml:"level" enum:"debug,info,warn,error" default:"info"`
	// json for machines, console for people.
	Format string `yaml:"format" enum:"json,console" default:"console"`
}

// Drain is how the node stops.
type Drain struct {
	// How long readiness fails before listeners close, so that a balancer in
	// front notices.
	Delay unit.Duration `yaml:"delay" default:"0s"`
	// How long requests in flight may take to finish.
	Timeout unit.Duration `yaml:"timeout" default:"30s"`
}

// Handover is how a new process takes over the sockets of this one. The new one
// is of the same command line; the old one then drains as when it stops, but
// without the delay.
type Handover struct {
	// How long the new process may take until it serves. One that takes longer is
	// killed, and the old one goes on.
	Timeout unit.Duration `yaml:"timeout" default:"60s" min:"1s" max:"1h"`
	// How long HTTP/3 requests in flight may take to finish: new clients of HTTP/3
	// wait for that, since a UDP port has one reader.
	HTTP3 unit.Duration `yaml:"http3" default:"5s" max:"1m"`
}

// Listener is an address traffic enters by.
type Listener struct {
	// HOST:PORT, or :PORT for all addresses.
	Address string `yaml:"address" required:"true"`
	// What is spoken there. http goes by routes. tcp and udp are passed on to
	// backends unread, tcp after TLS has been ended if tls is given; tls is
	// passed on unopened, by the name that clients ask for.
	Protocol string `yaml:"protocol" enum:"http,tcp,tls,udp" default:"http"`
	// Upstreams that share connections by weight (tcp, udp), or those for whose
	// name sni has nothing (tls).
	Backends []Backend `yaml:"backends"`
	// Names in TLS handshakes that are passed on unopened: exactly, or *.REST
	// for all names below REST. With protocol http, all others are served here.
	SNI map[string]Passthrough `yaml:"sni"`
	// Datagrams (protocol udp).
	UDP *Datagrams `yaml:"udp"`
	// Speak TLS. Absent: plain text.
	TLS *ListenerTLS `yaml:"tls"`
	// Answer every request over plain HTTP with a redirect to https, before any
	// route or plugin; true, or {port, status}. What a trusted proxy says came by
	// https goes its ordinary way.
	RedirectToHTTPS *HTTPSRedirect `yaml:"redirect_to_https"`
	// The PROXY protocol, spoken by balancers in front. Absent: not spoken.
	ProxyProtocol *ProxyProtocol `yaml:"proxy_protocol"`
	// Offer HTTP/3 too: "true", or its settings. It needs tls, whose
	// certificates and limits it shares.
	HTTP3 *HTTP3 `yaml:"http3"`
	// Peers whose Forwarded or X-Forwarded-* headers are believed. Where a PROXY
	// header names the client, the client is the peer.
	TrustedProxies []netip.Prefix `yaml:"trusted_proxies"`
	// The header that trusted proxies write the client's address into. Read is
	// exactly one: clients could choose their address in the other.
	// x_forwarded_for also reads Forwarded where X-Forwarded-For is absent.
	ClientAddressFrom string `yaml:"client_address_from" enum:"x_forwarded_for,x_forwarded_for_only,forwarded" default:"x_forwarded_for"`
	// Connections at once; more wait in the kernel's queue.
	MaxConnections int `yaml:"max_connections" default:"65536" min:"1"`
	// Connections at once from one client address (IPv6: /64); 0 means no limit.
	MaxConnectionsPerClient int `yaml:"max_connections_per_client" default:"0" min:"0"`
	// HTTP/2, over TLS where "h2" is among alpn, and in plain text.
	HTTP2 ListenerHTTP2 `yaml:"http2"`
	// Limits on what a client may send.
	Limits ListenerLimits `yaml:"limits"`
	// How long a client may take.
	Timeouts ListenerTimeouts `yaml:"timeouts"`
	// What to do with paths that can be read in two ways.
	Path PathRules `yaml:"path"`
}

// ProxyProtocol takes clients' addresses from the PROXY header (version 1 or 2)
// that balancers send before anything else.
type ProxyProtocol struct {
	// Peers that must send a header; those without one are refused. Of anybody
	// else a header is refused.
	From []netip.Prefix `yaml:"from" required:"true"`
	// How long the header may take.
	Timeout unit.Duration `yaml:"timeout" default:"5s" min:"100ms"`
}

// ListenerHTTP2 limits what one HTTP/2 connection may cost.
type ListenerHTTP2 struct {
	// Without TLS, take connections that begin as HTTP/2 (prior knowledge, h2c).
	PriorKnowledge bool `yaml:"prior_knowledge" default:"true"`
	// Take WebSockets as streams of an HTTP/2 connection (RFC 8441), which
	// clients use once they are told of it. Routes, plugins and upstreams see what
	// they see of one over HTTP/1.1. Connections that are open keep what they were
	// told, but open no more WebSockets once this is false.
	WebSockets bool `yaml:"websockets" default:"true"`
	// Requests at once on one connection; more are refused.
	MaxConcurrentStreams int `yaml:"max_concurrent_streams" default:"100" min:"1" max:"10000"`
	// How much of one request's body may wait to be read.
	StreamWindow unit.Size `yaml:"stream_window" default:"256KiB" min:"1KiB" max:"16MiB"`
	// How much of all request bodies on one connection may wait to be read.
	ConnectionWindow unit.Size `yaml:"connection_window" default:"1MiB" min:"64KiB" max:"64MiB"`
}

// Passthrough is where connections for one name go.
type Passthrough struct {
	// Upstreams that share the connections by weight.
	Backends []Backend `yaml:"backends" required:"true"`
}

// Datagrams says how datagrams belong together. What comes from one address
// within timeouts.idle is a session, which counts as a connection. Where there
// is no room for another one, by max_connections or by the circuit breaker of
// the upstream, a session gives way that has been quiet for a second and whose
// client has not written again after a reply: senders with forged addresses
// would keep everybody away otherwise.
type Datagrams struct {
	// A session is over after so many replies to each datagram of the client, so
	// that short questions, such as DNS, do not keep it until the idle time is
	// over; 0: only the idle time ends it.
	Replies int `yaml:"replies" default:"0" min:"0" max:"65535"`
}

// ListenerLimits bound what one request may bring.
type ListenerLimits struct {
	// Request line and headers together.
	Head unit.Size `yaml:"head" default:"64KiB" min:"1KiB" max:"1MiB"`
	// Number of header lines.
	Headers int `yaml:"headers" default:"100" min:"1" max:"1000"`
	// Path and query.
	URI unit.Size `yaml:"uri" default:"8KiB" min:"64" max:"64KiB"`
	// Request body; 0 means no limit. Plugins and routes may lower it.
	Body unit.Size `yaml:"body" default:"0"`
}

// ListenerTimeouts bound how long a client may take.
type ListenerTimeouts struct {
	// From the first byte of a request to the end of its head. Of protocol tls,
	// for the first message of the handshake.
	Head unit.Duration `yaml:"head" default:"10s" min:"100ms"`
	// Between two reads of a request body that bring at least something.
	Body unit.Duration `yaml:"body" default:"30s" min:"100ms"`
	// A client that reads nothing of its reply.
	Write unit.Duration `yaml:"write" default:"30s" min:"100ms"`
	// A keep-alive connection without a request. Of other protocols, nothing in
	// either direction, with a default of 1h for tcp and tls and 60s for udp.
	Idle unit.Duration `yaml:"idle" default:"75s" min:"100ms"`
}

// PathRules say how a path is made unambiguous.
type PathRules struct {
	// An encoded slash or backslash (%2F, %5C): refuse the request, or keep it
	// as it is, in which case no upstream may decode it before routing.
	EncodedSlashes string `yaml:"encoded_slashes" enum:"refuse,keep" default:"refuse"`
	// Several slashes in a row become one.
	MergeSlashes bool `yaml:"merge_slashes" default:"true"`
	// Parameters in a path (/a;v=1): keep them, or refuse the request. Servlet
	// containers cut them off, so that /admin;x is /admin to them but not to a
	// route; refuse them in front of those.
	Parameters string `yaml:"parameters" enum:"keep,refuse" default:"keep"`
}
