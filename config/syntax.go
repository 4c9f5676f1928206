package config

import (
	"net/netip"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

const nameRule = "must be 1 to 100 letters, digits, _, -, . or @, beginning with a letter or digit"

// isName is true for the name of a route, listener, upstream, consumer and so
// on. Names stand in paths, metrics and logs as they are.
func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !isAlnum(c) && (i == 0 || !strings.ContainsRune("_-.@", rune(c))) {
			return false
		}
	}
	return s != "" && len(s) <= 100
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// isToken is true for an RFC 9110 token: a header or cookie name, a method.
func isToken(s string) bool {
	for i := range len(s) {
		if !isAlnum(s[i]) && strings.IndexByte("!#$%&'*+-.^_`|~", s[i]) < 0 {
			return false
		}
	}
	return s != ""
}

// isHostname is true for a DNS name, without a trailing dot. Underscores are
// let through: container networks use them.
func isHostname(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if !isAlnum(label[i]) && label[i] != '-' && label[i] != '_' {
				return false
			}
		}
	}
	last := s[strings.LastIndexByte(s, '.')+1:]
	_, err := strconv.Atoi(last)
	return err != nil // 10.0.0.256 and 1.2 are failed addresses, not names
}

// splitAddress splits HOST:PORT. why is "" if it is one.
func splitAddress(s string) (host string, port int, why string) {
	if strings.Contains(s, "://") {
		return "", 0, "write it without a scheme"
	}
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", 0, "has no port"
	}
	host = s[:i]
	if strings.HasPrefix(host, "[") != strings.HasSuffix(host, "]") || strings.Contains(host, ":") && !strings.HasPrefix(host, "[") {
		return "", 0, "an IPv6 address needs brackets: [2001:db8::1]:8080"
	}
	port, err := strconv.Atoi(s[i+1:])
	if err != nil || port < 0 || port > 65535 || strconv.Itoa(port) != s[i+1:] {
		return "", 0, "the port must be from 0 to 65535"
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		host = strings.TrimSuffix(inner, "]")
		if a, err := netip.ParseAddr(host); err != nil || !a.Is6() {
			return "", 0, "in the brackets is no IPv6 address"
		}
		return host, port, ""
	}
	if host != "" && !isHostname(host) {
		if _, err := netip.ParseAddr(host); err != nil {
			return "", 0, "the host is neither a name nor an address"
		}
	}
	return host, port, ""
}

// checkListenAddress notes what is wrong with an address to listen on.
func checkListenAddress(p *problem.List, key, s string) {
	_, _, why := splitAddress(s)
	p.Check(why == "", key, "must be HOST:PORT or :PORT, got %q: %s", s, why)
}

// checkPeerAddress notes what is wrong with an address to connect to.
func checkPeerAddress(p *problem.List, key, s string) {
	host, port, why := splitAddress(s)
	switch {
	case why == "" && host == "":
		why = "has no host"
	case why == "" && port == 0:
		why = "the port must be from 1 to 65535"
	}
	p.Check(why == "", key, "must be HOST:PORT, got %q: %s", s, why)
}

// checkHost notes what is wrong with a host to match: a name, an address, or
// "*." and a name.
func checkHost(p *problem.List, key, s string) {
	name, wild := strings.CutPrefix(s, "*.")
	switch {
	case s == "":
		p.Add(key, "must not be empty; remove hosts to match any")
	case s == "*":
		p.Add(key, `must be a host or *.NAME, got "*"; remove hosts to match any`)
	case strings.ToLower(s) != s:
		p.Add(key, "must be in lower case, got %q", s)
	case strings.HasSuffix(name, "."):
		p.Add(key, "must not end with a dot, got %q", s)
	case strings.Contains(name, "*"):
		p.Add(key, "may have * only as its whole first label, such as *.example.com, got %q", s)
	case isHostname(name):
	case !wild && isAddress(s):
	case strings.Contains(s, ":"):
		p.Add(key, "must be a host without port, got %q", s)
	default:
		p.Add(key, "must be a host name, an address or *.NAME, got %q", s)
	}
}

