package config

import "github.com/gatehouse-proxy/gatehouse/config/unit"

// Upstream is a set of endpoints with one balancing policy.
type Upstream struct {
	// Where it runs; exactly one of endpoints and the sources that follow. What a
	// source has found stays in use while it cannot be asked.
	Endpoints []Endpoint `yaml:"endpoints"`
	// A DNS name that stands for the endpoints, resolved again and again.
	DNS *DNS `yaml:"dns"`
	// A file with a list of endpoints, which other programs write.
	File *EndpointsFile `yaml:"file"`
	// A service in the catalog of Consul.
	Consul *Consul `yaml:"consul"`
	// An application in a registry that speaks Eureka's REST API.
	Eureka *Eureka `yaml:"eureka"`
	// The EndpointSlices of a Kubernetes service.
	Kubernetes *Kubernetes `yaml:"kubernetes"`
	// A service of the mesh; its registered instances are the endpoints.
	Mesh *Mesh `yaml:"mesh"`
	// What the endpoints speak: HTTP/1.1; HTTP/2 over TLS (h2) or in clear text
	// (h2c), as gRPC servers do; auto is what each endpoint chooses over TLS. Over
	// HTTP/2 many requests share a connection, each of them is balanced for itself,
	// and WebSockets are refused; with auto these go over HTTP/1.1.
	Protocol string `yaml:"protocol" enum:"http1,h2,h2c,auto" default:"http1"`
	// Speak TLS with the endpoints. Absent: plain; "tls: {}" verifies them by
	// their own names against the system's authorities.
	TLS *UpstreamTLS `yaml:"tls"`
	// Begin connections with a PROXY header of this version, which names the
	// client. Only for upstreams of tcp and tls listeners.
	ProxyProtocol string `yaml:"proxy_protocol" enum:"v1,v2"`
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

// Endpoint is written as "HOST:PORT" or in full.
type Endpoint struct {
	// HOST:PORT; a name is resolved by the system.
	Address string `yaml:"address" required:"true"`
	// Share of requests in proportion to the other endpoints.
	Weight int `yaml:"weight" default:"1" min:"1" max:"1000"`
	// Zone it runs in.
	Zone string `yaml:"zone"`
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
	// least_request and peak_ewma compare two random endpoints; ring_hash and
	// maglev keep equal requests together.
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
	// Name of the cookie.
	Cookie string `yaml:"cookie" default:"gh_sticky"`
	// How long the client keeps it; 0s: until its browser is closed.
	TTL unit.Duration `yaml:"ttl" default:"0s"`
	// Signs the cookie; the same on every node. At least 16 bytes.
	Secret unit.Secret `yaml:"secret" required:"true"`
	// Send the cookie over TLS only.
	Secure bool `yaml:"secure" default:"false"`
}

// HealthCheck probes endpoints.
type HealthCheck struct {
	// http asks for path and looks at the status; tcp only connects; grpc asks
	// the service grpc.health.v1.Health, over HTTP/2. All speak TLS where the
	// upstream does.
	Type string `yaml:"type" enum:"http,tcp,grpc" default:"http"`
	// Port to probe on the endpoint's host, such as that of an admin server.
	// Default: the endpoint's own.
	Port int `yaml:"port" min:"0" max:"65535" default:"0"`
	// Path with query that is asked for.
	Path string `yaml:"path" default:"/"`
	// Host header of the probe. Default: the endpoint's address, over TLS the
	// name it is verified as.
	Host string `yaml:"host"`
	// What grpc asks about. Default: the server as a whole.
	Service string `yaml:"service"`
	// Statuses that count as healthy: "200", "200-299".
	Expect string `yaml:"expect" default:"200-299"`
	// Between two probes of one endpoint.
	Interval unit.Duration `yaml:"interval" default:"5s" min:"100ms"`
	// A probe that takes longer has failed.
	Timeout unit.Duration `yaml:"timeout" default:"1s" min:"10ms"`
	// Successes in a row that bring an endpoint back.
	Healthy int `yaml:"healthy" default:"2" min:"1" max:"100"`
	// Failures in a row that take it out.
	Unhealthy int `yaml:"unhealthy" default:"3" min:"1" max:"100"`
	// Random share of the interval, in percent, so that nodes do not probe in step.
	Jitter int `yaml:"jitter" default:"10" min:"0" max:"100"`
}

// OutlierDetection ejects endpoints whose real requests fail. Defaults are Envoy's.
type OutlierDetection struct {
	// Eject at all.
	Enabled bool `yaml:"enabled" default:"true"`
	// 5xx replies or failed tries in a row.
	ConsecutiveErrors int `yaml:"consecutive_errors" default:"5" min:"1"`
	// How often ejections are reconsidered.
	Interval unit.Duration `yaml:"interval" default:"10s" min:"100ms"`
	// Times the number of ejections so far.
	BaseEjection unit.Duration `yaml:"base_ejection" default:"30s" min:"100ms"`
	// An endpoint is never out for longer than this.
	MaxEjection unit.Duration `yaml:"max_ejection" default:"5m" min:"100ms"`
	// Share of endpoints that may be out at once; one always may.
	MaxEjectedPercent int `yaml:"max_ejected_percent" default:"10" min:"0" max:"100"`
}

// CircuitBreaker limits what goes to an upstream at once; more is refused with 503.
type CircuitBreaker struct {
	// Connections to all endpoints together.
	MaxConnections int `yaml:"max_connections" default:"1024" min:"1"`
	// Requests under way.
	MaxRequests int `yaml:"max_requests" default:"1024" min:"1"`
	// Requests that wait for a connection.
	MaxPending int `yaml:"max_pending" default:"1024" min:"0"`
	// Retries under way.
	MaxRetries int `yaml:"max_retries" default:"3" min:"0"`
}

// Connection is how endpoints are connected to.
type Connection struct {
	// To connect, the TLS handshake included.
	Timeout unit.Duration `yaml:"timeout" default:"5s" min:"10ms"`
	// Idle connections are closed after this time. Keep it below the
	// upstream's own idle timeout.
	Idle unit.Duration `yaml:"idle" default:"50s" min:"100ms"`
	// Idle connections kept per endpoint.
	MaxIdle int `yaml:"max_idle" default:"256" min:"0"`
}
