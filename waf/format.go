package waf

import (
	"strconv"
	"time"
	"unicode/utf8"
)

// Format is how an event is written.
type Format uint8

// Formats of the event log.
const (
	// JSON is one object on one line per event.
	JSON Format = iota
	// ModSecurity is ModSecurity's error-log form, one line per match, as
	// existing tools (and the CRS's own tests) read it.
	ModSecurity
)

// Append appends an event, newline included.
func (f Format) Append(dst []byte, e *Event) []byte {
	if f == ModSecurity {
		return appendModSecurity(dst, e)
	}
	return appendJSON(dst, e)
}

func appendJSON(dst []byte, e *Event) []byte {
	dst = append(dst, `{"time":"`...)
	dst = e.Time.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, '"')
	for _, f := range [...]struct{ key, value string }{
		{"request_id", e.RequestID},
		{"client", e.Client},
		{"method", e.Method},
		{"host", e.Host},
		{"path", e.Path},
		{"route", e.Route},
		{"policy", e.Policy},
		{"mode", e.Mode},
		{"action", e.Action},
	} {
		dst = appendKey(dst, f.key)
		dst = appendQuoted(dst, f.value)
	}
	dst = appendKey(dst, "status")
	dst = strconv.AppendInt(dst, int64(e.Status), 10)
	dst = appendKey(dst, "score")
	dst = strconv.AppendInt(dst, int64(e.Score), 10)
	dst = appendKey(dst, "reply_score")
	dst = strconv.AppendInt(dst, int64(e.ReplyScore), 10)
	dst = append(dst, `,"matches":[`...)
	for i := range e.Matches {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendMatch(dst, &e.Matches[i])
	}
	return append(dst, "]}\n"...)
}

func appendMatch(dst []byte, m *Match) []byte {
	dst = append(dst, `{"id":`...)
	dst = strconv.AppendInt(dst, int64(m.ID), 10)
	dst = appendKey(dst, "phase")
	dst = strconv.AppendInt(dst, int64(m.Phase), 10)
	for _, f := range [...]struct{ key, value string }{
		{"message", m.Message}, {"severity", m.Severity}, {"version", m.Version}, {"target", m.Target}, {"data", m.Data},
	} {
		dst = appendKey(dst, f.key)
		dst = appendQuoted(dst, f.value)
	}
	dst = append(dst, `,"tags":[`...)
	for i, t := range m.Tags {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendQuoted(dst, t)
	}
	dst = append(dst, `],"disruptive":`...)
	dst = strconv.AppendBool(dst, m.Disruptive)
	return append(dst, '}')
}

func appendKey(dst []byte, key string) []byte {
	dst = append(dst, `,"`...)
	dst = append(dst, key...)
	return append(dst, `":`...)
}

const hexDigits = "0123456789abcdef"

// appendQuoted appends a JSON string (RFC 8259 section 7). What is not UTF-8
// becomes the replacement character, so that every line can be parsed.
func appendQuoted(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
			i++
		case c < ' ' || c == 0x7f:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			i++
		case c < utf8.RuneSelf:
			dst = append(dst, c)
			i++
		default:
			r, n := utf8.DecodeRuneInString(s[i:])
			dst = utf8.AppendRune(dst, r)
			i += n
		}
	}
	return append(dst, '"')
}

func appendModSecurity(dst []byte, e *Event) []byte {
	for i := range e.Matches {
		m := &e.Matches[i]
		dst = e.Time.UTC().AppendFormat(dst, "2006/01/02 15:04:05.000 ")
		dst = append(dst, "[error] [client "...)
		dst = append(dst, e.Client...)
		if m.Disruptive {
			dst = append(dst, "] ModSecurity: Access denied with code "...)
			dst = strconv.AppendInt(dst, int64(e.Status), 10)
			dst = append(dst, " (phase "...)
			dst = strconv.AppendInt(dst, int64(m.Phase), 10)
			dst = append(dst, "). "...)
		} else {
			dst = append(dst, "] ModSecurity: Warning. "...)
		}
		dst = append(dst, "Matched at "...)
		dst = appendPlain(dst, m.Target)
		dst = append(dst, '.')
		dst = appendBracket(dst, "id", strconv.Itoa(m.ID))
		dst = appendBracket(dst, "msg", m.Message)
		if m.Data != "" {
			dst = appendBracket(dst, "data", m.Data)
		}
		if m.Severity != "" {
			dst = appendBracket(dst, "severity", m.Severity)
		}
		if m.Version != "" {
			dst = appendBracket(dst, "ver", m.Version)
		}
		for _, t := range m.Tags {
			dst = appendBracket(dst, "tag", t)
		}
		dst = appendBracket(dst, "hostname", e.Host)
		dst = appendBracket(dst, "uri", e.Path)
		dst = appendBracket(dst, "unique_id", e.RequestID)
		dst = append(dst, '\n')
	}
	return dst
}

func appendBracket(dst []byte, key, value string) []byte {
	dst = append(dst, " ["...)
	dst = append(dst, key...)
	dst = append(dst, ` "`...)
	dst = appendPlain(dst, value)
	return append(dst, `"]`...)
}

// appendPlain appends s so that it can neither end the quotes around it nor the
// line, as ModSecurity does: \x5c and so on.
func appendPlain(dst []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if c == '"' || c == '\\' || c < ' ' || c >= 0x7f {
			dst = append(dst, '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
			continue
		}
		dst = append(dst, c)
	}
	return dst
}