// isAddress is true for an IP address as it stands in a Host header.
func isAddress(s string) bool {
	inner, bracket := strings.CutPrefix(s, "[")
	a, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
	return err == nil && a.Zone() == "" && a.Is6() == bracket && strings.HasSuffix(s, "]") == bracket
}

// checkPath notes what is wrong with a path that is compared to normalised ones.
func checkPath(p *problem.List, key, s string) {
	if !strings.HasPrefix(s, "/") {
		p.Add(key, "must begin with /, got %q", s)
		return
	}
	if why := notNormal(s); why != "" {
		p.Add(key, "can never match: requests are compared in normal form, and %q %s", s, why)
	}
}

// notNormal says why no normalised path is equal to s, or "".
func notNormal(s string) string {
	if strings.Contains(s, "//") {
		return "has an empty segment (//)"
	}
	params := false // behind a ';' of the segment, a%2Cb and a,b differ
	for i := 0; i < len(s); i++ {
		c := s[i]
		params = c == ';' || params && c != '/'
		switch {
		case c == '?' || c == '#':
			return "has a " + string(c) + ", which is not part of a path"
		case c == '%':
			b, ok := unescape(s[i:])
			if !ok {
				return "has a broken escape"
			}
			if isAlnum(b) || strings.IndexByte("-._~", b) >= 0 || !params && strings.IndexByte("!$&'()*,=:@", b) >= 0 {
				return "has the escape " + s[i:i+3] + " instead of " + string(rune(b))
			}
			if strings.ToUpper(s[i:i+3]) != s[i:i+3] {
				return "has the escape " + s[i:i+3] + " in lower case"
			}
			i += 2
		case isAlnum(c) || strings.IndexByte("/-._~!$&'()*+,;=:@", c) >= 0:
		default:
			return "has a character to be written " + escapeFirst(s[i:])
		}
	}
	for seg := range strings.SplitSeq(s[1:], "/") {
		if seg == "." || seg == ".." {
			return "has the segment " + seg
		}
	}
	return ""
}

func unescape(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	b, err := strconv.ParseUint(s[1:3], 16, 8)
	return byte(b), err == nil
}

// escapeFirst escapes the first character of s.
func escapeFirst(s string) string {
	const hex = "0123456789ABCDEF"
	_, n := utf8.DecodeRuneInString(s)
	var b strings.Builder
	for _, c := range []byte(s[:n]) {
		b.WriteByte('%')
		b.WriteByte(hex[c>>4])
		b.WriteByte(hex[c&15])
	}
	return b.String()
}

// checkRegex notes why s is no regular expression. It gives the expression's
// number of groups and their names.
func checkRegex(p *problem.List, key, s string) *regexp.Regexp {
	re, err := regexp.Compile(s)
	if err == nil {
		return re
	}
	why := err.Error()
	if se, ok := err.(*syntax.Error); ok { //nolint:errorlint // regexp returns it bare
		why = se.Code.String()
		if se.Expr != "" && se.Expr != s {
			why += " at " + strconv.Quote(se.Expr)
			if i := strings.Index(s, se.Expr); i >= 0 {
				why += ", character " + strconv.Itoa(len([]rune(s[:i]))+1)
			}
		}
	}
	p.Add(key, "must be a regular expression (RE2), got %q: %s", s, why)
	return nil
}

// checkStatuses notes what is wrong with a list such as "200, 204, 300-399".
func checkStatuses(p *problem.List, key, s string) {
	for part := range strings.SplitSeq(s, ",") {
		low, high, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			high = low
		}
		l, ok1 := status(low)
		h, ok2 := status(high)
		if !ok1 || !ok2 || l > h {
			p.Add(key, `must be statuses such as "200", "200-299" or "200,204", got %q`, s)
			return
		}
	}
}

func status(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && len(s) == 3 && n >= 100 && n <= 599
}

func index(key string, i int) string { return key + "[" + strconv.Itoa(i) + "]" }
