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
	// Where the node keeps its own files.
	DataDir string `yaml:"data_dir" default:"./data"`
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
	Level  string `yaml:"level" enum:"debug,info,warn,error" default:"info"`
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

// Listener is an address traffic enters by.
type Listener struct {
	// HOST:PORT, or :PORT for all addresses.
	Address string `yaml:"address" required:"true"`
	// What is spoken there.
	Protocol string `yaml:"protocol" enum:"http" default:"http"`
	// Peers whose Forwarded or X-Forwarded-* headers are believed.
	TrustedProxies []netip.Prefix `yaml:"trusted_proxies"`
	// Connections at once; more wait in the kernel's queue.
	MaxConnections int `yaml:"max_connections" default:"65536" min:"1"`
	// Connections at once from one client address (IPv6: /64); 0 means no limit.
	MaxConnectionsPerClient int `yaml:"max_connections_per_client" default:"0" min:"0"`
	// Limits on what a client may send.
	Limits ListenerLimits `yaml:"limits"`
	// How long a client may take.
	Timeouts ListenerTimeouts `yaml:"timeouts"`
	// What to do with paths that can be read in two ways.
	Path PathRules `yaml:"path"`
}

// ListenerLimits bound what one request may bring.
type ListenerLimits struct {
	Head    unit.Size `yaml:"head" default:"64KiB" min:"1KiB" max:"1MiB"`
	Headers int       `yaml:"headers" default:"100" min:"1" max:"1000"`
	URI     unit.Size `yaml:"uri" default:"8KiB" min:"64" max:"64KiB"`
	// Request body; 0 means no limit. Plugins and routes may lower it.
	Body unit.Size `yaml:"body" default:"0"`
}

// ListenerTimeouts bound how long a client may take.
type ListenerTimeouts struct {
	// From the first byte of a request to the end of its head.
	Head unit.Duration `yaml:"head" default:"10s" min:"100ms"`
	// Between two reads of a request body that bring at least something.
	Body unit.Duration `yaml:"body" default:"30s" min:"100ms"`
	// A client that reads nothing of its reply.
	Write unit.Duration `yaml:"write" default:"30s" min:"100ms"`
	// A keep-alive connection without a request.
	Idle unit.Duration `yaml:"idle" default:"75s" min:"100ms"`
}

// PathRules say how a path is made unambiguous.
type PathRules struct {
	// An encoded slash or backslash (%2F, %5C): refuse the request, or keep it
	// as it is, in which case no upstream may decode it before routing.
	EncodedSlashes string `yaml:"encoded_slashes" enum:"refuse,keep" default:"refuse"`
	// Several slashes in a row become one.
	MergeSlashes bool `yaml:"merge_slashes" default:"true"`
}

// Upstream is a set of endpoints with one balancing policy.
type Upstream struct {
	// Where it runs; exactly one of endpoints and dns.
	Endpoints []Endpoint `yaml:"endpoints"`
	// NAME:PORT whose addresses are the endpoints, resolved again and again.
	DNS *DNS `yaml:"dns"`
	// What the endpoints speak.
	Protocol string `yaml:"protocol" enum:"http1" default:"http1"`
	// How an endpoint is chosen.
	LoadBalancer LoadBalancer `yaml:"load_balancer"`
	// Probes. Absent: none.
	HealthCheck *HealthCheck `yaml:"health_check"`
	// Learn from failures of real requests.
	OutlierDetection OutlierDetection `yaml:"outlier_detection"`
	// Limits that protect the upstream.
	CircuitBreaker CircuitBreaker `yaml:"circuit_breaker"`
	// Connections to endpoints.
	Connection Connection `yaml:"connection"`
}

// DNS is a name that stands for endpoints, written as "NAME:PORT" or in full.
type DNS struct {
	// NAME:PORT.
	Name string `yaml:"name" required:"true"`
	// How often the name is resolved again.
	Refresh unit.Duration `yaml:"refresh" default:"30s" min:"1s"`
	// A DNS server HOST:PORT instead of the system's.
	Server string `yaml:"server"`
}

