// Package origin compares the Origin header of browsers (RFC 6454) with
// configured origins. Plugins that guard against foreign sites share it.
package origin

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// Set are origins to compare with: exact ones, patterns with a wildcard for
// subdomains, and regular expressions. It never changes.
type Set struct {
	// Any is true if every origin is in the set.
	Any      bool
	exact    map[string]struct{}
	suffixes []suffix
	regexes  []*regexp.Regexp
}

// suffix is "https://*.example.com:8443": scheme, and what follows the star.
type suffix struct{ scheme, rest string }

// Parse reads origins as users write them: "https://app.example.com",
// "https://*.example.com" for all its subdomains, "null", and "*".
func Parse(list []string) (*Set, error) {
	s := &Set{exact: map[string]struct{}{}}
	for i, o := range list {
		switch {
		case o == "*":
			s.Any = true
		case o == "null":
			s.exact[o] = struct{}{}
		default:
			if err := s.add(o); err != nil {
				return nil, fmt.Errorf("[%d]: %w", i, err)
			}
		}
	}
	return s, nil
}

func (s *Set) add(o string) error {
	plain, wild := o, false
	if scheme, rest, ok := strings.Cut(o, "://*."); ok {
		plain, wild = scheme+"://"+rest, true
	}
	u, err := url.Parse(plain)
	if err != nil || u.Scheme == "" || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" ||
		strings.Contains(plain, "*") || u.Host != u.Hostname() && u.Port() == "" && !strings.HasSuffix(u.Host, "]") {
		return fmt.Errorf(`must be an origin such as https://app.example.com, https://*.example.com or https://localhost:3000, got %q`, o)
	}
	if u.Scheme == "http" && u.Port() == "80" || u.Scheme == "https" && u.Port() == "443" {
		return fmt.Errorf("browsers leave the default port out of an origin: write %q", strings.TrimSuffix(o, ":"+u.Port()))
	}
	plain = strings.ToLower(plain)
	if wild {
		scheme, host, _ := strings.Cut(plain, "://")
		s.suffixes = append(s.suffixes, suffix{scheme + "://", "." + host})
		return nil
	}
	s.exact[plain] = struct{}{}
	return nil
}

// AddRegex adds regular expressions (RE2), matched against the whole origin.
func (s *Set) AddRegex(list []string) error {
	for i, e := range list {
		r, err := regexp.Compile(`\A(?:` + e + `)\z`)
		if err != nil {
			return fmt.Errorf("[%d]: %w", i, err)
		}
		s.regexes = append(s.regexes, r)
	}
	return nil
}

// Has reports whether an Origin header's value is in the set. It does not
// allocate.
func (s *Set) Has(origin []byte) bool {
	if s.Any {
		return true
	}
	if _, ok := s.exact[string(origin)]; ok {
		return true
	}
	for i := range s.suffixes {
		x := &s.suffixes[i]
		n := len(origin) - len(x.scheme) - len(x.rest)
		if n > 0 && string(origin[:len(x.scheme)]) == x.scheme && string(origin[len(origin)-len(x.rest):]) == x.rest &&
			labels(origin[len(x.scheme):len(x.scheme)+n]) {
			return true
		}
	}
	for _, r := range s.regexes {
		if r.Match(origin) {
			return true
		}
	}
	return false
}

// labels reports whether b is made of host name labels only, so that nothing
// else can hide in front of the configured domain.
func labels(b []byte) bool {
	for _, c := range b {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return b[0] != '.' && b[len(b)-1] != '.'
}

// Host is the host and port of an origin, nil if it has none ("null") or is
// malformed.
func Host(origin []byte) []byte {
	for i := range origin {
		if origin[i] != ':' {
			continue
		}
		rest := origin[i:]
		if i == 0 || len(rest) < 4 || rest[1] != '/' || rest[2] != '/' {
			return nil
		}
		for _, c := range rest[3:] {
			if c == '/' || c == '@' || c == '?' || c == '#' || c <= ' ' || c >= 0x7f {
				return nil
			}
		}
		return rest[3:]
	}
	return nil
}
