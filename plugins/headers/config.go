// Package headers is the plugin headers: it sets, adds and removes header
// fields of requests and replies, with values taken from the request, and has
// a preset of the fields that make browsers careful.
package headers

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/config/unit"
	"github.com/gatehouse-proxy/gatehouse/gateway/attribute"
)

// Config of the plugin headers.
type Config struct {
	// Changes to the request before it goes to the upstream.
	Request Edits `yaml:"request"`
	// Changes to the reply, the gateway's own replies included.
	Response Edits `yaml:"response"`
	// Fields that make browsers careful. Absent: none; {}: all with their defaults.
	Security *Security `yaml:"security"`
}

// Edits are done in this order: remove, set, add.
type Edits struct {
	// Names of fields to remove; a name may end in * .
	Remove []string `yaml:"remove"`
	// Fields to set, whatever was there. A value may have ${…}; where that
	// comes out empty, the field is removed.
	Set map[string]string `yaml:"set"`
	// Fields to add to what is there.
	Add map[string]string `yaml:"add"`
}

// Security is the preset for browsers. A field the upstream has set is kept.
type Security struct {
	// Strict-Transport-Security's max-age, sent over TLS only; 0s: not sent.
	HSTS unit.Duration `yaml:"hsts" default:"365d"`
	// Let it include subdomains.
	HSTSSubdomains bool `yaml:"hsts_subdomains" default:"false"`
	// Ask browsers to have the host in the list they come with
	// (hstspreload.org). Needs hsts of at least 365d and hsts_subdomains.
	HSTSPreload bool `yaml:"hsts_preload" default:"false"`
	// X-Content-Type-Options: nosniff.
	NoSniff bool `yaml:"nosniff" default:"true"`
	// X-Frame-Options.
	Frame string `yaml:"frame" enum:"deny,sameorigin,off" default:"deny"`
	// Referrer-Policy; "off": not sent.
	Referrer string `yaml:"referrer" enum:"no-referrer,same-origin,strict-origin,strict-origin-when-cross-origin,off" default:"strict-origin-when-cross-origin"`
	// Content-Security-Policy; empty: not sent, since no default fits all.
	ContentPolicy string `yaml:"content_security_policy"`
	// Permissions-Policy; empty: not sent.
	Permissions string `yaml:"permissions_policy"`
}

// preloadAge is what hstspreload.org asks for.
const preloadAge = 365 * 24 * time.Hour

// framing are the fields that say where a message ends or concern one
// connection only. They are the gateway's own.
var framing = []string{
	"connection", "keep-alive", "proxy-connection", "transfer-encoding", "te", "trailer", "upgrade",
	"content-length", "expect", "proxy-authorization", "proxy-authenticate", "http2-settings",
}

// Validate implements strict.Validator.
func (c *Config) Validate(p *problem.List) {
	c.Request.validate(p.Under("request"), "host")
	c.Response.validate(p.Under("response"), "date")
	if s := c.Security; s != nil {
		sp := p.Under("security")
		sp.Check(!s.HSTSPreload || s.HSTS.D() >= preloadAge, "hsts_preload", "needs hsts of at least 365d, got %s", s.HSTS)
		sp.Check(!s.HSTSPreload || s.HSTSSubdomains, "hsts_preload", "needs hsts_subdomains: the list always includes them")
		sp.Check(!s.HSTSSubdomains || s.HSTS > 0, "hsts_subdomains", "has no meaning while hsts is 0s")
		for key, v := range map[string]string{"content_security_policy": s.ContentPolicy, "permissions_policy": s.Permissions} {
			sp.Check(httpguts.ValidHeaderFieldValue(v), key, "must be the value of a header, got %q", v)
		}
	}
}

func (e *Edits) validate(p *problem.List, own string) {
	for i, n := range e.Remove {
		key := fmt.Sprintf("remove[%d]", i)
		if prefix, ok := strings.CutSuffix(n, "*"); ok {
			p.Check(httpguts.ValidHeaderFieldName(prefix), key, "must be a header name, alone or the beginning of one before *, got %q", n)
			continue
		}
		checkName(p, key, n, own)
	}
	for _, m := range []struct {
		key    string
		fields map[string]string
	}{{"set", e.Set}, {"add", e.Add}} {
		for n, v := range m.fields {
			u := p.Under(m.key)
			checkName(u, n, n, own)
			if err := checkValue(v); err != nil {
				u.Add(n, "%v", err)
			}
		}
	}
	for _, twice := range sameName(e.Set) {
		p.Add("set", "%q is there twice", twice)
	}
}

func checkName(p *problem.List, key, name, own string) {
	lower := strings.ToLower(name)
	switch {
	case !httpguts.ValidHeaderFieldName(name):
		p.Add(key, "must be a header name, got %q", name)
	case slices.Contains(framing, lower):
		p.Add(key, "%s belongs to the connection or frames the body; the gateway sets it", name)
	case lower == own && own == "host":
		p.Add(key, "the Host header is changed with the route's rewrite.host")
	case lower == own:
		p.Add(key, "%s is the upstream's or the gateway's own", name)
	}
}

func checkValue(v string) error {
	if v == "" {
		return errors.New("must not be empty; remove the header instead")
	}
	t, err := attribute.ParseTemplate(v)
	if err != nil {
		return err
	}
	if text, ok := t.Static(); ok && !httpguts.ValidHeaderFieldValue(text) {
		return fmt.Errorf("must be the value of a header, got %q", v)
	}
	if strings.ContainsAny(v, "\r\n\x00") {
		return fmt.Errorf("must not have control characters, got %q", v)
	}
	return nil
}

// sameName finds keys that differ in case only: which of them wins would be chance.
func sameName(m map[string]string) (twice []string) {
	seen := map[string]bool{}
	for n := range m {
		l := strings.ToLower(n)
		if seen[l] {
			twice = append(twice, l)
		}
		seen[l] = true
	}
	slices.Sort(twice)
	return twice
}
