package route

import (
	"regexp/syntax"
	"strings"
)

// hostTable are the routes of one host, or of one wildcard, or of any host.
// Every list is in order of precedence.
type hostTable struct {
	exact map[string][]*candidate
	root  *node        // prefixes and regexes; nil if there are none
	rest  []*candidate // any path
}

// node is a path of whole segments in a tree of them. Candidates hang where
// their fixed segments end, so a walk down a request's path meets all that can
// match it and reads no byte twice.
type node struct {
	kids map[string]*node
	// prefixes end here; under is the next node above that has some.
	prefixes []*candidate
	under    *node
	// regexes have these segments as their fixed beginning; outer is the next
	// node above that has some.
	regexes []*candidate
	outer   *node
}

// regexDepth is how deep regexes hang at most: a walk meets no more lists of
// them than that, plus the root's.
const regexDepth = 7

func (h *hostTable) add(c *candidate) {
	switch c.kind {
	case exactPath:
		if h.exact == nil {
			h.exact = map[string][]*candidate{}
		}
		h.exact[c.path] = append(h.exact[c.path], c)
	case prefixPath:
		n := h.node(c.path, -1)
		n.prefixes = append(n.prefixes, c)
	case regexPath:
		fixed := ""
		if i := strings.LastIndexByte(c.literal, '/'); i > 0 {
			fixed = c.literal[:i]
		}
		n := h.node(fixed, regexDepth)
		n.regexes = append(n.regexes, c)
	case anyPath:
		h.rest = append(h.rest, c)
	}
}

// node finds or makes the node of "/a/b", at most depth segments deep.
func (h *hostTable) node(path string, depth int) *node {
	if h.root == nil {
		h.root = new(node)
	}
	n := h.root
	for path != "" && depth != 0 {
		var seg string
		seg, path = path[1:], ""
		if i := strings.IndexByte(seg, '/'); i >= 0 {
			seg, path = seg[:i], seg[i:]
		}
		kid := n.kids[seg]
		if kid == nil {
			kid = new(node)
			if n.kids == nil {
				n.kids = map[string]*node{}
			}
			n.kids[seg] = kid
		}
		n, depth = kid, depth-1
	}
	return n
}

// link sets under and outer in the finished tree. It does not recurse: a path
// of a thousand segments is legal.
func (h *hostTable) link() {
	if h.root == nil {
		return
	}
	todo := []*node{h.root}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, kid := range n.kids {
			kid.under, kid.outer = n.under, n.outer
			if len(n.prefixes) > 0 {
				kid.under = n
			}
			if len(n.regexes) > 0 {
				kid.outer = n
			}
			todo = append(todo, kid)
		}
	}
}

// walk is the deepest node on the way down path.
func (n *node) walk(path string) *node {
	for n.kids != nil {
		seg, rest := path[1:], ""
		if i := strings.IndexByte(seg, '/'); i >= 0 {
			seg, rest = seg[:i], seg[i:]
		}
		kid := n.kids[seg]
		if kid == nil {
			break
		}
		n = kid
		if rest == "" {
			break
		}
		path = rest
	}
	return n
}

// literalPrefix is a text with which everything begins that the valid pattern
// matches from its start.
func literalPrefix(pattern string) string {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return ""
	}
	var b strings.Builder
	appendLiteral(&b, re)
	return b.String()
}

// appendLiteral reports whether what follows re follows what it has appended.
func appendLiteral(b *strings.Builder, re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpEmptyMatch, syntax.OpBeginText, syntax.OpBeginLine:
		return true
	case syntax.OpLiteral:
		if re.Flags&syntax.FoldCase != 0 {
			return false
		}
		b.WriteString(string(re.Rune))
		return true
	case syntax.OpCapture:
		return appendLiteral(b, re.Sub[0])
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			if !appendLiteral(b, sub) {
				return false
			}
		}
		return true
	}
	return false
}
