package accesslog

import (
	"strconv"
	"unicode/utf8"
)

// appendConsole appends r as one line for people:
//
//	12:00:01.250 200 GET http://host/path?q 1.2ms 512B users 192.0.2.1 → api 10.0.0.1:80 id=… reason=…
func (f *fields) appendConsole(b []byte, r *Record) []byte {
	b = r.Time.AppendFormat(b, "15:04:05.000")
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(r.Status), 10)
	b = append(b, ' ')
	b = appendSafe(b, r.Method)
	b = append(b, ' ')
	if r.Host != "" {
		b = appendSafe(b, r.Scheme)
		b = append(b, "://"...)
		b = appendSafe(b, r.Host)
	}
	b = appendSafe(b, r.Path)
	if r.Query != "" {
		b = append(b, '?')
		b = f.query(b, r.Query, appendSafe)
	}
	b = append(b, ' ')
	b = appendMillis(b, r.Duration)
	b = append(b, "ms "...)
	b = strconv.AppendInt(b, r.BytesOut, 10)
	b = append(b, "B "...)
	if r.Client.IsValid() {
		b = appendAddr(b, r.Client)
	} else {
		b = append(b, '-')
	}
	b = word(b, "route", r.Route)
	b = word(b, "grpc", r.GRPCStatus)
	if r.GRPCMessage != "" {
		b = append(b, ` grpc_message="`...)
		b = appendSafe(b, short(r.GRPCMessage))
		b = append(b, '"')
	}
	if r.Upstream != "" {
		b = word(b, "upstream", r.Upstream)
		b = word(b, "endpoint", r.Endpoint)
		if r.Attempts > 1 {
			b = append(b, " attempts="...)
			b = strconv.AppendInt(b, int64(r.Attempts), 10)
		}
	}
	b = word(b, "flags", r.Flags)
	b = word(b, "reason", r.Reason)
	b = word(b, "step", r.Step)
	if r.Detail != "" {
		b = append(b, ` detail="`...)
		b = appendSafe(b, r.Detail)
		b = append(b, '"')
	}
	b = word(b, "consumer", r.Consumer)
	if r.WAF.Blocked || len(r.WAF.Rules) > 0 {
		b = append(b, " waf="...)
		b = strconv.AppendInt(b, int64(r.WAF.Score), 10)
		for _, id := range r.WAF.Rules {
			b = append(b, ',')
			b = strconv.AppendInt(b, int64(id), 10)
		}
	}
	b = word(b, "id", r.RequestID)
	return append(b, '\n')
}

func word(b []byte, key, v string) []byte {
	if v == "" {
		return b
	}
	b = append(b, ' ')
	b = append(b, key...)
	b = append(b, '=')
	return appendSafe(b, v)
}

// appendSafe appends s with everything escaped that could drive a terminal or
// fake a line: control characters, DEL, C1 controls, invalid UTF-8, '"' and '\'.
func appendSafe(b []byte, s string) []byte {
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			i++
			if c < 0x20 || c == 0x7f || c == '"' || c == '\\' {
				b = append(b, '\\', 'x', hexDigits[c>>4], hexDigits[c&0xf])
			} else {
				b = append(b, c)
			}
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 || !strconv.IsPrint(r) {
			for _, c := range []byte(s[i : i+size]) {
				b = append(b, '\\', 'x', hexDigits[c>>4], hexDigits[c&0xf])
			}
		} else {
			b = append(b, s[i:i+size]...)
		}
		i += size
	}
	return b
}
