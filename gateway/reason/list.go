package reason

import "github.com/gatehouse-proxy/gatehouse/gateway/grpc"

// What the HTTP/1 parser refuses before a request exists.
var (
	BadRequestLine      = add("bad_request_line", 400, "DPE", "The request line is malformed.")
	BadMethod           = add("bad_method", 400, "DPE", "The request method is malformed.")
	BadTarget           = add("bad_target", 400, "DPE", "The request target is malformed.")
	BadVersion          = add("bad_version", 505, "DPE", "The HTTP version is not supported.")
	BadHeaderName       = add("bad_header_name", 400, "DPE", "A header name is malformed.")
	BadHeaderValue      = add("bad_header_value", 400, "DPE", "A header value is malformed.")
	RepeatedHeader      = add("repeated_header", 400, "DPE", "A header that may come once was sent twice.")
	BadLineEnd          = add("bad_line_end", 400, "DPE", "A line does not end with CRLF.")
	BadHost             = add("bad_host", 400, "DPE", "The Host header is missing, repeated or malformed.")
	AuthorityDiffers    = add("authority_differs", 400, "DPE", "The request target and the Host header name different hosts.")
	BadContentLength    = add("bad_content_length", 400, "DPE", "The Content-Length header is malformed.")
	BadTransferEncoding = add("bad_transfer_encoding", 501, "DPE", "The transfer encoding is not supported.")
	TwoFramings         = add("two_framings", 400, "DPE", "The request body is framed ambiguously.")
	ConnectionOption    = add("connection_lists_framing", 400, "DPE", "The Connection header names a header it must not.")
	BadExpect           = add("bad_expect", 417, "DPE", "The expectation cannot be met.")
	BadChunk            = add("bad_chunk", 400, "DPE", "The chunked request body is malformed.")
	BadTrailer          = add("bad_trailer", 400, "DPE", "A request trailer is malformed or not allowed.")
	HeadTooLarge        = add("head_too_large", 431, "DPE", "The request header section is too large.")
	TooManyHeaders      = add("too_many_headers", 431, "DPE", "The request has too many header fields.")
	URITooLong          = add("uri_too_long", 414, "DPE", "The request target is too long.")
	MethodRefused       = add("method_refused", 501, "DPE", "The method is not supported.")
	ProtocolRefused     = add("protocol_refused", 501, "DPE", "The protocol asked for in CONNECT is not supported.")
	HeadTimeout         = add("head_timeout", 408, "DT", "The request header section did not arrive in time.")
	BodyTimeout         = add("body_timeout", 408, "DT", "The request body did not arrive in time.")
	BodyCut             = add("body_cut", 400, "DC", "The request body ended early.").to(grpc.Cancelled)
	ClientGone          = add("client_gone", 499, "DC", "The client closed the connection.")
	ConnectionHeader    = add("connection_header", 400, "DPE", "A header that only HTTP/1 has was sent.")
	BadPseudoHeader     = add("bad_pseudo_header", 400, "DPE", "A pseudo-header field is missing, repeated or unknown.")
	HTTP2Protocol       = add("http2_protocol_error", 400, "DPE", "The HTTP/2 connection broke the protocol.")
	HTTP2Flood          = add("http2_flood", 429, "DPE", "Too many streams were reset, or frames sent that ask for nothing.")
	TooManyConnections  = add("too_many_connections", 503, "OM", "Too many connections.").to(grpc.ResourceExhausted)
	ProtocolError       = add("protocol_error", 400, "DPE", "The connection broke the rules of its protocol.")
)

// What ends before HTTP begins. Only TLSRequired can be answered by HTTP.
var (
	TLSHandshakeFailed   = add("tls_handshake_failed", 400, "TLS", "The TLS handshake failed.")
	TLSHandshakeTimeout  = add("tls_handshake_timeout", 408, "DT", "The TLS handshake was not completed in time.")
	TLSNoCertificate     = add("tls_no_certificate", 503, "TLS", "There is no certificate to show yet.")
	TLSClientCertificate = add("tls_client_certificate", 403, "UAEX", "A valid client certificate is required.")
	TLSHandshakesLimited = add("tls_handshakes_limited", 429, "RL", "Too many TLS handshakes.")
	TLSNoProtocol        = add("tls_no_protocol", 400, "TLS", "The client and this port speak no protocol in common.")
	TLSUnknownName       = add("tls_unknown_name", 421, "TLS", "No certificate of this port is for the name asked for.")
	TLSRequired          = add("tls_required", 400, "TLS", "This port speaks TLS: use https.")
)

// gRPC.
var (
	BadGRPCTimeout = add("bad_grpc_timeout", 400, "DPE", "The grpc-timeout header is malformed.")
	BadGRPCMessage = add("bad_grpc_message", 400, "DPE", "The request body is not a stream of gRPC messages.")
)