// UnmarshalText reads the short form.
func (d *DNS) UnmarshalText(text []byte) error {
	d.Name = string(text)
	return nil
}

// Endpoint is written as "HOST:PORT" or in full.
type Endpoint struct {
	Address string `yaml:"address" required:"true"`
	Weight  int    `yaml:"weight" default:"1" min:"1" max:"1000"`
	Zone    string `yaml:"zone"`
	// Lower priorities (higher numbers) get traffic only when better ones fail.
	Priority int `yaml:"priority" default:"0" min:"0" max:"15"`
}

// UnmarshalText reads the short form.
func (e *Endpoint) UnmarshalText(text []byte) error {
	e.Address = string(text)
	return nil
}

// LoadBalancer chooses endpoints.
type LoadBalancer struct {
	Algorithm string `yaml:"algorithm" enum:"round_robin,random,least_request,peak_ewma,ring_hash,maglev" default:"least_request"`
	// What of the request ring_hash and maglev hash: client_ip, header.NAME,
	// cookie.NAME, query.NAME, or another attribute of the request.
	HashOn string `yaml:"hash_on"`
	// A new or recovered endpoint's share grows over this time; 0s: at once.
	SlowStart unit.Duration `yaml:"slow_start" default:"0s"`
	// Below this share of healthy endpoints all are used; 0 switches that off.
	PanicThreshold int `yaml:"panic_threshold" default:"50" min:"0" max:"100"`
	// Keep a client on its endpoint by a signed cookie.
	Sticky *Sticky `yaml:"sticky"`
}

// Sticky keeps a client on its endpoint.
type Sticky struct {
	Cookie string        `yaml:"cookie" default:"gh_sticky"`
	TTL    unit.Duration `yaml:"ttl" default:"0s"`
	// Signs the cookie; the same on every node. At least 16 bytes.
	Secret unit.Secret `yaml:"secret" required:"true"`
	// Send the cookie over TLS only.
	Secure bool `yaml:"secure" default:"false"`
}

// HealthCheck probes endpoints.
type HealthCheck struct {
	Type string `yaml:"type" enum:"http,tcp" default:"http"`
	Path string `yaml:"path" default:"/"`
	// Host header of the probe. Default: the endpoint's address.
	Host string `yaml:"host"`
	// Statuses that count as healthy: "200", "200-299".
	Expect   string        `yaml:"expect" default:"200-299"`
	Interval unit.Duration `yaml:"interval" default:"5s" min:"100ms"`
	Timeout  unit.Duration `yaml:"timeout" default:"1s" min:"10ms"`
	// Successes in a row that bring an endpoint back.
	Healthy int `yaml:"healthy" default:"2" min:"1" max:"100"`
	// Failures in a row that take it out.
	Unhealthy int `yaml:"unhealthy" default:"3" min:"1" max:"100"`
	// Random share of the interval, in percent, so that nodes do not probe in step.
	Jitter int `yaml:"jitter" default:"10" min:"0" max:"100"`
}

// OutlierDetection ejects endpoints whose real requests fail. Defaults are Envoy's.
type OutlierDetection struct {
	Enabled bool `yaml:"enabled" default:"true"`
	// 5xx replies or failed tries in a row.
	ConsecutiveErrors int `yaml:"consecutive_errors" default:"5" min:"1"`
	// How often ejections are reconsidered.
	Interval unit.Duration `yaml:"interval" default:"10s" min:"100ms"`
	// Times the number of ejections so far.
	BaseEjection unit.Duration `yaml:"base_ejection" default:"30s" min:"100ms"`
	MaxEjection  unit.Duration `yaml:"max_ejection" default:"5m" min:"100ms"`
	// Share of endpoints that may be out at once; one always may.
	MaxEjectedPercent int `yaml:"max_ejected_percent" default:"10" min:"0" max:"100"`
}

