package route

import (
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/target"
)

// core is a table without its values, so that lookup is compiled once.
type core struct {
	all   []candidate // in order of precedence
	exact map[string]*hostTable
	wild  map[string]*hostTable // by ".example.com"
	any   *hostTable
	// wildDots is how many dots the longest wildcard has: a host of a hundred
	// labels costs no more than one of as many.
	wildDots int
}

func (t *core) lookup(q *Query) *candidate {
	if len(t.exact) > 0 {
		if h := t.exact[q.Host]; h != nil {
			if c := h.lookup(q); c != nil {
				return c
			}
		}
	}
	if t.wildDots > 0 {
		if c := t.lookupWild(q); c != nil {
			return c
		}
	}
	if t.any != nil {
		return t.any.lookup(q)
	}
	return nil
}

// lookupWild tries the wildcards that cover the host, the longest first.
func (t *core) lookupWild(q *Query) *candidate {
	from, dots := len(q.Host), 0
	for from > 1 && dots < t.wildDots {
		if from--; q.Host[from] == '.' {
			dots++
		}
	}
	for i := max(from, 1); i < len(q.Host); i++ {
		if q.Host[i] != '.' {
			continue
		}
		if h := t.wild[q.Host[i:]]; h != nil {
			if c := h.lookup(q); c != nil {
				return c
			}
		}
	}
	return nil
}

func (h *hostTable) lookup(q *Query) *candidate {
	if h.exact != nil {
		if c := first(h.exact[q.Path], q); c != nil {
			return c
		}
	}
	if h.root != nil && len(q.Path) > 0 && q.Path[0] == '/' {
		deepest := h.root.walk(q.Path)
		for n := deepest; n != nil; n = n.under {
			if c := first(n.prefixes, q); c != nil {
				return c
			}
		}
		if deepest.outer != nil || len(deepest.regexes) > 0 {
			if c := lookupRegex(deepest, q); c != nil {
				return c
			}
		}
	}
	return first(h.rest, q)
}

func first(list []*candidate, q *Query) *candidate {
	for _, c := range list {
		if c.rules == nil || c.rules.hold(q) {
			return c
		}
	}
	return nil
}

// lookupRegex tries the regexes of a node and those above it in order of
// precedence, which is not that of depth: it merges their sorted lists.
func lookupRegex(n *node, q *Query) *candidate {
	var lists [regexDepth + 1][]*candidate
	used := 0
	for ; n != nil; n = n.outer {
		if len(n.regexes) > 0 {
			lists[used] = n.regexes
			used++
		}
	}
	for {
		next := -1
		for i, l := range lists[:used] {
			if len(l) > 0 && (next < 0 || l[0].rank < lists[next][0].rank) {
				next = i
			}
		}
		if next < 0 {
			return nil
		}
		c := lists[next][0]
		lists[next] = lists[next][1:]
		if strings.HasPrefix(q.Path, c.literal) && c.regex.MatchString(q.Path) && (c.rules == nil || c.rules.hold(q)) {
			return c
		}
	}
}

func (r *rules) hold(q *Query) bool {
	if len(r.methods) > 0 && !r.allows(q.Method) {
		return false
	}
	for i := range r.headers {
		if !r.headers[i].header(q) {
			return false
		}
	}
	for i := range r.queries {
		if !r.queries[i].query(q) {
			return false
		}
	}
	for i := range r.cookies {
		if !r.cookies[i].cookie(q) {
			return false
		}
	}
	return true
}

func (r *rules) allows(method []byte) bool {
	for _, m := range r.methods {
		if m == string(method) {
			return true
		}
	}
	return false
}

func (c *condition) header(q *Query) bool {
	lines := q.Header.PeekAll(c.name)
	if c.op == Absent {
		return len(lines) == 0
	}
	for _, l := range lines {
		if c.bytes(l) {
			return true
		}
	}
	return false
}

func (c *condition) cookie(q *Query) bool {
	for _, l := range q.Header.PeekAll(fasthttp.HeaderCookie) {
		if v, ok := target.Cookie(l, c.name); ok {
			return c.bytes(v)
		}
	}
	return c.op == Absent
}

// bytes compares a value that is there.
func (c *condition) bytes(v []byte) bool {
	switch c.op {
	case Exact:
		return string(v) == c.text
	case Prefix:
		return len(v) >= len(c.text) && string(v[:len(c.text)]) == c.text
	case Regex:
		return c.re.Match(v)
	}
	return c.op == Present
}

func (c *condition) query(q *Query) bool {
	v, ok := target.Query(q.Args, c.name)
	if !ok {
		return c.op == Absent
	}
	switch c.op {
	case Exact:
		return target.EqualDecoded(v, c.text)
	case Prefix:
		return target.HasPrefixDecoded(v, c.text)
	case Regex:
		if !target.Encoded(v) {
			return c.re.MatchString(v)
		}
		q.buf = target.AppendDecoded(q.buf[:0], v)
		return c.re.Match(q.buf)
	}
	return c.op == Present
}
