package telemetry

import "bytes"

// TraceContext is a request's place in a distributed trace, as W3C Trace
// Context has it (https://www.w3.org/TR/trace-context/). The zero value is no
// trace. It is a plain value: copying it is cheap and keeps nothing alive.
type TraceContext struct {
	TraceID [16]byte
	// SpanID is the span that whoever is called next has as its parent.
	SpanID [8]byte
	// Flags are the trace flags; bit 0 says sampled.
	Flags byte
}

const (
	flagSampled = 1
	// flagsKnown are the flags that this version of the format defines:
	// sampled, and random-trace-id of level 2. Others must be sent as zero.
	flagsKnown = 3
	// traceparentSize is the length of version 00.
	traceparentSize = 55
)

// Valid reports whether there is a trace.
func (c *TraceContext) Valid() bool { return c.TraceID != [16]byte{} && c.SpanID != [8]byte{} }

// Sampled is the decision that the trace's beginning has made.
func (c *TraceContext) Sampled() bool { return c.Flags&flagSampled != 0 }

// SetSampled records a decision.
func (c *TraceContext) SetSampled(on bool) {
	c.Flags &^= flagSampled
	if on {
		c.Flags |= flagSampled
	}
}

const hexDigits = "0123456789abcdef"

func appendHex(dst, src []byte) []byte {
	for _, c := range src {
		dst = append(dst, hexDigits[c>>4], hexDigits[c&0xf])
	}
	return dst
}

// AppendTraceparent appends the traceparent value for whoever is called next,
// nothing without a trace.
func (c *TraceContext) AppendTraceparent(dst []byte) []byte {
	if !c.Valid() {
		return dst
	}
	dst = append(dst, "00-"...)
	dst = appendHex(dst, c.TraceID[:])
	dst = append(dst, '-')
	dst = appendHex(dst, c.SpanID[:])
	return append(dst, '-', '0', hexDigits[c.Flags&flagsKnown])
}

// ParseTraceparent reads a traceparent value strictly: lower-case hex, no ID
// of zeros, no version ff; a later version is read as far as version 00 goes.
func ParseTraceparent(v []byte) (c TraceContext, ok bool) {
	if len(v) < traceparentSize || v[2] != '-' || v[35] != '-' || v[52] != '-' {
		return c, false
	}
	var version, flags [1]byte
	if !unhex(version[:], v[:2]) || version[0] == 0xff ||
		!unhex(c.TraceID[:], v[3:35]) || !unhex(c.SpanID[:], v[36:52]) || !unhex(flags[:], v[53:55]) {
		return TraceContext{}, false
	}
	if len(v) > traceparentSize && (version[0] == 0 || v[traceparentSize] != '-') {
		return TraceContext{}, false
	}
	c.Flags = flags[0] & flagsKnown
	if !c.Valid() {
		return TraceContext{}, false
	}
	return c, true
}

func unhex(dst, src []byte) bool {
	var bad byte
	for i := range dst {
		hi, lo := nibble[src[2*i]], nibble[src[2*i+1]]
		bad |= (hi | lo) & 0x80
		dst[i] = hi<<4 | lo&0xf
	}
	return bad == 0
}

// nibble is the value of a lower-case hex digit, 0x80 for anything else.
var nibble = func() (t [256]byte) {
	for i := range t {
		t[i] = 0x80
	}
	for i := range len(hexDigits) {
		t[hexDigits[i]] = byte(i)
	}
	return t
}()

// ValidTracestate reports whether one combined tracestate value may be passed
// on: at most 32 list members with well-formed, distinct keys. An invalid one
// is dropped whole; the traceparent stays.
func ValidTracestate(v []byte) bool {
	const maxMembers = 32
	var keys [maxMembers][]byte
	n := 0
	for len(v) > 0 {
		member := v
		if i := bytes.IndexByte(v, ','); i >= 0 {
			member, v = v[:i], v[i+1:]
		} else {
			v = nil
		}
		member = bytes.Trim(member, " \t")
		if len(member) == 0 {
			continue // empty members are allowed
		}
		key, value, ok := bytes.Cut(member, []byte("="))
		if !ok || n == maxMembers || !stateKey(key) || !stateValue(value) {
			return false
		}
		for _, k := range keys[:n] {
			if bytes.Equal(k, key) {
				return false
			}
		}
		keys[n] = key
		n++
	}
	return true
}

// stateKey checks key and tenant@system forms alike, by level 2's rules.
func stateKey(k []byte) bool {
	tenant, system, multi := bytes.Cut(k, []byte("@"))
	if multi {
		return stateName(tenant, 241, true) && stateName(system, 14, false)
	}
	return stateName(k, 256, true)
}

func stateName(k []byte, longest int, digitFirst bool) bool {
	if len(k) == 0 || len(k) > longest {
		return false
	}
	for i, c := range k {
		switch {
		case 'a' <= c && c <= 'z':
		case '0' <= c && c <= '9':
			if i == 0 && !digitFirst {
				return false
			}
		case c == '_' || c == '-' || c == '*' || c == '/':
			if i == 0 {
				return false
			}
		default:
			return false
		}
	}
	return true
}

func stateValue(v []byte) bool {
	if len(v) == 0 || len(v) > 256 || v[len(v)-1] == ' ' {
		return false
	}
	for _, c := range v {
		if c < 0x20 || c > 0x7e || c == '=' {
			return false
		}
	}
	return true
}
