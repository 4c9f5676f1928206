package waf

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	coreruleset "github.com/corazawaf/coraza-coreruleset/v4"

	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// crsDir is where the rule set's files are in its own file system.
const crsDir = "@owasp_crs"

// Rule IDs. Those the gateway makes itself are in a range that neither the CRS
// nor the registered vendors use; rules of users must stay out of it.
const (
	reservedFirst = 7_700_000
	reservedLast  = 7_799_999
	idVendorJSON  = reservedFirst + 1
	idXMLSuffix   = reservedFirst + 2
	idCutBody     = reservedFirst + 3
	idExclusions  = reservedFirst + 1_000
	idExpiries    = reservedFirst + 50_000
)

// Names in the TX collection that a guard sets for each transaction.
const (
	txPath    = "gatehouse_path"
	txMethods = "allowed_methods"
	txTypes   = "allowed_request_content_type"
)

// section is a piece of SecLang with where a user finds it.
type section struct {
	// origin is a config path such as "waf.policies.default.rules"; empty for
	// text that is not the user's.
	origin     string
	directives []directive
}

// program is the whole of what an engine is built from.
type program struct{ sections []section }

// text is the SecLang that Coraza reads. The engine's identity is its digest.
func (p *program) text() string {
	var b strings.Builder
	for _, s := range p.sections {
		for _, d := range s.directives {
			b.WriteString(d.raw)
		}
	}
	return b.String()
}

// users counts the directives that users wrote.
func (p *program) users() int {
	n := 0
	for _, s := range p.sections {
		if s.origin != "" {
			n += len(s.directives)
		}
	}
	return n
}

// first returns the program with only the first n of the users' directives,
// and the place of the last one kept.
func (p *program) first(n int) (*program, string) {
	out, place := &program{}, ""
	for _, s := range p.sections {
		if s.origin != "" {
			keep := min(n, len(s.directives))
			n -= keep
			s.directives = s.directives[:keep]
			if keep > 0 {
				place = fmt.Sprintf("%s: line %d", s.origin, s.directives[keep-1].line)
			}
		}
		out.sections = append(out.sections, s)
	}
	return out, place
}

// assemble puts a policy's program together, with the list of its rules, or
// says what is wrong with the policy.
//
// The order matters. Exclusions and expiries come first, so that a rule they
// switch off has not run yet. Patches come before the CRS looks at anything, so
// that they block early. A user's rules come between the CRS's detection and
// its verdict, so that they may add to the score; the response rules are moved
// before the request's verdict for that, which changes nothing, because rules
// are ordered within a phase only.
func assemble(p *plugins.WAFPolicy) (*program, []*rule, error) {
	var initial, detect, verdict section
	if p.CRS {
		var err error
		if initial, detect, verdict, err = ruleSet(); err != nil {
			return nil, nil, err
		}
	}
	patches, expiries, err := compilePatches(p.Patches)
	if err != nil {
		return nil, nil, err
	}
	own, err := vet(rulesOrigin(p), p.Rules)
	if err != nil {
		return nil, nil, err
	}
	head, err := gatewayText(settings(p))
	if err != nil {
		return nil, nil, err
	}
	prog := &program{sections: slices.Concat([]section{head, initial}, patches, []section{detect, {rulesOrigin(p), own}, verdict})}
	rules, err := inventory(prog)
	if err != nil {
		return nil, nil, err
	}
	if err := vetTags(prog, rules); err != nil {
		return nil, nil, err
	}
	exclusions, pads, err := compileExclusions(p, rules)
	if err != nil {
		return nil, nil, err
	}
	before, err := gatewayText(exclusions + expiries)
	if err != nil {
		return nil, nil, err
	}
	after, err := gatewayText(pads)
	if err != nil {
		return nil, nil, err
	}
	prog.sections = append(slices.Insert(prog.sections, 1, before), after)
	return prog, rules, nil
}

// gatewayText is a section that the gateway wrote itself.
func gatewayText(text string) (section, error) {
	d, err := scan(text)
	if err != nil {
		return section{}, fmt.Errorf("waf: %w", err)
	}
	return section{directives: d}, nil
}

func rulesOrigin(p *plugins.WAFPolicy) string { return "waf.policies." + p.Name + ".rules" }

