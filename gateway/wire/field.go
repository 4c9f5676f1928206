package wire

import (
	"bytes"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// Field is one header line as offsets into the bytes given to Parse; order,
// case and repetition are as sent. The name is [N0:N1], the value, without the
// white space around it, [V0:V1].
type Field struct {
	N0, N1, V0, V1 uint32

	hop bool
}

// Name returns the field's name, borrowed from raw.
func (f Field) Name(raw []byte) []byte { return raw[f.N0:f.N1] }

// Value returns the field's value, borrowed from raw.
func (f Field) Value(raw []byte) []byte { return raw[f.V0:f.V1] }

// Limits of a head: bytes in all, number of fields, bytes of the request target.
type Limits struct{ Head, Fields, URI int }

// NeedMore says that the head is not complete yet: read on and parse again. It
// is no refusal and never reaches a client.
var NeedMore = &reason.Reason{Name: "need_more"}

// fieldLine reads the line that begins at p. next is where the following line
// begins; the empty line that ends a head has f.N1 == 0.
func fieldLine(b []byte, p int) (f Field, next int, r *reason.Reason) {
	e := bytes.IndexByte(b[p:], '\n')
	if e < 0 {
		return f, 0, NeedMore
	}
	e += p
	if e == p || b[e-1] != '\r' {
		return f, 0, reason.BadLineEnd
	}
	if e == p+1 {
		return f, e + 1, nil
	}
	q := p
	for tokenChar[b[q]] { // stops at the CR at the latest
		q++
	}
	if q == p || b[q] != ':' {
		return f, 0, reason.BadHeaderName
	}
	v0, v1 := q+1, e-1
	for v0 < v1 && (b[v0] == ' ' || b[v0] == '\t') {
		v0++
	}
	for v1 > v0 && (b[v1-1] == ' ' || b[v1-1] == '\t') {
		v1--
	}
	if hasControl(b[v0:v1]) {
		return f, 0, reason.BadHeaderValue
	}
	return Field{N0: uint32(p), N1: uint32(q), V0: uint32(v0), V1: uint32(v1)}, e + 1, nil
}
