package accesslog

import (
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"
)

// appendJSON appends r as one JSON object and a newline.
func (f *fields) appendJSON(b []byte, r *Record) []byte {
	b = append(b, `{"time":"`...)
	b = appendTime(b, r.Time)
	b = append(b, `","duration_ms":`...)
	b = appendMillis(b, r.Duration)
	b = text(b, "request_id", r.RequestID)
	b = text(b, "trace_id", r.TraceID)
	b = addr(b, "client", r.Client)
	b = addrPort(b, "peer", r.Peer)
	b = text(b, "listener", r.Listener)
	b = text(b, "route", r.Route)
	b = text(b, "protocol", r.Protocol)
	b = text(b, "method", r.Method)
	b = text(b, "scheme", r.Scheme)
	b = text(b, "host", r.Host)
	b = text(b, "path", r.Path)
	if r.Query != "" {
		b = append(b, `,"query":"`...)
		b = f.query(b, r.Query, appendEscaped)
		b = append(b, '"')
	}
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(r.Status), 10)
	b = append(b, `,"bytes_in":`...)
	b = strconv.AppendInt(b, r.BytesIn, 10)
	b = append(b, `,"bytes_out":`...)
	b = strconv.AppendInt(b, r.BytesOut, 10)
	b = text(b, "grpc_status", r.GRPCStatus)
	b = text(b, "grpc_message", short(r.GRPCMessage))
	b = upstream(b, r)
	b = text(b, "flags", r.Flags)
	b = text(b, "reason", r.Reason)
	b = text(b, "detail", r.Detail)
	b = text(b, "step", r.Step)
	b = text(b, "consumer", r.Consumer)
	b = text(b, "subject", r.Subject)
	b = text(b, "auth", r.Auth)
	b = tlsFields(b, &r.TLS)
	b = waf(b, &r.WAF)
	b = text(b, "user_agent", short(r.UserAgent))
	if r.Referer != "" {
		b = append(b, `,"referer":"`...)
		b = f.url(b, short(r.Referer), appendEscaped)
		b = append(b, '"')
	}
	b = f.headers(b, r.Request)
	return append(b, "}\n"...)
}

func upstream(b []byte, r *Record) []byte {
	if r.Upstream == "" {
		return b
	}
	b = text(b, "upstream", r.Upstream)
	b = text(b, "endpoint", r.Endpoint)
	b = number(b, "attempts", int64(r.Attempts))
	if r.UpstreamStatus != 0 {
		b = number(b, "upstream_status", int64(r.UpstreamStatus))
	}
	b = text(b, "upstream_protocol", r.UpstreamProtocol)
	b = append(b, `,"upstream_ms":`...)
	b = appendMillis(b, r.UpstreamTook)
	b = append(b, `,"reused":`...)
	return strconv.AppendBool(b, r.Reused)
}

func tlsFields(b []byte, t *TLS) []byte {
	if t.Version == "" {
		return b
	}
	b = text(b, "tls_version", t.Version)
	b = text(b, "tls_cipher", t.Cipher)
	b = text(b, "server_name", t.ServerName)
	b = append(b, `,"tls_resumed":`...)
	b = strconv.AppendBool(b, t.Resumed)
	b = text(b, "client_subject", short(t.Subject))
	b = text(b, "client_spiffe_id", short(t.SPIFFEID))
	return text(b, "client_fingerprint", t.Fingerprint)
}

func waf(b []byte, w *WAF) []byte {
	if w.Policy == "" {
		return b
	}
	b = append(b, `,"waf":{"policy":"`...)
	b = appendEscaped(b, w.Policy)
	b = append(b, '"')
	b = text(b, "mode", w.Mode)
	b = append(b, `,"blocked":`...)
	b = strconv.AppendBool(b, w.Blocked)
	b = number(b, "score", int64(w.Score))
	if len(w.Rules) > 0 {
		b = append(b, `,"rules":[`...)
		for i, id := range w.Rules {
			if i > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(b, int64(id), 10)
		}
		b = append(b, ']')
	}
	return append(b, '}')
}

func (f *fields) headers(b []byte, from HeaderSource) []byte {
	if from == nil || len(f.chosen) == 0 {
		return b
	}
	n := 0
	for _, h := range f.chosen {
		v := from.Peek(h.name)
		if len(v) == 0 {
			continue
		}
		if n == 0 {
			b = append(b, `,"headers":{"`...)
		} else {
			b = append(b, `,"`...)
		}
		n++
		b = append(b, h.key...)
		b = append(b, `":"`...)
		if h.masked {
			b = append(b, masked...)
		} else {
			b = appendEscaped(b, short(v))
		}
		b = append(b, '"')
	}
	if n > 0 {
		b = append(b, '}')
	}
	return b
}