// ruleSet reads the CRS: what sets it up, what detects, and what decides.
func ruleSet() (initial, detect, verdict section, err error) {
	names, err := fs.Glob(coreruleset.FS, crsDir+"/*.conf")
	if err != nil {
		return initial, detect, verdict, fmt.Errorf("core rule set: %w", err)
	}
	slices.Sort(names)
	for _, name := range names {
		text, err := fs.ReadFile(coreruleset.FS, name)
		if err != nil {
			return initial, detect, verdict, fmt.Errorf("core rule set: %w", err)
		}
		list, err := scan(string(text))
		if err != nil {
			return initial, detect, verdict, fmt.Errorf("core rule set: %s: %w", name, err)
		}
		part := &detect
		switch number(name) {
		case 901:
			part = &initial
		case 949, 959, 980, 999:
			part = &verdict
		}
		part.directives = append(part.directives, list...)
	}
	if len(initial.directives) == 0 || len(detect.directives) == 0 || len(verdict.directives) == 0 {
		return initial, detect, verdict, errors.New("core rule set: its files are not where they are expected")
	}
	return initial, detect, verdict, nil
}

// number is the family in a file name: 942 of "REQUEST-942-….conf".
func number(name string) int {
	for part := range strings.SplitSeq(name, "-") {
		if n, err := strconv.Atoi(part); err == nil {
			return n
		}
	}
	return 0
}

// settings are the directives that make Coraza behave as the policy says. They
// say the same as Coraza's recommended file where that one is sensible for a
// gateway. Limits are one byte above the policy's: the gateway itself stops
// feeding at the limit, and Coraza's own limit counts a full body as too long.
func settings(p *plugins.WAFPolicy) string {
	engine := "On"
	if p.Mode == "detect" {
		engine = "DetectionOnly"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "SecRuleEngine %s\n", engine)
	// Not SecRxPreFilter: in Coraza 3.8.1 it makes @rx miss what it must match
	// (the rule set's own tests 932311-7 and 942220-2).
	b.WriteString("SecRxPreFilter Off\nSecAuditEngine Off\n")
	fmt.Fprintf(&b, "SecRequestBodyAccess On\nSecRequestBodyLimit %d\nSecRequestBodyLimitAction ProcessPartial\n", p.RequestBodyLimit+1)
	b.WriteString("SecRequestBodyJsonDepthLimit 1024\nSecArgumentsLimit 1000\n")
	if p.ResponseBody {
		fmt.Fprintf(&b, "SecResponseBodyAccess On\nSecResponseBodyMimeTypesClear\nSecResponseBodyMimeType %s\n", strings.Join(responseTypes(p), " "))
		fmt.Fprintf(&b, "SecResponseBodyLimit %d\nSecResponseBodyLimitAction ProcessPartial\n", p.ResponseBodyLimit+1)
	} else {
		b.WriteString("SecResponseBodyAccess Off\n")
	}
	b.WriteString(bodyRules)
	if p.CRS {
		fmt.Fprintf(&b, crsSetup, max(p.DetectionParanoiaLevel, p.ParanoiaLevel), p.ParanoiaLevel, p.InboundThreshold, p.OutboundThreshold)
		if len(p.AllowedContentTypes) == 0 {
			b.WriteString(vendorJSON)
		}
	}
	return b.String()
}