// What a PROXY header, or the want of one, ends. Nobody can be answered.
var (
	ProxyHeaderMissing   = add("proxy_header_missing", 400, "DPE", "A PROXY protocol header is required.")
	ProxyHeaderMalformed = add("proxy_header_malformed", 400, "DPE", "The PROXY protocol header is malformed.")
	ProxyHeaderTimeout   = add("proxy_header_timeout", 408, "DT", "The PROXY protocol header did not arrive in time.")
	ProxyHeaderUntrusted = add("proxy_header_untrusted", 403, "DPE", "A PROXY protocol header is not accepted from this address.")
)

// What streams and datagrams that are passed on unread are refused or cut for,
// besides what concerns upstreams. Nobody can be answered.
var (
	TLSHelloMalformed = add("tls_hello_malformed", 400, "TLS", "The TLS ClientHello is malformed.")
	L4NoRoute         = add("l4_no_route", 404, "NR", "No backend is configured for this connection.")
	L4IdleTimeout     = add("l4_idle_timeout", 408, "SI", "The connection was idle for too long.")
)

// Routing and the node itself.
var (
	AmbiguousPath = add("ambiguous_path", 400, "DPE", "The path is encoded ambiguously.")
	NoRoute       = add("no_route", 404, "NR", "No route matches this request.")
	RouteBroken   = add("route_broken", 503, "RB", "This route is not available on this node.")
	Draining      = add("draining", 503, "DR", "The gateway is shutting down.")
	Overloaded    = add("overloaded", 503, "OM", "The gateway is overloaded.")
	Internal      = add("internal", 500, "IE", "The gateway failed.")
	PluginPanic   = add("plugin_panic", 500, "IE", "The gateway failed.")
	FaultAbort    = add("fault_abort", 503, "FI", "A fault was injected.")
	Maintenance   = add("maintenance", 503, "MN", "The service is under maintenance.")
)

// Plugins.
var (
	Unauthenticated    = add("unauthenticated", 401, "UAEX", "Authentication is required.")
	Forbidden          = add("forbidden", 403, "UAEX", "Access is denied.")
	AuthUnavailable    = add("auth_unavailable", 503, "UAEX", "Authentication is not available.")
	PluginRefused      = add("plugin_refused", 403, "PR", "The request was refused.")
	ExternalDenied     = add("external_denied", 403, "UAEX", "Access is denied.")
	IPDenied           = add("ip_denied", 403, "IPD", "Access is denied.")
	CSRF               = add("csrf", 403, "CSRF", "The request did not come from an allowed origin.")
	CORSDenied         = add("cors_denied", 403, "CORS", "The origin is not allowed.")
	RateLimited        = add("rate_limited", 429, "RL", "Too many requests.")
	QuotaExceeded      = add("quota_exceeded", 429, "RL", "The quota is used up.")
	LimitUnavailable   = add("limit_unavailable", 503, "RL", "Limits cannot be checked now.")
	ConcurrencyLimited = add("concurrency_limited", 503, "CL", "Too many requests at once.").to(grpc.ResourceExhausted)
	BodyTooLarge       = add("body_too_large", 413, "BL", "The request body is too large.")
	WAFBlocked         = add("waf_blocked", 403, "WAF", "The request was blocked.")
	WAFBodyTooLarge    = add("waf_body_too_large", 413, "WAF", "The request body is too large to inspect.")
	WAFFailed          = add("waf_failed", 503, "WAF", "The request could not be inspected.")
)

// Upstreams.
var (
	NoEndpoint        = add("no_healthy_endpoint", 503, "UH", "No upstream is available.")
	UpstreamOverflow  = add("upstream_overflow", 503, "UO", "The upstream is overloaded.")
	UpstreamConnect   = add("upstream_connect_failure", 502, "UF", "The upstream could not be reached.")
	UpstreamTLS       = add("upstream_tls", 502, "UF", "The upstream could not be reached securely.")
	UpstreamReset     = add("upstream_reset", 502, "UC", "The upstream closed the connection.")
	UpstreamProtocol  = add("upstream_protocol_error", 502, "UPE", "The upstream answered with garbage.").to(grpc.Internal)
	UpstreamNoUpgrade = add("upstream_no_upgrade", 501, "UPE", "The upstream cannot switch protocols.")
	UpstreamTimeout   = add("upstream_timeout", 504, "UT", "The upstream did not answer in time.")
	TunnelIdle        = add("tunnel_idle_timeout", 408, "SI", "The tunnel was idle for too long.")
	RequestTimeout    = add("request_timeout", 504, "UT", "The request took too long.")
	UpstreamHeadLarge = add("upstream_head_too_large", 502, "UPE", "The upstream answered with too many headers.").to(grpc.Internal)
)
