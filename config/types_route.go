package config

import "github.com/gatehouse-proxy/gatehouse/config/unit"

// Plugin is one plugin in a chain: a map with the plugin's name as its only key.
type Plugin struct {
	Name string `yaml:"-"`
	// Config is a pointer to the plugin's own config type, decoded and checked.
	Config any `yaml:"-"`
}

// Route is a match and what happens then: exactly one of backends, redirect and respond.
type Route struct {
	// Which requests it is for.
	Match Match `yaml:"match"`
	// Plugins in the order they run, after those at the top level.
	Plugins []Plugin `yaml:"plugins"`
	// Upstreams that share the requests by weight.
	Backends []Backend `yaml:"backends"`
	// Answer with another address.
	Redirect *Redirect `yaml:"redirect"`
	// Answer with a fixed text.
	Respond *Respond `yaml:"respond"`
	// Change what the upstream is asked for.
	Rewrite *Rewrite `yaml:"rewrite"`
	// How long things may take.
	Timeouts Timeouts `yaml:"timeouts"`
	// When a request is sent again.
	Retries Retries `yaml:"retries"`
	// Send a second try when the first is slow. Absent: never.
	Hedge *Hedge `yaml:"hedge"`
	// Send a copy elsewhere. Absent: never.
	Mirror *Mirror `yaml:"mirror"`
	// Make requests fail or wait on purpose. Absent: never.
	Fault *Fault `yaml:"fault"`
	// Do not run the plugins listed at the top of the config.
	SkipGlobalPlugins bool `yaml:"skip_global_plugins" default:"false"`
}

// Match says which requests a route is for; everything given must hold.
type Match struct {
	// Names of listeners; empty: all.
	Listeners []string `yaml:"listeners"`
	// "api.example.com", "*.example.com"; empty: any.
	Hosts []string `yaml:"hosts"`
	// Empty: any.
	Path PathMatch `yaml:"path"`
	// Empty: any.
	Methods []string `yaml:"methods"`
	// By name: an exact value, or {exact|prefix|regex|present}.
	Headers map[string]ValueMatch `yaml:"headers"`
	// Parameters of the query, decoded; like headers.
	Query map[string]ValueMatch `yaml:"query"`
	// Cookies; like headers.
	Cookies map[string]ValueMatch `yaml:"cookies"`
}

// PathMatch is at most one of its fields; "/prefix" alone is short for prefix.
type PathMatch struct {
	// The whole path.
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
	// The whole value.
	Exact string `yaml:"exact"`
	// How the value begins.
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
	// Name of an upstream.
	Upstream string `yaml:"upstream" required:"true"`
	// Share of requests in proportion to the other backends; 0: none.
	Weight int `yaml:"weight" default:"1" min:"0" max:"1000000"`
}

// Redirect answers with another address. What is not given stays as requested.
type Redirect struct {
	// http or https.
	Scheme string `yaml:"scheme" enum:"http,https"`
	// Host without port; may have ${…}.
	Host string `yaml:"host"`
	// 0: as requested.
	Port int `yaml:"port" min:"0" max:"65535"`
	// Replaces the whole path; may have ${…}.
	Path string `yaml:"path"`
	// Replaces the matched prefix.
	Prefix string `yaml:"prefix"`
	// 308 and 307 keep the method, 301 and 302 may turn POST into GET.
	Status int `yaml:"status" enum:"301,302,303,307,308" default:"302"`
	// Keep the query.
	Query bool `yaml:"query" default:"true"`
}

// Respond answers with fixed text.
type Respond struct {
	// Status of the reply.
	Status int `yaml:"status" default:"200" min:"200" max:"599"`
	// May have ${…}.
	Body string `yaml:"body"`
	// Content-Type of the reply.
	ContentType string `yaml:"content_type" default:"text/plain; charset=utf-8"`
	// More headers; values may have ${…}.
	Headers map[string]string `yaml:"headers"`
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
	// A regular expression (RE2).
	Pattern string `yaml:"pattern" required:"true"`
	// What stands instead; $1 or ${name} for groups of the pattern.
	With string `yaml:"with"`
}

// Timeouts of a route. 0s means none.
type Timeouts struct {
	// How long the reply may take to begin, over all tries, from when the request has come whole. Uploads and downloads may take any time as long as they keep coming.
	Request unit.Duration `yaml:"request" default:"60s"`
	// Between two bytes of a reply, a stream or a tunnel.
	Idle unit.Duration `yaml:"idle" default:"5m"`
}

// Retries are for requests that can safely be sent again.
type Retries struct {
	// Tries after the first; 0: none.
	Attempts int `yaml:"attempts" default:"1" min:"0" max:"10"`
	// connect_failure, reset, timeout, a status ("503", "5xx"), or how a gRPC call ends before its first message: grpc_unavailable, grpc_resource_exhausted, grpc_internal, grpc_deadline_exceeded, grpc_cancelled; these hold although a call is a POST. Default: connect_failure and reset.
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
	// How long the first try has before the second is sent.
	After unit.Duration `yaml:"after" required:"true" min:"1ms"`
}

// Mirror sends a copy of requests elsewhere and ignores the answer.
type Mirror struct {
	// Name of an upstream.
	Upstream string `yaml:"upstream" required:"true"`
	// Share of requests that is copied.
	Percent float64 `yaml:"percent" default:"100" min:"0" max:"100"`
	// Requests with longer bodies are not mirrored.
	MaxBody unit.Size `yaml:"max_body" default:"64KiB" max:"16MiB"`
}

// Fault makes requests fail or wait on purpose.
type Fault struct {
	// Make some requests wait.
	Delay *FaultDelay `yaml:"delay"`
	// Answer some requests at once.
	Abort *FaultAbort `yaml:"abort"`
}

// FaultDelay makes some requests wait.
type FaultDelay struct {
	// Share of requests, 0 to 100.
	Percent float64 `yaml:"percent" default:"100" min:"0" max:"100"`
	// How long they wait.
	Duration unit.Duration `yaml:"duration" required:"true"`
}

// FaultAbort answers some requests at once.
type FaultAbort struct {
	// Share of requests, 0 to 100.
	Percent float64 `yaml:"percent" default:"100" min:"0" max:"100"`
	// Status they are answered with.
	Status int `yaml:"status" required:"true" min:"400" max:"599"`
}