// CircuitBreaker limits what goes to an upstream at once; more is refused with 503.
type CircuitBreaker struct {
	MaxConnections int `yaml:"max_connections" default:"1024" min:"1"`
	MaxRequests    int `yaml:"max_requests" default:"1024" min:"1"`
	// Requests that wait for a connection.
	MaxPending int `yaml:"max_pending" default:"1024" min:"0"`
	MaxRetries int `yaml:"max_retries" default:"3" min:"0"`
}

// Connection is how endpoints are connected to.
type Connection struct {
	Timeout unit.Duration `yaml:"timeout" default:"5s" min:"10ms"`
	// Idle connections are closed after this time. Keep it below the
	// upstream's own idle timeout.
	Idle unit.Duration `yaml:"idle" default:"50s" min:"100ms"`
	// Idle connections kept per endpoint.
	MaxIdle int `yaml:"max_idle" default:"256" min:"0"`
}

// Consumer is somebody who calls.
type Consumer struct {
	// SHA-256 digests of API keys: "sha256:HEX".
	APIKeys []string `yaml:"api_keys"`
	Groups  []string `yaml:"groups"`
	// For basic_auth. The user name defaults to the consumer's name.
	BasicAuth *BasicCredential `yaml:"basic_auth"`
	// Free text for plugins and logs.
	Metadata map[string]string `yaml:"metadata"`
}

// BasicCredential is a user name and the hash of a password.
type BasicCredential struct {
	Username string `yaml:"username"`
	// bcrypt ($2b$…) or argon2id ($argon2id$…); see gatehouse hash-password.
	PasswordHash unit.Secret `yaml:"password_hash" required:"true"`
}

// WAF is policies and virtual patches.
type WAF struct {
	Policies map[string]WAFPolicy `yaml:"policies"`
	Patches  map[string]WAFPatch  `yaml:"patches"`
	// Where events go besides the node's own log.
	EventLog WAFEventLog `yaml:"event_log"`
}

// WAFEventLog is one record for every request in which a rule matched.
// Credentials in it are masked.
type WAFEventLog struct {
	// A file, "stdout", "stderr" or "off".
	Path string `yaml:"path" default:"off"`
	// json, or the form of ModSecurity's error log: one line for each match.
	Format string `yaml:"format" enum:"json,modsecurity" default:"json"`
}

// WAFPolicy is how requests are inspected. The policy "default" exists unless redefined.
type WAFPolicy struct {
	Mode string `yaml:"mode" enum:"off,detect,block" default:"block"`
	// Use the OWASP Core Rule Set.
	CRS bool `yaml:"crs" default:"true"`
	// Rules up to this paranoia level block.
	ParanoiaLevel int `yaml:"paranoia_level" default:"1" min:"1" max:"4"`
	// Rules up to this level are logged. Default: paranoia_level.
	DetectionParanoiaLevel int `yaml:"detection_paranoia_level" default:"0" min:"0" max:"4"`
	InboundThreshold       int `yaml:"inbound_threshold" default:"5" min:"1"`
	OutboundThreshold      int `yaml:"outbound_threshold" default:"4" min:"1"`
	// Default: the route's methods, else GET HEAD POST PUT PATCH DELETE OPTIONS.
	AllowedMethods []string `yaml:"allowed_methods"`
	// Default: the CRS list and application/grpc, protobuf, problem+json and merge-patch.
	AllowedContentTypes []string `yaml:"allowed_content_types"`
	// How much of a request body is inspected.
	RequestBodyLimit unit.Size `yaml:"request_body_limit" default:"1MiB" min:"1KiB" max:"128MiB"`
	// A longer one is refused with 413, or inspected up to the limit.
	BodyOverLimit string `yaml:"body_over_limit" enum:"reject,inspect_prefix" default:"reject"`
	// Inspect reply bodies.
	ResponseBody         bool      `yaml:"response_body" default:"false"`
	ResponseBodyLimit    unit.Size `yaml:"response_body_limit" default:"512KiB" min:"1KiB" max:"32MiB"`
	ResponseContentTypes []string  `yaml:"response_content_types"`
	// Extra SecLang rules, after the CRS.
	Rules      string         `yaml:"rules"`
	Exclusions []WAFExclusion `yaml:"exclusions"`
	// Let requests pass uninspected when the engine fails.
	FailOpen bool `yaml:"fail_open" default:"false"`
}

