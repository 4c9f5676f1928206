package plugins

import "time"

// WAFPolicy is one configured WAF policy, as plain data: defaults are filled
// in, virtual patches that apply are in Patches.
type WAFPolicy struct {
	Name string
	// Mode is "off", "detect" or "block".
	Mode string
	// CRS switches the OWASP Core Rule Set on.
	CRS bool
	// ParanoiaLevel blocks, DetectionParanoiaLevel (at least as high) only logs.
	ParanoiaLevel, DetectionParanoiaLevel int
	// InboundThreshold and OutboundThreshold are anomaly scores that block.
	InboundThreshold, OutboundThreshold int
	// AllowedMethods and AllowedContentTypes replace what is derived from the
	// route; empty means derive.
	AllowedMethods, AllowedContentTypes []string
	// RequestBodyLimit is how many bytes of a request body are inspected;
	// BodyOverLimit says what happens to a longer one: "reject" (413) or
	// "inspect_prefix".
	RequestBodyLimit int64
	BodyOverLimit    string
	// ResponseBody switches response inspection on, up to ResponseBodyLimit
	// bytes of replies of ResponseContentTypes.
	ResponseBody         bool
	ResponseBodyLimit    int64
	ResponseContentTypes []string
	// Rules is extra SecLang, after the CRS; Patches are virtual patches.
	Rules      string
	Patches    []WAFPatch
	Exclusions []WAFExclusion
	// FailOpen lets requests pass uninspected when the engine fails.
	FailOpen bool
}

// WAFPatch is a virtual patch: one rule with an end.
type WAFPatch struct {
	Name, Rule string
	Expires    time.Time // zero: never
}

// WAFExclusion is a narrow exception: these rules, for these targets, on these
// requests. Empty lists mean any; Rules and Tags are not both empty.
type WAFExclusion struct {
	Rules   []string // "942100" or a range "942100-942199"
	Tags    []string
	Targets []string // "ARGS:q", "REQUEST_COOKIES:/^sess/"; empty: the whole rule
	Paths   []string // "/exact" or "/prefix/*"
	Methods []string
}
