// Package action is what a route does besides forwarding: redirect, answer
// with fixed text, and rewrite what the upstream is asked for. Everything that
// can be checked is checked when the route is compiled. It knows nothing of
// upstreams and connections.
package action

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/gatehouse-proxy/gatehouse/gateway/target"
)

// prefix replaces the part of a path that a route's prefix has matched.
type prefix struct {
	matched string // "/v1", "" for the root
	with    string // "/users", "" for the root
	whole   string // for a path that is all matched
}

// newPrefix makes a prefix of two paths as users write them. knob names the
// replacement in errors.
func newPrefix(knob, matched, with string) (prefix, error) {
	m, err := normal(matched)
	if matched == "" {
		m, err = "/", nil
	}
	if err != nil {
		return prefix{}, fmt.Errorf("match.path.prefix %q: %w", matched, err)
	}
	w, err := normal(with)
	if err != nil {
		return prefix{}, fmt.Errorf("%s %q: %w", knob, with, err)
	}
	p := prefix{matched: strings.TrimSuffix(m, "/"), with: strings.TrimSuffix(w, "/"), whole: w}
	return p, nil
}

// normal is a path as requests have it.
func normal(path string) (string, error) {
	out, r := target.Normalize(nil, []byte(path), target.Rules{KeepEncodedSlashes: true, MergeSlashes: true, RefuseDotSegments: true})
	if r != nil || path == "*" {
		return "", errors.New("must begin with a slash and be unambiguous, without query and fragment")
	}
	return string(out), nil
}

// append appends the path with the prefix replaced. path is normal, and so is
// the result: both parts are, and they meet at a slash. It never begins with
// two slashes, which some would take for a host.
func (p *prefix) append(dst []byte, path string) []byte {
	rest, ok := strings.CutPrefix(path, p.matched)
	if !ok || rest != "" && rest[0] != '/' {
		return append(dst, path...)
	}
	if rest == "" {
		return append(dst, p.whole...)
	}
	if p.with == "" {
		for len(rest) > 1 && rest[1] == '/' {
			rest = rest[1:]
		}
	}
	return append(append(dst, p.with...), rest...)
}

// scratch is memory for what is copied into the reply at once.
var scratch = sync.Pool{New: func() any { b := make([]byte, 0, 512); return &b }}

const maxPooled = 64 << 10

func release(p *[]byte, b []byte) {
	if cap(b) <= maxPooled { // one huge body must not pin memory
		*p = b[:0]
		scratch.Put(p)
	}
}

// validHost accepts what may stand in a URL as its host, without a port.
func validHost(h string) bool {
	name := h
	if strings.HasPrefix(h, "[") && strings.HasSuffix(h, "]") {
		return len(h) > 4 && strings.Trim(h[1:len(h)-1], ":.0123456789abcdefABCDEF") == ""
	}
	for i := range len(name) {
		c := name[i]
		if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z' || c >= 0x80) && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return name != ""
}
