package config

import "github.com/gatehouse-proxy/gatehouse/config/unit"

// Consumer is somebody who calls.
type Consumer struct {
	// SHA-256 digests of API keys: "sha256:HEX".
	APIKeys []string `yaml:"api_keys"`
	// Groups it belongs to, for plugins that authorize.
	Groups []string `yaml:"groups"`
	// What it may use; the plugin quota says what plans grant.
	Plan string `yaml:"plan"`
	// For basic_auth. The user name defaults to the consumer's name.
	BasicAuth *BasicCredential `yaml:"basic_auth"`
	// For client_certificate.
	Certificates ConsumerCertificates `yaml:"certificates"`
	// Free text for plugins and logs.
	Metadata map[string]string `yaml:"metadata"`
}

// BasicCredential is a user name and the hash of a password.
type BasicCredential struct {
	// Must be unique among consumers.
	Username string `yaml:"username"`
	// bcrypt ($2b$…) or argon2id ($argon2id$…); see gatehouse hash-password.
	PasswordHash unit.Secret `yaml:"password_hash" required:"true"`
}

// ConsumerCertificates are what a consumer's client certificates are known by;
// any one is enough. Listeners verify the certificates themselves.
type ConsumerCertificates struct {
	// Distinguished names in the form of RFC 2253: "CN=billing,O=Example", as the
	// access log shows them (client_subject) and
	// openssl x509 -in FILE -noout -subject -nameopt RFC2253.
	Subjects []string `yaml:"subjects"`
	// SPIFFE IDs: "spiffe://example.internal/ns/default/sa/billing".
	SPIFFEIDs []string `yaml:"spiffe_ids"`
	// SHA-256 of the certificate: "sha256:HEX".
	Fingerprints []string `yaml:"fingerprints"`
}

// WAF is policies and virtual patches.
type WAF struct {
	// Policies by name; the plugin waf chooses one.
	Policies map[string]WAFPolicy `yaml:"policies"`
	// Virtual patches by name; they apply in every policy that is not off.
	Patches map[string]WAFPatch `yaml:"patches"`
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
	// block refuses requests, detect only reports them, off inspects nothing.
	Mode string `yaml:"mode" enum:"off,detect,block" default:"block"`
	// Use the OWASP Core Rule Set.
	CRS bool `yaml:"crs" default:"true"`
	// Rules up to this paranoia level block.
	ParanoiaLevel int `yaml:"paranoia_level" default:"1" min:"1" max:"4"`
	// Rules up to this level are logged. Default: paranoia_level.
	DetectionParanoiaLevel int `yaml:"detection_paranoia_level" default:"0" min:"0" max:"4"`
	// Anomaly score from which a request is blocked. A critical rule scores 5.
	InboundThreshold int `yaml:"inbound_threshold" default:"5" min:"1"`
	// Anomaly score from which a reply is blocked.
	OutboundThreshold int `yaml:"outbound_threshold" default:"4" min:"1"`
	// Default: the route's methods, else GET HEAD POST PUT PATCH DELETE OPTIONS.
	AllowedMethods []string `yaml:"allowed_methods"`
	// Default: the CRS list and application/grpc, protobuf, problem+json and merge-patch.
	AllowedContentTypes []string `yaml:"allowed_content_types"`
	// How much of a request body is inspected.
	RequestBodyLimit unit.Size `yaml:"request_body_limit" default:"256KiB" min:"1KiB" max:"128MiB"`
	// A longer one is refused with 413, or inspected up to the limit.
	BodyOverLimit string `yaml:"body_over_limit" enum:"reject,inspect_prefix" default:"reject"`
	// Inspect reply bodies.
	ResponseBody bool `yaml:"response_body" default:"false"`
	// How much of a reply body is inspected.
	ResponseBodyLimit unit.Size `yaml:"response_body_limit" default:"512KiB" min:"1KiB" max:"32MiB"`
	// Media types of replies that are inspected.
	ResponseContentTypes []string `yaml:"response_content_types"`
	// Extra SecLang rules, after the CRS.
	Rules string `yaml:"rules"`
	// Exceptions from rules.
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
