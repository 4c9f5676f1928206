package accesslog

import (
	"strings"
)

const masked = "***"

// sensitive are names of headers, query parameters and cookies whose values
// are never written, without case, '-' and '_'.
var sensitive = []string{
	"authorization", "proxyauthorization", "cookie", "setcookie", "xapikey", "xauthtoken",
	"xcsrftoken", "xxsrftoken", "xamzsecuritytoken", "xamzsignature", "xamzcredential",
	"xgoogsignature", "xgoogcredential",
	"password", "passwd", "passphrase", "pwd", "pass", "newpassword", "oldpassword",
	"secret", "clientsecret", "token", "accesstoken", "refreshtoken", "idtoken", "authtoken",
	"apikey", "key", "privatekey", "auth", "jwt", "bearer", "credential", "credentials",
	"session", "sessionid", "sid", "sig", "signature", "code", "otp", "pin", "assertion", "clientassertion",
}

// fields is the part of the settings that encoders need.
type fields struct {
	mask   map[string]struct{}
	chosen []header
}

type header struct {
	name   string // as configured
	key    string // lower case and escaped, as written
	masked bool
}

func newFields(headers, mask []string) fields {
	f := fields{mask: make(map[string]struct{}, len(sensitive)+len(mask))}
	for _, n := range sensitive {
		f.mask[n] = struct{}{}
	}
	for _, n := range mask {
		f.mask[string(simplify(nil, n))] = struct{}{}
	}
	for _, n := range headers {
		key := string(appendEscaped(nil, strings.ToLower(n)))
		f.chosen = append(f.chosen, header{name: n, key: key, masked: f.hides(n)})
	}
	return f
}

// simplify appends name in lower case without '-' and '_'.
func simplify(b []byte, name string) []byte {
	for i := range len(name) {
		c := name[i]
		if c == '-' || c == '_' {
			continue
		}
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		b = append(b, c)
	}
	return b
}

// longestName bounds how much of a parameter name is looked at. What is longer
// is masked: it is no name that anybody chose.
const longestName = 128

// hides reports whether the value under name, possibly percent-encoded and
// possibly nested ("user[password]", "user.password"), must not be written.
func (f *fields) hides(name string) bool {
	if len(name) > longestName {
		return true
	}
	var array [longestName]byte
	part := array[:0]
	for i := 0; i <= len(name); i++ {
		var c byte
		if i < len(name) {
			c = name[i]
			if c == '%' && i+2 < len(name) && hex(name[i+1]) >= 0 && hex(name[i+2]) >= 0 {
				c = byte(hex(name[i+1])<<4 | hex(name[i+2]))
				i += 2
			}
		} else {
			c = '.'
		}
		switch {
		case c == '[' || c == ']' || c == '.' || c == ':' || c == ' ' || c == '+':
			if _, ok := f.mask[string(part)]; ok {
				return true
			}
			part = part[:0]
		case c == '-' || c == '_':
		case 'A' <= c && c <= 'Z':
			part = append(part, c|0x20)
		default:
			part = append(part, c)
		}
	}
	return false
}

func hex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	default:
		return -1
	}
}

type escaper func(b []byte, s string) []byte

// query appends q with the values of sensitive parameters masked. ';' also
// ends a parameter, since some servers read it so.
func (f *fields) query(b []byte, q string, esc escaper) []byte {
	for q != "" {
		end := strings.IndexAny(q, "&;")
		param, sep := q, ""
		if end >= 0 {
			param, sep, q = q[:end], q[end:end+1], q[end+1:]
		} else {
			q = ""
		}
		name, _, ok := strings.Cut(param, "=")
		if ok && f.hides(name) {
			b = esc(b, name)
			b = append(b, '=')
			b = append(b, masked...)
		} else {
			b = esc(b, param)
		}
		b = append(b, sep...)
	}
	return b
}

// url appends a URL with the password in it, and its query and fragment, masked.
func (f *fields) url(b []byte, u string, esc escaper) []byte {
	if i := strings.Index(u, "://"); i >= 0 {
		rest := u[i+3:]
		end := strings.IndexAny(rest, "/?#")
		if end < 0 {
			end = len(rest)
		}
		if at := strings.LastIndexByte(rest[:end], '@'); at >= 0 {
			b = esc(b, u[:i+3])
			b = append(b, masked...)
			u = rest[at:]
		}
	}
	base, query, ok := strings.Cut(u, "?")
	base, fragment, _ := strings.Cut(base, "#")
	b = esc(b, base)
	if fragment != "" {
		b = append(b, '#')
		b = append(b, masked...)
	}
	if ok {
		b = append(b, '?')
		query, fragment, _ = strings.Cut(query, "#")
		b = f.query(b, query, esc)
		if fragment != "" {
			b = append(b, '#')
			b = append(b, masked...)
		}
	}
	return b
}
