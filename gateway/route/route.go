// Package route finds the route of a request by host, path, method, headers,
// query and cookies. Tables never change after compile builds them; Lookup
// takes no lock and does not allocate, and costs the same for ten thousand
// routes as for one. It knows nothing of what a route does.
//
// Precedence is Gateway API's. Of all routes whose whole match holds, the one
// wins that is first by: exact host, then the longest wildcard, then any host;
// exact path, then the longest prefix, then the longest regex, then any path
// ("/" as a prefix says nothing, so it is any path); one that names methods;
// more headers; more query parameters; more cookies; the name in byte order.
//
// A route whose host and path are the most specific but whose other conditions
// do not hold does not end the search: the next in that order is tried, in the
// end those of wildcard hosts and of any host. The order alone decides, so the
// result never depends on how routes are grouped or written down.
package route

import (
	"github.com/valyala/fasthttp"
)

// Op is how a value is compared.
type Op uint8

// The ways to compare a value.
const (
	Exact   Op = iota // Text is the whole value
	Prefix            // the value begins with Text
	Regex             // Text, an RE2, matches the whole value
	Present           // there is a value, whatever it is
	Absent            // there is none
)

// Value is a condition on a header, query parameter or cookie. Header names
// are not case-sensitive; a repeated header matches if one of its lines does.
// Query values are compared decoded, cookies as sent; of repeated ones the
// first counts.
type Value struct {
	Name string
	Op   Op
	Text string
}

// Path is a condition on the path; at most one field is set.
type Path struct {
	Exact string
	// Prefix matches whole segments: "/v1" and "/v1/" match /v1 and /v1/x, not /v10.
	Prefix string
	// Regex is an RE2 that matches the whole normalised path.
	Regex string
}

// Match says which requests a route is for; everything given must hold.
type Match struct {
	// Hosts are exact, or "*.example.com" for every name below example.com,
	// or "*". Empty: any.
	Hosts   []string
	Path    Path
	Methods []string // empty: any
	Headers []Value
	Query   []Value
	Cookies []Value
}

// Entry is one route of a table.
type Entry[T any] struct {
	// Name is the key under "routes" in the config.
	Name  string
	Match Match
	Value T
}

// Query is the request to find a route for. It may be reused, and must not be
// used by two goroutines at once.
type Query struct {
	Host   string // lower case, without port and trailing dot
	Path   string // normalised
	Method []byte
	// Header is read only if a candidate has conditions on it.
	Header *fasthttp.RequestHeader
	Args   string // the raw query

	buf []byte // decoded values on their way through a regex
}

// Table finds routes. It is immutable and safe for concurrent use.
type Table[T any] struct {
	core   core
	values []T // by entry
}

// New builds a table. The error joins one for every mistake, each naming the
// place in the config, such as `routes.users.match.path.regex "("`.
func New[T any](entries []Entry[T]) (*Table[T], error) {
	t := &Table[T]{values: make([]T, len(entries))}
	b := builder{}
	for i := range entries {
		t.values[i] = entries[i].Value
		b.add(int32(i), entries[i].Name, &entries[i].Match)
	}
	if err := b.build(&t.core); err != nil {
		return nil, err
	}
	return t, nil
}

// Lookup finds the route of a request; ok is false if none matches.
func (t *Table[T]) Lookup(q *Query) (value T, ok bool) {
	if c := t.core.lookup(q); c != nil {
		return t.values[c.entry], true
	}
	return value, false
}

// Len is the number of routes.
func (t *Table[T]) Len() int { return len(t.values) }
