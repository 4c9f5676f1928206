package strict

import (
	"strings"

	"go.yaml.in/yaml/v4"
)

// expand resolves the references in a scalar: ${NAME} and ${NAME:-default},
// where NAME is upper case, digits and _; $${ is a plain ${. Everything else
// with a dollar, such as ${claim.sub}, is left to those who know it. ok is
// false after a problem.
func (d *Decoder) expand(n *yaml.Node) (text string, ok bool) {
	s := n.Value
	if !strings.Contains(s, "${") {
		return s, true
	}
	ok = true
	text = Expand(s, func(name, fallback string, hasFallback bool) string {
		if d.env != nil {
			// As in a shell, an empty variable counts as unset beside a default.
			if v, set := d.env(name); set && (v != "" || !hasFallback) {
				return v
			}
		}
		if !hasFallback {
			d.Add(n, "", "environment variable %s is not set; write ${%s:-default} to allow that", name, name)
			ok = false
		}
		return fallback
	})
	return text, ok
}

// Expand replaces every reference in s by what lookup gives for it.
func Expand(s string, lookup func(name, fallback string, hasFallback bool) string) string {
	var b strings.Builder
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			b.WriteString(s)
			return b.String()
		}
		if i > 0 && s[i-1] == '$' {
			b.WriteString(s[:i-1])
			b.WriteString("${")
			s = s[i+2:]
			continue
		}
		b.WriteString(s[:i])
		s = s[i:]
		end := strings.IndexByte(s, '}')
		if end < 0 {
			b.WriteString(s)
			return b.String()
		}
		name, fallback, hasFallback := strings.Cut(s[2:end], ":-")
		if isEnvName(name) {
			b.WriteString(lookup(name, fallback, hasFallback))
			s = s[end+1:]
		} else {
			b.WriteString("${")
			s = s[2:]
		}
	}
}

// Escape writes s so that Expand gives s back.
func Escape(s string) string { return strings.ReplaceAll(s, "${", "$${") }

// HasReference is true if Expand would change s.
func HasReference(s string) bool {
	if !strings.Contains(s, "${") {
		return false
	}
	found := false
	out := Expand(s, func(string, string, bool) string { found = true; return "" })
	return found || out != s
}

func isEnvName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c != '_' && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
