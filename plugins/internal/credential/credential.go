// Package credential takes a secret out of a request for the authentication
// plugins: from a header, a query parameter or a cookie, only if it was sent
// exactly once, and removes it so that the upstream does not get it.
package credential

import (
	"errors"
	"net/url"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// ErrRepeated says that the request carries more than one credential. Which of
// them a proxy and an application behind it would believe may differ, so
// neither is believed.
var ErrRepeated = errors.New("more than one credential was sent")

// Source says where a credential is looked for. It does not change after New.
type Source struct {
	header string // canonical name, empty: not looked for
	scheme string // "": the value is the credential
	query  string
	cookie string
}

// New makes a Source; empty names are not looked for. scheme is what precedes
// the credential in the header ("Bearer"), compared without case; a header
// with another scheme is not this plugin's credential and left alone.
func New(header, scheme, query, cookie string) *Source {
	s := &Source{scheme: scheme, query: query, cookie: cookie}
	if header != "" {
		var h fasthttp.RequestHeader
		h.Set(header, "x")
		for k := range h.All() {
			s.header = string(k)
		}
	}
	return s
}

// Find returns the credential, nil if none was sent. The bytes are borrowed
// and end when the credential is removed.
func (s *Source) Find(e *exchange.Exchange) ([]byte, error) {
	var found []byte
	if s.header != "" {
		lines := e.Ctx.Request.Header.PeekAll(s.header)
		for _, v := range lines {
			v, ours := s.strip(v)
			if !ours {
				continue
			}
			if len(lines) > 1 { // another scheme's too: the upstream may prefer it
				return nil, ErrRepeated
			}
			found = v
		}
	}
	if s.query != "" {
		var more bool
		for part := range strings.SplitSeq(e.Query, "&") {
			name, value, _ := strings.Cut(part, "=")
			if !s.isParameter(name) {
				continue
			}
			if found != nil || more {
				return nil, ErrRepeated
			}
			more = true
			if v, err := url.QueryUnescape(value); err == nil {
				found = []byte(v)
			} else {
				found = []byte(value) // no key looks like a broken escape
			}
		}
	}
	if s.cookie != "" {
		for k, v := range e.Ctx.Request.Header.Cookies() {
			if string(k) != s.cookie {
				continue
			}
			if found != nil {
				return nil, ErrRepeated
			}
			found = v
		}
	}
	return found, nil
}

// strip removes the scheme; ours is false for a header of another scheme. A
// tab separates like a space, and the scheme alone is an empty credential: what
// an application behind might read as ours must not pass as somebody else's.
func (s *Source) strip(v []byte) (value []byte, ours bool) {
	n := len(s.scheme)
	if n == 0 {
		return v, true
	}
	if len(v) < n || !strings.EqualFold(string(v[:n]), s.scheme) {
		return nil, false
	}
	if n < len(v) && v[n] != ' ' && v[n] != '\t' {
		return nil, false
	}
	for n < len(v) && (v[n] == ' ' || v[n] == '\t') {
		n++
	}
	return v[n:], true
}

func (s *Source) isParameter(name string) bool {
	if name == s.query {
		return true
	}
	if strings.IndexByte(name, '%') < 0 && strings.IndexByte(name, '+') < 0 {
		return false
	}
	name, err := url.QueryUnescape(name)
	return err == nil && name == s.query
}

// Remove takes the credential out of the request. A header of another scheme stays.
func (s *Source) Remove(e *exchange.Exchange) {
	h := &e.Ctx.Request.Header
	if s.header != "" {
		if _, ours := s.strip(h.Peek(s.header)); ours {
			h.Del(s.header)
		}
	}
	if s.query != "" && s.inQuery(e.Query) {
		kept := make([]byte, 0, len(e.Query))
		for part := range strings.SplitSeq(e.Query, "&") {
			name, _, _ := strings.Cut(part, "=")
			if s.isParameter(name) {
				continue
			}
			if len(kept) > 0 {
				kept = append(kept, '&')
			}
			kept = append(kept, part...)
		}
		e.Query = string(kept)
	}
	if s.cookie != "" {
		h.DelCookie(s.cookie)
	}
}

func (s *Source) inQuery(q string) bool {
	for part := range strings.SplitSeq(q, "&") {
		name, _, _ := strings.Cut(part, "=")
		if s.isParameter(name) {
			return true
		}
	}
	return false
}
