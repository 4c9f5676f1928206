//go:build long

package ftw_test

import (
	"testing"

	"github.com/corazawaf/coraza-coreruleset/v4/tests"

	"github.com/gatehouse-proxy/gatehouse/waf/ftw"
)

const (
	method   = "the gateway itself refuses methods that are not registered, CONNECT and TRACE"
	version  = "the gateway itself answers 505 to versions it does not speak; the test is for another server's 400"
	framing  = "the gateway itself refuses Content-Length with Transfer-Encoding"
	host     = "the gateway itself refuses a missing or empty Host"
	stricter = "the body is refused as malformed (200002) before this rule sees it"
)

// exempt are the tests that do not pass, and why. All but 920620-1 end in a
// refusal by the parser or the body parser instead of the rule.
var exempt = map[string]string{
	"911100-5":  method,
	"911100-7":  method,
	"911100-8":  method,
	"920100-4":  method,
	"920100-5":  method,
	"920100-10": method,
	"920100-14": method,
	"949110-4":  method,
	"920181-1":  framing,
	"920280-1":  host,
	"920280-3":  version,
	"920290-4":  host,
	"920430-3":  version,
	"920430-5":  version,
	"920430-8":  version,
	"920430-9":  version,
	"920620-1":  "the test is for a server that joins repeated headers; here the rule finds them",
	"922130-1":  stricter,
	"922130-2":  stricter,
	"922130-7":  stricter,
}

// TestCoreRuleSet runs every regression test of the rule set.
func TestCoreRuleSet(t *testing.T) {
	families, err := ftw.Families(tests.FS)
	if err != nil || len(families) < 20 {
		t.Fatalf("families %v, error %v", families, err)
	}
	p := newGateway(t, crsPolicy())
	for _, dir := range families {
		t.Run(dir, func(t *testing.T) { family(t, p, dir, exempt) })
	}
}