// WAFExclusion is a narrow exception.
type WAFExclusion struct {
	// Rule IDs or ranges: "942100", "942100-942199".
	Rules []string `yaml:"rules"`
	// Rule tags, such as "attack-sqli".
	Tags []string `yaml:"tags"`
	// Parts of the request, such as "ARGS:q" or "REQUEST_COOKIES:/^sess/".
	// Empty: the rules are off altogether.
	Targets []string `yaml:"targets"`
	// Only for these paths: "/exact" or "/prefix/*".
	Paths []string `yaml:"paths"`
	// Only for these methods.
	Methods []string `yaml:"methods"`
	// Why. It appears in audits.
	Comment string `yaml:"comment"`
}

// WAFPatch is a rule for all policies, with an end.
type WAFPatch struct {
	// One SecLang rule.
	Rule string `yaml:"rule" required:"true"`
	// Last day it applies: YYYY-MM-DD.
	Expires string `yaml:"expires"`
}

// Plugin is one plugin in a chain: a map with the plugin's name as its only key.
type Plugin struct {
	Name string `yaml:"-"`
	// Config is a pointer to the plugin's own config type, decoded and checked.
	Config any `yaml:"-"`
}

// Route is a match and what happens then: exactly one of backends, redirect and respond.
type Route struct {
	Match    Match     `yaml:"match"`
	Plugins  []Plugin  `yaml:"plugins"`
	Backends []Backend `yaml:"backends"`
	Redirect *Redirect `yaml:"redirect"`
	Respond  *Respond  `yaml:"respond"`
	Rewrite  *Rewrite  `yaml:"rewrite"`
	Timeouts Timeouts  `yaml:"timeouts"`
	Retries  Retries   `yaml:"retries"`
	Hedge    *Hedge    `yaml:"hedge"`
	Mirror   *Mirror   `yaml:"mirror"`
	Fault    *Fault    `yaml:"fault"`
	// Do not run the plugins listed at the top of the config.
	SkipGlobalPlugins bool `yaml:"skip_global_plugins" default:"false"`
}

// Match says which requests a route is for; everything given must hold.
type Match struct {
	// Names of listeners; empty: all.
	Listeners []string `yaml:"listeners"`
	// "api.example.com", "*.example.com"; empty: any.
	Hosts []string  `yaml:"hosts"`
	Path  PathMatch `yaml:"path"`
	// Empty: any.
	Methods []string `yaml:"methods"`
	// By name: an exact value, or {exact|prefix|regex|present}.
	Headers map[string]ValueMatch `yaml:"headers"`
	Query   map[string]ValueMatch `yaml:"query"`
	Cookies map[string]ValueMatch `yaml:"cookies"`
}

// PathMatch is at most one of its fields; "/prefix" alone is short for prefix.
type PathMatch struct {
	Exact string `yaml:"exact"`
	// Whole segments: /v1 matches /v1 and /v1/x, not /v10.
	Prefix string `yaml:"prefix"`
	// RE2, matched against the whole path.
	Regex string `yaml:"regex"`
}

// UnmarshalText reads the short form.
func (m *PathMatch) UnmarshalText(text []byte) error {
	m.Prefix = string(text)
	return nil
}

// ValueMatch is written as the exact value or in full.
type ValueMatch struct {
	Exact  string `yaml:"exact"`
	Prefix string `yaml:"prefix"`
	// RE2, matched against the whole value.
	Regex string `yaml:"regex"`
	// true: must be there with any value; false: must not be there.
	Present *bool `yaml:"present"`
}

// UnmarshalText reads the short form.
func (m *ValueMatch) UnmarshalText(text []byte) error {
	m.Exact = string(text)
	return nil
}

// Backend is an upstream with a weight.
type Backend struct {
	Upstream string `yaml:"upstream" required:"true"`
	Weight   int    `yaml:"weight" default:"1" min:"0" max:"1000000"`
}