// longest is how much of a header's value is logged, in bytes. A client must not
// fill the disk, or the room in which lines wait to be written, with headers of
// 64 KiB.
const longest = 2 << 10

// short is s, or its beginning in whole characters.
func short[S ~string | ~[]byte](s S) S {
	if len(s) <= longest {
		return s
	}
	n := longest
	for n > longest-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// text appends a member unless v is empty. key needs no escaping.
func text(b []byte, key, v string) []byte {
	if v == "" {
		return b
	}
	b = append(b, `,"`...)
	b = append(b, key...)
	b = append(b, `":"`...)
	b = appendEscaped(b, v)
	return append(b, '"')
}

func number(b []byte, key string, v int64) []byte {
	b = append(b, `,"`...)
	b = append(b, key...)
	b = append(b, `":`...)
	return strconv.AppendInt(b, v, 10)
}

func addr(b []byte, key string, a netip.Addr) []byte {
	if !a.IsValid() {
		return b
	}
	b = append(b, `,"`...)
	b = append(b, key...)
	b = append(b, `":"`...)
	b = appendAddr(b, a)
	return append(b, '"')
}

func addrPort(b []byte, key string, a netip.AddrPort) []byte {
	if !a.IsValid() {
		return b
	}
	b = append(b, `,"`...)
	b = append(b, key...)
	b = append(b, `":"`...)
	b = appendAddrPort(b, a)
	return append(b, '"')
}

// A zone is an interface name: no quotes, but nobody promises. Without it, the
// text has only digits, letters, dots and colons.
func appendAddr(b []byte, a netip.Addr) []byte { return a.WithZone("").AppendTo(b) }

func appendAddrPort(b []byte, a netip.AddrPort) []byte {
	return netip.AddrPortFrom(a.Addr().WithZone(""), a.Port()).AppendTo(b)
}

// appendTime appends t in UTC with microseconds. Only the plain layout has a
// fast path in package time.
func appendTime(b []byte, t time.Time) []byte {
	b = t.UTC().AppendFormat(b, time.RFC3339)
	b = b[:len(b)-1] // the Z
	us := t.Nanosecond() / 1000
	b = append(b, '.')
	for unit := 100_000; unit > 0; unit /= 10 {
		b = append(b, byte('0'+us/unit%10))
	}
	return append(b, 'Z')
}

// appendMillis appends d in milliseconds with three digits after the point.
func appendMillis(b []byte, d time.Duration) []byte {
	us := max(d.Microseconds(), 0)
	b = strconv.AppendInt(b, us/1000, 10)
	frac := us % 1000
	return append(b, '.', byte('0'+frac/100), byte('0'+frac/10%10), byte('0'+frac%10))
}

const hexDigits = "0123456789abcdef"

// plain marks the bytes that stand for themselves inside a JSON string.
var plain = func() (t [256]bool) {
	for c := 0x20; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\' && c != 0x7f
	}
	return t
}()

// appendEscaped appends s as the inside of a JSON string: valid JSON for any
// bytes, and what encoding/json writes without HTML escaping, but with nothing
// left in it that drives a terminal (DEL and the C1 controls).
func appendEscaped[S ~string | ~[]byte](b []byte, s S) []byte {
	start, i := 0, 0
	for i < len(s) {
		c := s[i]
		if plain[c] {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			b = append(b, s[start:i]...)
			b = escapeByte(b, c)
			i++
			start = i
			continue
		}
		n := min(len(s)-i, utf8.UTFMax)
		r, size := utf8.DecodeRuneInString(string(s[i : i+n]))
		switch {
		case r == utf8.RuneError && size == 1:
			b = append(b, s[start:i]...)
			b = append(b, `\ufffd`...)
			start = i + 1
		case r < 0xa0: // U+009B begins a control sequence as ESC [ does
			b = append(b, s[start:i]...)
			b = escapeByte(b, byte(r))
			start = i + size
		case r == '\u2028' || r == '\u2029': // line ends to JavaScript
			b = append(b, s[start:i]...)
			b = append(b, `\u202`...)
			b = append(b, hexDigits[r&0xf])
			start = i + size
		}
		i += size
	}
	return append(b, s[start:]...)
}

func escapeByte(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\b':
		return append(b, '\\', 'b')
	case '\f':
		return append(b, '\\', 'f')
	case '\n':
		return append(b, '\\', 'n')
	case '\r':
		return append(b, '\\', 'r')
	case '\t':
		return append(b, '\\', 't')
	default:
		return append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
	}
}
