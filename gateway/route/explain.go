package route

import (
	"fmt"
	"strings"

	"github.com/valyala/fasthttp"
)

// Step is one route considered for a request.
type Step struct {
	// Route is its name; Host and Path are the conditions that it stands for
	// here ("*" is any host, "" any path).
	Route, Host, Path string
	// Failed says which condition does not hold; "" means that it was chosen.
	Failed string
}

// maxNear is how many routes are listed whose path does not match.
const maxNear = 20

// Explain lists the routes considered for a request, in order, up to the one
// that Lookup returns. Routes whose host matches but whose path does not are
// listed only when nothing else is, the first twenty. It is slow: for people.
func (t *Table[T]) Explain(q *Query) []Step {
	var steps, near []Step
	for i := range t.core.all {
		c := &t.core.all[i]
		if !c.matchesHost(q.Host) {
			continue
		}
		s := Step{Route: c.name, Host: c.showHost(), Path: c.showPath()}
		if !c.matchesPath(q.Path) {
			if s.Failed = fmt.Sprintf("path: %q does not match", q.Path); len(near) < maxNear {
				near = append(near, s)
			}
			continue
		}
		s.Failed = c.rules.why(q)
		steps = append(steps, s)
		if s.Failed == "" {
			break
		}
	}
	if len(steps) == 0 {
		return near
	}
	return steps
}

func (c *candidate) matchesHost(host string) bool {
	switch {
	case c.host == "":
		return true
	case c.host[0] == '.':
		return len(host) > len(c.host) && strings.HasSuffix(host, c.host)
	}
	return host == c.host
}

func (c *candidate) matchesPath(path string) bool {
	switch c.kind {
	case exactPath:
		return path == c.path
	case prefixPath:
		return path == c.path || strings.HasPrefix(path, c.path+"/")
	case regexPath:
		return c.regex.MatchString(path)
	}
	return true
}

func (c *candidate) showHost() string {
	switch {
	case c.host == "":
		return "*"
	case c.host[0] == '.':
		return "*" + c.host
	}
	return c.host
}

func (c *candidate) showPath() string {
	switch c.kind {
	case exactPath:
		return "exact " + c.path
	case prefixPath:
		return "prefix " + c.path
	case regexPath:
		return "regex " + c.path
	}
	return ""
}

// why names the first condition that does not hold. Values sent are not
// shown: they may be secrets.
func (r *rules) why(q *Query) string {
	if r == nil {
		return ""
	}
	if len(r.methods) > 0 && !r.allows(q.Method) {
		return fmt.Sprintf("methods: %q is not among %s", q.Method, strings.Join(r.methods, ", "))
	}
	for i := range r.headers {
		if c := &r.headers[i]; !c.header(q) {
			return c.why("headers", len(q.Header.PeekAll(c.name)) > 0)
		}
	}
	for i := range r.queries {
		if c := &r.queries[i]; !c.query(q) {
			return c.why("query", (&condition{name: c.name, op: Present}).query(q))
		}
	}
	for i := range r.cookies {
		if c := &r.cookies[i]; !c.cookie(q) {
			return c.why("cookies", (&condition{name: c.name, op: Present}).cookie(q))
		}
	}
	return ""
}

func (c *condition) why(where string, sent bool) string {
	is := "is not there"
	if sent {
		is = "has another value"
	}
	return fmt.Sprintf("%s.%s: %s, want %s", where, c.name, is, c)
}

// String is what the condition asks of the value.
func (c *condition) String() string {
	switch c.op {
	case Prefix:
		return fmt.Sprintf("prefix %q", c.text)
	case Regex:
		return fmt.Sprintf("regex %q", c.text)
	case Present:
		return "any value"
	case Absent:
		return "none"
	}
	return fmt.Sprintf("%q", c.text)
}

// Request fills a Query from parts, for tools that explain a request nobody sent.
func Request(method, host, path, args string, header *fasthttp.RequestHeader) *Query {
	if header == nil {
		header = new(fasthttp.RequestHeader)
	}
	return &Query{Host: host, Path: path, Method: []byte(method), Header: header, Args: args}
}
