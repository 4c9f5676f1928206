package config

import (
	"strings"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

// methods are those that reach routes (pipeline.Methods): the IANA HTTP Method
// Registry without CONNECT, TRACE, PRI and "*", and PURGE, which caches use.
var methods = []string{
	"ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "COPY", "DELETE", "GET", "HEAD", "LABEL",
	"LINK", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE",
	"OPTIONS", "ORDERPATCH", "PATCH", "POST", "PROPFIND", "PROPPATCH", "PURGE", "PUT", "QUERY", "REBIND", "REPORT",
	"SEARCH", "UNBIND", "UNCHECKOUT", "UNLINK", "UNLOCK", "UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL",
}

var isMethod = func() map[string]int {
	m := make(map[string]int, len(methods))
	for i, name := range methods {
		m[name] = i
	}
	return m
}()

// checkMethods notes unknown and repeated methods.
func checkMethods(p *problem.List, key string, list []string) {
	for i, m := range list {
		k := index(key, i)
		_, known := isMethod[m]
		switch {
		case m == "TRACE" || m == "CONNECT":
			p.Add(k, "%s is always refused", m)
		case !known && strings.ToUpper(m) != m:
			p.Add(k, "must be in upper case, got %q", m)
		case !known:
			p.Add(k, "%q is not a registered method%s", m, p.Suggest(m, methods))
		}
	}
	for i := range repeats(list) {
		p.Add(index(key, i), "%s is there twice", list[i])
	}
}

// managed are the headers that a proxy itself sets or that belong to one
// connection.
var managed = map[string]string{
	"connection": "belongs to the connection", "keep-alive": "belongs to the connection",
	"proxy-connection": "belongs to the connection", "te": "belongs to the connection",
	"trailer": "belongs to the connection", "transfer-encoding": "belongs to the connection",
	"upgrade": "belongs to the connection", "content-length": "is set by the gateway",
	"date": "is set by the gateway",
}

// checkSetHeaders notes headers that cannot be set on a reply.
func checkSetHeaders(p *problem.List, key string, headers map[string]string) {
	for name, value := range each(headers) {
		k := problem.Join(key, name)
		why := managed[strings.ToLower(name)]
		switch {
		case !isToken(name):
			p.Add(k, "must be a header name, got %q", name)
		case why != "":
			p.Add(k, "cannot be set: it %s", why)
		case strings.EqualFold(name, "content-type"):
			p.Add(k, "is set by content_type")
		case !isFieldValue(value):
			p.Add(k, "must not have control characters")
		}
	}
}

func isFieldValue(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' && s[i] != '\t' || s[i] == 0x7f {
			return false
		}
	}
	return true
}