// Redirect answers with another address. What is not given stays as requested.
type Redirect struct {
	Scheme string `yaml:"scheme" enum:"http,https"`
	Host   string `yaml:"host"`
	Port   int    `yaml:"port" min:"0" max:"65535"`
	// Replaces the whole path; may have ${…}.
	Path string `yaml:"path"`
	// Replaces the matched prefix.
	Prefix string `yaml:"prefix"`
	Status int    `yaml:"status" enum:"301,302,303,307,308" default:"302"`
	// Keep the query.
	Query bool `yaml:"query" default:"true"`
}

// Respond answers with fixed text.
type Respond struct {
	Status int `yaml:"status" default:"200" min:"200" max:"599"`
	// May have ${…}.
	Body        string            `yaml:"body"`
	ContentType string            `yaml:"content_type" default:"text/plain; charset=utf-8"`
	Headers     map[string]string `yaml:"headers"`
}

// Rewrite changes what the upstream is asked for.
type Rewrite struct {
	// Replaces the matched prefix.
	Prefix string `yaml:"prefix"`
	// Replaces what the regex matches in the path; $1 or ${name} in with.
	Regex *RegexRewrite `yaml:"regex"`
	// Host header sent: a host, "upstream" for the endpoint's address, or empty to keep the client's.
	Host string `yaml:"host"`
}

// RegexRewrite replaces what a regular expression matches in the path.
type RegexRewrite struct {
	Pattern string `yaml:"pattern" required:"true"`
	With    string `yaml:"with"`
}

// Timeouts of a route. 0s means none.
type Timeouts struct {
	// From the end of the request head to the end of the reply; not for streams.
	Request unit.Duration `yaml:"request" default:"60s"`
	// Between two bytes of a reply, a stream or a tunnel.
	Idle unit.Duration `yaml:"idle" default:"5m"`
}

// Retries are for requests that can safely be sent again.
type Retries struct {
	// Tries after the first; 0: none.
	Attempts int `yaml:"attempts" default:"1" min:"0" max:"10"`
	// connect_failure, reset, timeout, or a status ("503", "5xx").
	On []string `yaml:"on"`
	// Time for one try; 0s: only the request's.
	PerTry unit.Duration `yaml:"per_try" default:"0s"`
	// Retries at once as a share of requests at once; at least 3 always may.
	BudgetPercent int `yaml:"budget_percent" default:"20" min:"0" max:"100"`
	// First back-off; doubles, with full jitter, up to 10 times this.
	Backoff unit.Duration `yaml:"backoff" default:"25ms"`
	// Request bodies up to this size are kept so that they can be sent again.
	BufferBody unit.Size `yaml:"buffer_body" default:"64KiB" max:"16MiB"`
	// Also retry POST, PATCH and other methods that are not idempotent.
	NonIdempotent bool `yaml:"non_idempotent" default:"false"`
}

// Hedge sends a second try when the first is slow, and takes the first answer. Idempotent requests without a body only.
type Hedge struct {
	After unit.Duration `yaml:"after" required:"true" min:"1ms"`
}

// Mirror sends a copy of requests elsewhere and ignores the answer.
type Mirror struct {
	Upstream string  `yaml:"upstream" required:"true"`
	Percent  float64 `yaml:"percent" default:"100" min:"0" max:"100"`
	// Requests with longer bodies are not mirrored.
	MaxBody unit.Size `yaml:"max_body" default:"64KiB" max:"16MiB"`
}

// Fault makes requests fail or wait on purpose.
type Fault struct {
	Delay *FaultDelay `yaml:"delay"`
	Abort *FaultAbort `yaml:"abort"`
}

// FaultDelay makes some requests wait.
type FaultDelay struct {
	Percent  float64       `yaml:"percent" default:"100" min:"0" max:"100"`
	Duration unit.Duration `yaml:"duration" required:"true"`
}

// FaultAbort answers some requests at once.
type FaultAbort struct {
	Percent float64 `yaml:"percent" default:"100" min:"0" max:"100"`
	Status  int     `yaml:"status" required:"true" min:"400" max:"599"`
}
