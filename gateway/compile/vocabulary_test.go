package compile_test

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gatehouse-proxy/gatehouse/cmd"
	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/gateway/attribute"
	"github.com/gatehouse-proxy/gatehouse/gateway/compile"
	"github.com/gatehouse-proxy/gatehouse/gateway/pipeline"
	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
	"github.com/gatehouse-proxy/gatehouse/gateway/route"
	"github.com/gatehouse-proxy/gatehouse/gateway/target"
)

// config knows nobody, so it has copies of a few rules of the data plane. What
// it accepts must work, and what works it must not refuse.

// accepts reports whether config takes a value; why says what it says.
func accepts(format string, args ...any) (ok bool, why string) {
	_, _, err := config.Parse([]byte(fmt.Sprintf(format, args...)), "x.yaml", config.Kinds{}, config.Options{})
	if err != nil {
		return false, err.Error()
	}
	return true, ""
}

const minimal = `
listeners: { web: { address: ":8080" } }
upstreams: { app: { endpoints: ["127.0.0.1:3000"] } }
routes: { r: { match: { %s }, backends: [{ upstream: app }] } }
`

func TestConfigKnowsTheMethods(t *testing.T) {
	for _, m := range pipeline.Methods {
		if ok, why := accepts(minimal, "methods: ["+m+"]"); !ok {
			t.Errorf("%s reaches handlers, and config says: %s", m, why)
		}
	}
	for _, m := range []string{"TRACE", "CONNECT", "PRI", "FOO", "get", "BREW"} {
		if ok, _ := accepts(minimal, "methods: ["+m+"]"); ok || pipeline.KnowsMethod([]byte(m)) {
			t.Errorf("%s is accepted", m)
		}
	}
	// "known: A, B, … and N more" tells how many config has.
	_, why := accepts(minimal, "methods: [BREW]")
	shown := strings.Count(why[strings.Index(why, "known:"):], ",") + 1
	var more int
	if i := strings.Index(why, " and "); i >= 0 {
		if _, err := fmt.Sscanf(why[i:], " and %d more", &more); err != nil {
			t.Fatalf("%s: %v", why, err)
		}
	}
	if shown+more != len(pipeline.Methods) {
		t.Errorf("config knows %d methods, the pipeline %d", shown+more, len(pipeline.Methods))
	}
}

const hashed = `
upstreams: { app: { endpoints: ["127.0.0.1:3000"], load_balancer: { algorithm: maglev, hash_on: %q } } }
`

func TestConfigKnowsTheAttributes(t *testing.T) {
	check := func(fatal func(string, ...any), s string) {
		ok, why := accepts(hashed, s)
		if _, err := attribute.Parse(s); (err == nil) != ok {
			fatal("%q: the data plane says %v, config %q", s, err, why)
		}
	}
	for s := range strings.SplitSeq(attribute.Known, ", ") {
		for part := range strings.SplitSeq(s, " or ") {
			check(t.Errorf, part)
		}
	}
	for _, s := range []string{"", "foo", "client_ip.x", "header.", "header", "cookie.a b", "query.a b", "query.", "claim.", "claim.a.b", "header.X:Y", "claim", "Method"} {
		check(t.Errorf, s)
	}
	kinds := append(strings.Split("header,cookie,query,claim,client_ip,method,subject,foo", ","), "")
	rapid.Check(t, func(rt *rapid.T) {
		name := rapid.StringMatching(`[ -~]{0,6}`).Draw(rt, "name")
		check(rt.Fatalf, rapid.SampledFrom(kinds).Draw(rt, "kind")+rapid.SampledFrom([]string{".", ""}).Draw(rt, "dot")+name)
	})
}

func TestConfigKnowsTheNormalFormOfPaths(t *testing.T) {
	rules := target.Rules{MergeSlashes: true, KeepEncodedSlashes: true}
	piece := rapid.OneOf(
		rapid.SampledFrom([]string{"/", "a", "Z", "9", "%2B", "%2b", "+", ";", "%3B", "%2C", ",", "%41", "%25", "%2F", "%5C", ".", "..", "%2E", "é", "%C3%A9", "%c3%a9", " ", "%20", ":", "%3A", "@", "\"", "~", "%7E", "(", "|", "%", "\\", "?"}),
		rapid.StringMatching(`[!-~]`),
	)
	rapid.Check(t, func(rt *rapid.T) {
		raw := "/" + strings.Join(rapid.SliceOfN(piece, 0, 8).Draw(rt, "pieces"), "")
		normal, why := target.Normalize(nil, []byte(raw), rules)
		if why != nil {
			return
		}
		// Some request has this path, so some route may want it.
		if ok, says := accepts(minimal, fmt.Sprintf("path: { exact: %q }", normal)); !ok {
			rt.Fatalf("requests for %q are compared as %q, and config says: %s", raw, normal, says)
		}
		// A path that is not its own normal form is no request's.
		if ok, _ := accepts(minimal, fmt.Sprintf("path: { prefix: %q }", raw)); ok && raw != string(normal) {
			rt.Fatalf("config accepts %q, but requests for it are compared as %q", raw, normal)
		}
	})
}

func TestConfigKnowsTheHosts(t *testing.T) {
	piece := rapid.SampledFrom([]string{"a", "api", "-", "_", ".", "*", "*.", "1", "10.0.0.1", "[::1]", ":80", "A", "example.com", "", "é", "/"})
	rapid.Check(t, func(rt *rapid.T) {
		host := strings.Join(rapid.SliceOfN(piece, 1, 4).Draw(rt, "pieces"), "")
		if ok, _ := accepts(minimal, fmt.Sprintf("hosts: [%q]", host)); !ok {
			return
		}
		if _, err := route.New([]route.Entry[int]{{Name: "r", Match: route.Match{Hosts: []string{host}}}}); err != nil {
			rt.Fatalf("config accepts %q, the table says: %v", host, err)
		}
		if name, _ := target.Host(nil, []byte(host)); !strings.HasPrefix(host, "*") && string(name) != host {
			rt.Fatalf("config accepts %q, requests have %q", host, name)
		}
	})
}

func TestConfigKnowsWhatToRetryOn(t *testing.T) {
	for _, s := range []string{"connect_failure", "reset", "timeout", "5xx", "400", "503", "599", "399", "600", "50", "", "always", "Reset", "05xx", " 503"} {
		ok, why := accepts(strings.Replace(minimal, "backends", "retries: { on: [%q] }, backends", 1), "path: /", s)
		if _, err := proxy.ParseRetryOn([]string{s}); (err == nil) != ok {
			t.Errorf("%q: the data plane says %v, config %q", s, err, why)
		}
	}
}

func TestEveryPluginsConfigCanBeCompared(t *testing.T) {
	for name, c := range cmd.Kinds() {
		v := c()
		_ = strict.Unmarshal([]byte("{}"), v) // what is required is missing: the defaults are there all the same
		if compile.Digest(v) == "" {
			t.Errorf("%s: its instances would lose their state with every reload", name)
		}
	}
}
