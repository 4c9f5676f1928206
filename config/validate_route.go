package config

import (
	"strconv"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

func (v *validator) route(name string, r Route, a *at) {
	if !isName(name) {
		a.p().Add("", "a route's name %s", nameRule)
	}
	if len(r.Plugins) > 0 {
		v.plugins(r.Plugins, a.p())
		global := v.c.Plugins
		if r.SkipGlobalPlugins {
			global = nil
		}
		counters(global, r.Plugins, a.p)
	}
	v.match(&r.Match, a)
	hasBackends := len(r.Backends) > 0
	if hasBackends != (r.Redirect == nil && r.Respond == nil) || r.Redirect != nil && r.Respond != nil {
		oneOf(a.p(), given([]string{"backends", "redirect", "respond"}, hasBackends, r.Redirect != nil, r.Respond != nil),
			"backends", "redirect", "respond")
	} else if !hasBackends {
		for _, key := range given([]string{"rewrite", "hedge", "mirror", "fault"}, r.Rewrite != nil, r.Hedge != nil, r.Mirror != nil, r.Fault != nil) {
			a.p().Add(key, "is only for a route with backends")
		}
	}
	v.backends(r.Backends, a)
	if r.Redirect != nil {
		checkRedirect(r.Redirect, &r.Match, a.p().Under("redirect"))
	}
	if r.Respond != nil {
		checkRespond(r.Respond, a.p().Under("respond"))
	}
	if r.Rewrite != nil && hasBackends {
		checkRewrite(r.Rewrite, &r.Match, a.p().Under("rewrite"))
	}
	v.tries(&r, a)
	if f := r.Fault; f != nil && f.Delay == nil && f.Abort == nil {
		a.p().Add("fault", "needs delay or abort")
	}
}

func (v *validator) backends(list []Backend, a *at) {
	for i, b := range list {
		v.spokenHTTP(b.Upstream, index("backends", i)+".upstream", a)
	}
	v.shares(list, a)
}

// spokenHTTP checks the name of an upstream that requests are sent to.
func (v *validator) spokenHTTP(name, key string, a *at) {
	u, ok := v.c.Upstreams[name]
	if !ok {
		v.undefined(a.p(), "upstream", key, name)
	} else if u.ProxyProtocol != "" {
		a.p().Add(key, "%q is sent PROXY headers (proxy_protocol), which only tcp and tls listeners do; make another upstream", name)
	}
}

// shares checks the weights of backends.
func (v *validator) shares(list []Backend, a *at) {
	total := 0
	for _, b := range list {
		total += b.Weight
	}
	if len(list) > 1 {
		names := make([]string, len(list))
		for i, b := range list {
			names[i] = b.Upstream
		}
		for i := range repeats(names) {
			a.p().Add(index("backends", i)+".upstream", "%q is there twice; give it one weight", names[i])
		}
	}
	if len(list) > 0 && total == 0 {
		a.p().Add("backends", "have the weight 0 in sum; at least one must be above 0")
	}
}

// tries checks what concerns sending a request more than once, and how long.
func (v *validator) tries(r *Route, a *at) {
	t := r.Timeouts.Request
	if r.Retries.PerTry > t && t > 0 {
		a.p().Add("retries.per_try", "must be at most timeouts.request (%s), got %s", t, r.Retries.PerTry)
	}
	if r.Hedge != nil && r.Hedge.After >= t && t > 0 {
		a.p().Add("hedge.after", "must be less than timeouts.request (%s), got %s", t, r.Hedge.After)
	}
	for i, on := range r.Retries.On {
		switch on {
		case "connect_failure", "reset", "timeout", "5xx",
			"grpc_cancelled", "grpc_deadline_exceeded", "grpc_internal", "grpc_resource_exhausted", "grpc_unavailable":
			continue
		}
		if n, ok := status(on); !ok || n < 400 {
			a.p().Add(index("retries.on", i), "must be connect_failure, reset, timeout, 5xx, a status from 400 to 599, grpc_unavailable, grpc_resource_exhausted, grpc_internal, grpc_deadline_exceeded or grpc_cancelled, got %q", on)
		}
	}
	if r.Mirror != nil {
		v.spokenHTTP(r.Mirror.Upstream, "mirror.upstream", a)
	}
}

func (v *validator) match(m *Match, a *at) {
	for i, l := range m.Listeners {
		if !v.exists("listener", l) {
			v.undefined(a.p(), "listener", index("match.listeners", i), l)
		} else if spoken := v.c.Listeners[l].Protocol; spoken != http {
			a.p().Add(index("match.listeners", i), "%q speaks %s, which goes by the listener's own backends, not by routes", l, spoken)
		}
	}
	noRepeats(a, "match.listeners", m.Listeners)
	for i, h := range m.Hosts {
		if !isPlainHost(h) {
			checkHost(a.p(), index("match.hosts", i), h)
		}
	}
	noRepeats(a, "match.hosts", m.Hosts)
	if len(m.Methods) > 0 {
		checkMethods(a.p(), "match.methods", m.Methods)
	}
	path := given([]string{"exact", "prefix", "regex"}, m.Path.Exact != "", m.Path.Prefix != "", m.Path.Regex != "")
	if len(path) > 1 {
		a.p().Add("match.path", "may have only one of exact, prefix and regex, has %s", strings.Join(path, " and "))
	}
	if m.Path.Exact != "" && !isPlainPath(m.Path.Exact) {
		checkPath(a.p(), "match.path.exact", m.Path.Exact)
	}
	if m.Path.Prefix != "" && !isPlainPath(m.Path.Prefix) {
		checkPath(a.p(), "match.path.prefix", m.Path.Prefix)
	}
	if m.Path.Regex != "" {
		checkRegex(a.p(), "match.path.regex", m.Path.Regex)
	}
	if len(m.Headers)+len(m.Query)+len(m.Cookies) > 0 {
		checkValues(a.p().Under("match.headers"), m.Headers, true)
		checkValues(a.p().Under("match.query"), m.Query, false)
		checkValues(a.p().Under("match.cookies"), m.Cookies, true)
		seen := make(map[string]string, len(m.Headers))
		for name := range each(m.Headers) {
			low := strings.ToLower(name)
			if other, twice := seen[low]; twice {
				a.p().Add("match.headers."+name, "is the same header as %s", other)
			}
			if seen[low] = name; low == "host" {
				a.p().Add("match.headers."+name, "is matched by hosts")
			}
		}
	}
}

func noRepeats(a *at, key string, list []string) {
	for i := range repeats(list) {
		a.p().Add(index(key, i), "%q is there twice", list[i])
	}
}

// isPlainHost and isPlainPath know most values without a path to report on.
func isPlainHost(s string) bool {
	return isHostname(s) && strings.ToLower(s) == s
}

func isPlainPath(s string) bool { return s[0] == '/' && notNormal(s) == "" }

// checkValues checks matches on headers, query parameters or cookies.
func checkValues(p *problem.List, values map[string]ValueMatch, token bool) {
	for name, m := range each(values) {
		p.Check(name != "" && (!token || isToken(name)), name, "must have a valid name, got %q", name)
		keys := given([]string{"exact", "prefix", "regex", "present"}, m.Exact != "", m.Prefix != "", m.Regex != "", m.Present != nil)
		switch {
		case len(keys) == 0:
			p.Add(name, "needs one of exact, prefix, regex and present; an empty value cannot be matched")
		case len(keys) > 1:
			p.Add(name, "may have only one of exact, prefix, regex and present, has %s", strings.Join(keys, " and "))
		case m.Regex != "":
			checkRegex(p.Under(name), "regex", m.Regex)
		}
	}
}

func checkRedirect(r *Redirect, m *Match, p *problem.List) {
	keys := []string{"scheme", "host", "port", "path", "prefix"}
	set := given(keys, r.Scheme != "", r.Host != "", r.Port != 0, r.Path != "", r.Prefix != "")
	p.Check(len(set) > 0, "", "needs at least one of scheme, host, port, path and prefix, else it leads to itself")
	p.Check(r.Path == "" || r.Prefix == "", "", "may have only one of path and prefix")
	if r.Path != "" && !strings.HasPrefix(r.Path, "/") && !strings.HasPrefix(r.Path, "${") {
		p.Add("path", "must begin with / or ${, got %q", r.Path)
	}
	p.Check(isFieldValue(r.Path), "path", "must not have control characters")
	checkPrefixChange(r.Prefix, m, p)
	if r.Host != "" {
		p.Check(isHostname(r.Host) || isAddress(r.Host), "host", "must be a host without port, got %q", r.Host)
	}
}

func checkPrefixChange(prefix string, m *Match, p *problem.List) {
	if prefix == "" {
		return
	}
	p.Check(strings.HasPrefix(prefix, "/"), "prefix", "must begin with /, got %q", prefix)
	p.Check(isFieldValue(prefix), "prefix", "must not have control characters")
	p.Check(m.Path.Prefix != "", "prefix", "replaces what match.path.prefix matched, and there is none")
}

func checkRespond(r *Respond, p *problem.List) {
	if r.Status == 204 || r.Status == 205 || r.Status == 304 {
		p.Check(r.Body == "", "body", "must be empty for the status %d", r.Status)
	}
	p.Check(isFieldValue(r.ContentType), "content_type", "must not have control characters")
	checkSetHeaders(p, "headers", r.Headers)
}

func checkRewrite(r *Rewrite, m *Match, p *problem.List) {
	p.Check(r.Prefix == "" || r.Regex == nil, "", "may have only one of prefix and regex")
	p.Check(r.Prefix != "" || r.Regex != nil || r.Host != "", "", "needs prefix, regex or host")
	checkPrefixChange(r.Prefix, m, p)
	if r.Host != "" && r.Host != "upstream" {
		host, _, why := splitAddress(r.Host)
		ok := isHostname(r.Host) || isAddress(r.Host) || why == "" && host != ""
		p.Check(ok, "host", `must be a host, HOST:PORT or "upstream", got %q`, r.Host)
	}
	if r.Regex == nil {
		return
	}
	re := checkRegex(p, "regex.pattern", r.Regex.Pattern)
	if re == nil {
		return
	}
	for _, group := range groups(r.Regex.With) {
		n, err := strconv.Atoi(group)
		if err == nil && n > re.NumSubexp() || err != nil && re.SubexpIndex(group) < 0 {
			p.Add("regex.with", "uses the group %s, which the pattern does not have", group)
		}
	}
}

// groups lists what regexp.Expand would look up: $1, ${1}, $name, ${name}.
func groups(s string) []string {
	var out []string
	for {
		_, rest, ok := strings.Cut(s, "$")
		if !ok {
			return out
		}
		if strings.HasPrefix(rest, "$") {
			s = rest[1:]
			continue
		}
		rest, brace := strings.CutPrefix(rest, "{")
		n := 0
		for n < len(rest) && (isAlnum(rest[n]) || rest[n] == '_') {
			n++
		}
		if n > 0 && (!brace || n < len(rest) && rest[n] == '}') {
			out = append(out, rest[:n])
		}
		s = rest[n:]
	}
}