// bodyRules choose how a body is parsed, and refuse what could not be: a body
// that was not understood was not inspected. A body of which only the beginning
// is inspected is never well formed, though.
var bodyRules = `
SecRule REQUEST_HEADERS:Content-Type "@rx ^(?:application(?:/soap\+|/)|text/)xml" "id:200000,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=XML"
SecRule REQUEST_HEADERS:Content-Type "@rx ^application/json" "id:200001,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=JSON"
SecRule REQUEST_HEADERS:Content-Type "@rx ^application/[a-z0-9.-]+[+]json" "id:200006,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=JSON"
SecRule REQUEST_HEADERS:Content-Type "@rx ^application/[a-z0-9.-]+[+]xml" "id:` + strconv.Itoa(idXMLSuffix) + `,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=XML"
SecRule URI_PARSE_ERROR "@eq 1" "id:200009,phase:1,t:none,log,deny,status:400,msg:'URI failed to parse',severity:2"
SecRule ARGUMENTS_LIMIT_REACHED "@eq 1" "id:200004,phase:1,t:none,log,deny,status:400,msg:'Too many arguments in the query',severity:2"
SecRule INBOUND_DATA_ERROR "@eq 1" "id:` + strconv.Itoa(idCutBody) + `,phase:2,t:none,pass,nolog,ctl:ruleRemoveById=200002"
SecRule REQBODY_ERROR "!@eq 0" "id:200002,phase:2,t:none,log,deny,status:400,msg:'Failed to parse the request body',logdata:'%{reqbody_error_msg}',severity:2"
SecRule MULTIPART_STRICT_ERROR "!@eq 0" "id:200003,phase:2,t:none,log,deny,status:400,msg:'The multipart request body is not strictly valid',logdata:'duplicate part header %{MULTIPART_DUPLICATE_PART_HEADER}, invalid quoting %{MULTIPART_INVALID_QUOTING}',severity:2"
SecRule ARGUMENTS_LIMIT_REACHED "@eq 1" "id:200005,phase:2,t:none,log,deny,status:400,msg:'Too many arguments in the request body',severity:2"
`

// crsSetup is what the CRS wants to be told before it runs. Its own example
// names the first two phases only, after which Coraza logs nothing of the others.
const crsSetup = `
SecDefaultAction "phase:1,log,auditlog,pass"
SecDefaultAction "phase:2,log,auditlog,pass"
SecDefaultAction "phase:3,log,auditlog,pass"
SecDefaultAction "phase:4,log,auditlog,pass"
SecDefaultAction "phase:5,log,auditlog,pass"
SecAction "id:900000,phase:1,pass,t:none,nolog,setvar:tx.detection_paranoia_level=%d,setvar:tx.blocking_paranoia_level=%d"
SecAction "id:900110,phase:1,pass,t:none,nolog,setvar:tx.inbound_anomaly_score_threshold=%d,setvar:tx.outbound_anomaly_score_threshold=%d"
SecAction "id:900250,phase:1,pass,t:none,nolog,setvar:'tx.restricted_headers_basic=` + restrictedHeaders + `'"
SecAction "id:900990,phase:1,pass,t:none,nolog,setvar:tx.crs_setup_version=4250"
`

// restrictedHeaders are the CRS's own without /expect/: the gateway answers
// Expect itself and does not pass it on, and clients such as curl send it with
// every long body.
const restrictedHeaders = "/content-encoding/ /proxy/ /lock-token/ /content-range/ /if/ /x-http-method-override/ /x-http-method/ /x-method-override/ /x-middleware-subrequest/"

// vendorJSON lets vendors' own JSON types through the check of content types:
// they cannot be listed, and they are parsed and inspected as JSON.
var vendorJSON = `SecRule REQUEST_HEADERS:Content-Type "@rx \Aapplication/vnd\.[a-z0-9.-]{1,100}\+json(?:\z|[ ;])" "id:` +
	strconv.Itoa(idVendorJSON) + `,phase:1,pass,t:none,t:lowercase,nolog,ctl:ruleRemoveById=920420"
`

// defaultMethods are allowed where neither the policy nor the route names any:
// the CRS's own four leave out what every REST API uses.
var defaultMethods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

// defaultTypes are the CRS's request content types and those of APIs.
var defaultTypes = []string{
	"application/x-www-form-urlencoded", "multipart/form-data", "text/xml", "application/xml",
	"application/soap+xml", "application/json", "application/problem+json",
	"application/merge-patch+json", "application/json-patch+json",
	"application/grpc", "application/grpc+proto", "application/grpc-web", "application/grpc-web+proto",
	"application/grpc-web-text", "application/grpc-web-text+proto",
	"application/protobuf", "application/x-protobuf",
}

// defaultResponseTypes are the replies whose bodies are inspected where the
// policy names none: pages and API replies, where error texts leak.
var defaultResponseTypes = []string{"text/html", "text/plain", "text/xml", "application/json", "application/problem+json"}

func responseTypes(p *plugins.WAFPolicy) []string {
	if len(p.ResponseContentTypes) == 0 {
		return defaultResponseTypes
	}
	return lowered(p.ResponseContentTypes)
}

func lowered(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = strings.ToLower(s)
	}
	return out
}
