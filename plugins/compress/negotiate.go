package compress

import (
	"bytes"
	"strings"
)

// negotiate chooses the encoding with the highest quality value; of several,
// the one configured first. nil means to send the reply as it is.
func negotiate(accept []byte, from []*coding) *coding {
	var best *coding
	bestQ := 0
	for _, c := range from {
		if q := quality(accept, c.name); q > bestQ {
			best, bestQ = c, q
		}
	}
	if best != nil && quality(accept, "identity") > bestQ && names(accept, "identity") {
		return nil // the client says that it would rather not
	}
	return best
}

// quality is what an Accept-Encoding value gives an encoding, in thousandths.
// Without the encoding itself, * counts; what is malformed counts as 0.
func quality(accept []byte, name string) int {
	star, found := 0, false
	for len(accept) > 0 {
		var item []byte
		if i := bytes.IndexByte(accept, ','); i >= 0 {
			item, accept = accept[:i], accept[i+1:]
		} else {
			item, accept = accept, nil
		}
		token, params, _ := bytes.Cut(item, []byte(";"))
		token = bytes.TrimSpace(token)
		switch {
		case is(token, name) || name == "gzip" && is(token, "x-gzip"):
			return qvalue(params)
		case len(token) == 1 && token[0] == '*' && !found:
			star, found = qvalue(params), true
		}
	}
	return star
}

func names(accept []byte, name string) bool {
	for len(accept) > 0 {
		var item []byte
		if i := bytes.IndexByte(accept, ','); i >= 0 {
			item, accept = accept[:i], accept[i+1:]
		} else {
			item, accept = accept, nil
		}
		token, _, _ := bytes.Cut(item, []byte(";"))
		if is(bytes.TrimSpace(token), name) {
			return true
		}
	}
	return false
}

func is(b []byte, name string) bool { return strings.EqualFold(string(b), name) }

// qvalue reads "q=0.8" strictly (RFC 9110, 12.4.2), in thousandths.
func qvalue(params []byte) int {
	params = bytes.TrimSpace(params)
	if len(params) == 0 {
		return 1000
	}
	if len(params) < 3 || params[0]|0x20 != 'q' || params[1] != '=' {
		return 0
	}
	v := params[2:]
	if v[0] != '0' && v[0] != '1' || len(v) > 5 || len(v) > 1 && v[1] != '.' {
		return 0
	}
	q, unit := 0, 100
	for i := 2; i < len(v); i++ {
		if v[i] < '0' || v[i] > '9' {
			return 0
		}
		q += int(v[i]-'0') * unit
		unit /= 10
	}
	if v[0] == '1' {
		if q > 0 {
			return 0
		}
		return 1000
	}
	return q
}

// types are content types with patterns.
type types struct {
	exact    map[string]struct{}
	kinds    []string    // "text/" of text/*
	suffixes [][2]string // "application/", "+json" of application/*+json
}

func newTypes(list []string) types {
	t := types{exact: map[string]struct{}{}}
	for _, s := range list {
		kind, sub, _ := strings.Cut(s, "/")
		switch {
		case sub == "*":
			t.kinds = append(t.kinds, kind+"/")
		case strings.HasPrefix(sub, "*+"):
			t.suffixes = append(t.suffixes, [2]string{kind + "/", sub[1:]})
		default:
			t.exact[s] = struct{}{}
		}
	}
	return t
}

// longestType bounds a content type that is looked at.
const longestType = 128

// has reports whether a Content-Type value is in the list, without allocation.
func (t *types) has(value []byte) bool {
	if i := bytes.IndexByte(value, ';'); i >= 0 {
		value = value[:i]
	}
	value = bytes.TrimSpace(value)
	if len(value) == 0 || len(value) > longestType {
		return false
	}
	var array [longestType]byte
	b := array[:copy(array[:], value)]
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c | 0x20
		}
	}
	for _, n := range never {
		if string(b) == n || bytes.HasPrefix(b, []byte(n)) && b[len(n)] == '+' {
			return false
		}
	}
	if _, ok := t.exact[string(b)]; ok {
		return true
	}
	for _, k := range t.kinds {
		if bytes.HasPrefix(b, []byte(k)) {
			return true
		}
	}
	for _, s := range t.suffixes {
		if bytes.HasPrefix(b, []byte(s[0])) && bytes.HasSuffix(b, []byte(s[1])) {
			return true
		}
	}
	return false
}
