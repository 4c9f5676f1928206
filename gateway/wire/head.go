package wire

import (
	"bytes"
	"encoding/binary"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// Field is one header line as offsets into the raw head (order, case and repeats as sent).
type Field struct{ N0, N1, V0, V1 uint32 }

// NeedMore says that the head is not complete yet.
var NeedMore = reason.Reason{Name: "need_more"}

const (
	kHost = 1 << iota
	kCL
	kTE
	kConn
	kExpect
	kUpgrade
	kTrailer
)

// Head is one parsed request head. All slices point into Raw.
type Head struct {
	Raw                  []byte // first byte of the method to the final CRLF
	Fields               []Field
	Method, Target, Host []byte // Target in origin-form, or "*"
	RawTarget            []byte // as sent
	Protocol             []byte // value of Upgrade
	ContentLength        int64
	Chunked, HTTP10      bool
	Close, KeepAlive     bool
	Expect, WantsUpgrade bool // Expect: 100-continue; Connection: upgrade
	HasCookie            bool
	seen                 uint32
	special              [2]uint64 // bit per field index: not handed to the pipeline
}

// Limits of a request head: bytes in all, number of fields, bytes of the target.
type Limits struct{ Head, Fields, URI int }

var tok, hostc, uric [256]bool

func init() {
	for c := 0; c < 256; c++ {
		a := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		tok[c] = a || c < 128 && bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), byte(c)) >= 0
		hostc[c] = a || c == '-' || c == '.' || c == '_'
		uric[c] = c > 0x20 && c != 0x7f && c != '#'
	}
}

const lo, hi = 0x0101010101010101, 0x8080808080808080

// ctl reports a byte < 0x20 or == 0x7f in b, except tab. Eight bytes at a time.
func ctl(b []byte) bool {
	for len(b) >= 8 {
		x := binary.LittleEndian.Uint64(b)
		d := x ^ (lo * 0x7f)
		if ((x-lo*0x20)&^x|(d-lo)&^d)&hi != 0 && ctlSlow(b[:8]) {
			return true
		}
		b = b[8:]
	}
	return ctlSlow(b)
}
func ctlSlow(b []byte) bool {
	for _, c := range b {
		if c < 0x20 && c != '\t' || c == 0x7f {
			return true
		}
	}
	return false
}

func eqFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i := 0; i < len(b); i++ {
		c := b[i]
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// Reset forgets the request but keeps the memory.
func (h *Head) Reset() {
	f := h.Fields[:0]
	*h = Head{Fields: f}
}

// Parse reads one request head at the start of b; n is its length.
func (h *Head) Parse(b []byte, lim *Limits) (n int, r *reason.Reason) {
	e := bytes.IndexByte(b, '\n')
	if e < 0 {
		if len(b) > lim.URI+64 {
			return 0, reason.URITooLong
		}
		return 0, &NeedMore
	}
	if e == 0 || b[e-1] != '\r' {
		return 0, reason.BadLineEnd
	}
	line := b[:e-1]
	j := 0
	for j < len(line) && tok[line[j]] {
		j++
	}
	if j == 0 || j > 32 || j == len(line) || line[j] != ' ' {
		return 0, reason.BadMethod
	}
	k := len(line) - 9
	if k <= j+1 || string(line[k:k+6]) != " HTTP/" {
		return 0, reason.BadRequestLine
	}
	switch v := line[k+6:]; {
	case v[0] == '1' && v[1] == '.' && v[2] == '1':
	case v[0] == '1' && v[1] == '.' && v[2] == '0':
		h.HTTP10 = true
	case v[0] >= '0' && v[0] <= '9' && v[1] == '.' && v[2] >= '0' && v[2] <= '9':
		return 0, reason.BadVersion
	default:
		return 0, reason.BadRequestLine
	}
	h.Method, h.Target = line[:j], line[j+1:k]
	if len(h.Target) > lim.URI {
		return 0, reason.URITooLong
	}
	pct := false
	for i, c := range h.Target {
		if !uric[c] {
			return 0, reason.BadTarget
		}
		if c == '?' { // only the path's escapes must be right
			if ctlOrBad(h.Target[i:]) {
				return 0, reason.BadTarget
			}
			break
		}
		pct = pct || c == '%'
	}
	if pct && badEscape(h.Target) {
		return 0, reason.BadTarget
	}
	p := e + 1
	for {
		e = bytes.IndexByte(b[p:], '\n')
		if e < 0 {
			if len(b) > lim.Head {
				return 0, reason.HeadTooLarge
			}
			return 0, &NeedMore
		}
		e += p
		if e == p || b[e-1] != '\r' {
			return 0, reason.BadLineEnd
		}
		if e == p+1 {
			p = e + 1
			break
		}
		q := p
		for tok[b[q]] { // stops at the CR at the latest
			q++
		}
		if q == p || b[q] != ':' {
			return 0, reason.BadHeaderName
		}
		v0, v1 := q+1, e-1
		for v0 < v1 && (b[v0] == ' ' || b[v0] == '\t') {
			v0++
		}
		for v1 > v0 && (b[v1-1] == ' ' || b[v1-1] == '\t') {
			v1--
		}
		if ctl(b[v0:v1]) {
			return 0, reason.BadHeaderValue
		}
		if len(h.Fields) >= lim.Fields {
			return 0, reason.TooManyHeaders
		}
		if r := h.classify(b[p:q], b[v0:v1], len(h.Fields)); r != nil {
			return 0, r
		}
		h.Fields = append(h.Fields, Field{uint32(p), uint32(q), uint32(v0), uint32(v1)})
		p = e + 1
	}
	if p > lim.Head {
		return 0, reason.HeadTooLarge
	}
	h.Raw = b[:p:p]
	return p, h.check()
}

func ctlOrBad(b []byte) bool {
	for _, c := range b {
		if !uric[c] {
			return true
		}
	}
	return false
}

func isHex(c byte) bool { return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f' }

func badEscape(t []byte) bool {
	for i := 0; i < len(t) && t[i] != '?'; i++ {
		if t[i] == '%' {
			if i+2 >= len(t) || !isHex(t[i+1]) || !isHex(t[i+2]) {
				return true
			}
			i += 2
		}
	}
	return false
}

// Special reports whether field i is framing or connection management, which
// is not handed to the pipeline.
func (h *Head) Special(i int) bool { return i < 128 && h.special[i>>6]&(1<<(i&63)) != 0 }

func (h *Head) skip(i int) {
	if i < 128 {
		h.special[i>>6] |= 1 << (i & 63)
	}
}

func (h *Head) once(k uint32) bool {
	o := h.seen & k
	h.seen |= k
	return o == 0
}

func (h *Head) classify(n, v []byte, i int) *reason.Reason {
	switch len(n) {
	case 4:
		if eqFold(n, "host") {
			if !h.once(kHost) || !validHost(v) {
				return reason.BadHost
			}
			h.Host = v
			h.skip(i)
		}
	case 6:
		switch n[0] | 0x20 {
		case 'e':
			if eqFold(n, "expect") {
				if !h.once(kExpect) || !eqFold(v, "100-continue") {
					return reason.BadExpect
				}
				h.Expect = true
				h.skip(i)
			}
		case 'c':
			if eqFold(n, "cookie") {
				h.HasCookie = true
			}
		}
	case 7:
		switch n[0] | 0x20 {
		case 'u':
			if eqFold(n, "upgrade") {
				h.Protocol = v
				h.seen |= kUpgrade
			}
		case 't':
			if eqFold(n, "trailer") {
				h.skip(i)
			}
		}
	case 10:
		if eqFold(n, "connection") {
			h.skip(i)
			return h.connection(v)
		}
		if eqFold(n, "keep-alive") {
			h.skip(i)
		}
	case 14:
		if eqFold(n, "content-length") {
			if !h.once(kCL) || len(v) == 0 || len(v) > 18 {
				return reason.BadContentLength
			}
			for _, c := range v {
				if c < '0' || c > '9' {
					return reason.BadContentLength
				}
				h.ContentLength = h.ContentLength*10 + int64(c-'0')
			}
			h.skip(i)
		}
	case 16:
		if eqFold(n, "proxy-connection") {
			h.skip(i)
		}
	case 17:
		if eqFold(n, "transfer-encoding") {
			if !h.once(kTE) || !eqFold(v, "chunked") {
				return reason.BadTransferEncoding
			}
			h.Chunked = true
			h.skip(i)
		}
	}
	return nil
}

func (h *Head) connection(v []byte) *reason.Reason {
	for len(v) > 0 {
		var t []byte
		if i := bytes.IndexByte(v, ','); i >= 0 {
			t, v = trim(v[:i]), v[i+1:]
		} else {
			t, v = trim(v), nil
		}
		switch {
		case eqFold(t, "close"):
			h.Close = true
		case eqFold(t, "keep-alive"):
			h.KeepAlive = true
		case eqFold(t, "upgrade"):
			h.WantsUpgrade = true
		case eqFold(t, "content-length"), eqFold(t, "transfer-encoding"), eqFold(t, "host"):
			return reason.ConnectionOption
		}
	}
	return nil
}

func (h *Head) check() *reason.Reason {
	if h.seen&kHost == 0 {
		return reason.BadHost
	}
	if h.Chunked && (h.seen&kCL != 0 || h.HTTP10) {
		return reason.TwoFramings
	}
	if h.Expect && h.HTTP10 {
		h.Expect = false // RFC 9110 10.1.1: ignored from 1.0
	}
	if string(h.Method) == "CONNECT" || string(h.Method) == "PRI" {
		return reason.MethodRefused
	}
	h.RawTarget = h.Target
	switch t := h.Target; {
	case t[0] == '/':
	case len(t) == 1 && t[0] == '*':
		if string(h.Method) != "OPTIONS" {
			return reason.BadTarget
		}
	default: // absolute-form
		i := bytes.Index(t, []byte("://"))
		if i < 0 || !eqFold(t[:i], "http") && !eqFold(t[:i], "https") {
			return reason.BadTarget
		}
		a := t[i+3:]
		j := bytes.IndexAny(a, "/?")
		if j < 0 {
			return h.authority(a, nil)
		}
		return h.authority(a[:j], a[j:])
	}
	return nil
}

var slash = []byte("/")

func (h *Head) authority(a, path []byte) *reason.Reason {
	if !validHost(a) || !bytes.EqualFold(a, h.Host) {
		return reason.AuthorityDiffers
	}
	if len(path) == 0 {
		path = slash
	} else if path[0] == '?' {
		return reason.BadTarget // "http://h?q": no path; nobody sends it
	}
	h.Target = path
	return nil
}

func validHost(v []byte) bool {
	if len(v) == 0 || len(v) > 261 {
		return false
	}
	if v[0] == '[' {
		i := bytes.IndexByte(v, ']')
		if i < 3 {
			return false
		}
		for _, c := range v[1:i] {
			if !isHex(c) && c != ':' && c != '.' {
				return false
			}
		}
		return len(v) == i+1 || v[i+1] == ':' && validPort(v[i+2:])
	}
	for i, c := range v {
		if c == ':' {
			return i > 0 && validPort(v[i+1:])
		}
		if !hostc[c] {
			return false
		}
	}
	return true
}

func validPort(p []byte) bool {
	if len(p) == 0 || len(p) > 5 {
		return false
	}
	n := 0
	for _, c := range p {
		if c < '0' || c > '9' {
			return false
		}
		n = n*10 + int(c-'0')
	}
	return n > 0 && n <= 65535
}
