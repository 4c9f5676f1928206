package attribute

import (
	"fmt"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// Template is text with attributes in it: "${header.X-Tenant:-none}/x". It
// never changes.
type Template struct {
	source string
	parts  []part
}

// part is literal text, or an attribute with what stands for it when it is
// absent or empty.
type part struct {
	literal   string
	attribute Attribute // its kind is 0 for literal text
	otherwise string
}

// TemplateError says where a template is wrong. Column counts bytes from 1.
type TemplateError struct {
	Column int
	Reason string
}

// Error implements error.
func (e *TemplateError) Error() string { return fmt.Sprintf("column %d: %s", e.Column, e.Reason) }

// ParseTemplate reads a template: ${ATTRIBUTE} or ${ATTRIBUTE:-DEFAULT}, where
// the default is text without '}'; "$${" is "${", any other '$' itself. The
// error is a *TemplateError.
func ParseTemplate(s string) (*Template, error) {
	t := &Template{source: s}
	literal := strings.Builder{}
	for i := 0; i < len(s); {
		column := i + 1
		switch rest := s[i:]; {
		case strings.HasPrefix(rest, "$${"):
			literal.WriteString("${")
			i += 3
		case strings.HasPrefix(rest, "${"):
			name, _, ok := strings.Cut(rest[2:], "}")
			if !ok {
				return nil, &TemplateError{column, `"${" is not closed by "}"; write "$${" for the text itself`}
			}
			i += len("${") + len(name) + len("}")
			name, otherwise, _ := strings.Cut(name, ":-")
			a, err := Parse(name)
			if err != nil {
				return nil, &TemplateError{column, err.Error()}
			}
			t.flush(&literal)
			t.parts = append(t.parts, part{attribute: a, otherwise: otherwise})
		default:
			literal.WriteByte(s[i])
			i++
		}
	}
	t.flush(&literal)
	return t, nil
}

func (t *Template) flush(literal *strings.Builder) {
	if literal.Len() > 0 {
		t.parts = append(t.parts, part{literal: literal.String()})
		literal.Reset()
	}
}

// String is the template as written.
func (t *Template) String() string { return t.source }

// Attributes lists what the template reads, in order.
func (t *Template) Attributes() []Attribute {
	var list []Attribute
	for _, p := range t.parts {
		if p.attribute.kind != 0 {
			list = append(list, p.attribute)
		}
	}
	return list
}

// Static returns the text of a template without attributes.
func (t *Template) Static() (text string, ok bool) {
	switch {
	case len(t.parts) == 0:
		return "", true
	case len(t.parts) == 1 && t.parts[0].attribute.kind == 0:
		return t.parts[0].literal, true
	}
	return "", false
}

// Append appends the template's text for this request. An absent attribute
// without default is empty. It does not allocate when dst has room.
func (t *Template) Append(dst []byte, ctx *fasthttp.RequestCtx, e *exchange.Exchange) []byte {
	return t.AppendEscaped(dst, ctx, e, Raw)
}

// AppendEscaped is Append with every attribute's value escaped for where it is
// to stand; literal text and defaults are the author's own and are not.
func (t *Template) AppendEscaped(dst []byte, ctx *fasthttp.RequestCtx, e *exchange.Exchange, esc Escape) []byte {
	for i := range t.parts {
		p := &t.parts[i]
		if p.attribute.kind == 0 {
			dst = append(dst, p.literal...)
			continue
		}
		at := len(dst)
		dst, _ = p.attribute.Append(dst, ctx, e)
		if len(dst) == at {
			dst = append(dst, p.otherwise...)
		} else if esc != Raw && (esc != Path || p.attribute.kind != path) {
			dst = escapeTail(dst, at, esc)
		}
	}
	return dst
}

// AppendHeaderSafe is Append for the value of a header. ok is false, and dst
// returned as it was, if the value would have a control byte other than tab
// (claims and decoded query parameters may): the header must then not be sent
// at all, nor the client's own of that name in its place. Nothing is stripped,
// since "ad\rmin" must not become "admin".
func (t *Template) AppendHeaderSafe(dst []byte, ctx *fasthttp.RequestCtx, e *exchange.Exchange) (out []byte, ok bool) {
	out = t.Append(dst, ctx, e)
	for _, c := range out[len(dst):] {
		if c < 0x20 && c != '\t' || c == 0x7f {
			return out[:len(dst)], false
		}
	}
	return out, true
}
