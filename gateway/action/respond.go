package action

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/attribute"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// RespondSettings are a fixed answer.
type RespondSettings struct {
	// Status is 200 to 599; 0 means 200.
	Status int
	// Body may have ${…}; values are escaped for ContentType if that is HTML,
	// XML or JSON.
	Body string
	// ContentType is "text/plain; charset=utf-8" if empty.
	ContentType string
	// Headers are further header fields. Values may have ${…}; a field whose value
	// comes out empty, or could not be that of a header, is left out.
	Headers map[string]string
}

// Respond answers with fixed text. It never changes.
type Respond struct {
	status      int
	contentType string
	headers     []field // in order of their names
	static      []byte
	body        *attribute.Template // nil: static
	escape      attribute.Escape
}

// field is a header field: a text or a template.
type field struct {
	name, text string
	value      *attribute.Template // nil: text
}

// framing are fields that a body decides, or the connection.
var framing = []string{"connection", "content-length", "content-type", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "date"}

// NewRespond checks s; errors name the knob.
func NewRespond(s RespondSettings) (*Respond, error) {
	r := &Respond{status: s.Status, contentType: s.ContentType}
	if r.status == 0 {
		r.status = fasthttp.StatusOK
	}
	if r.contentType == "" {
		r.contentType = "text/plain; charset=utf-8"
	}
	switch {
	case r.status < 200 || r.status > 599:
		return nil, fmt.Errorf("status: must be 200 to 599, got %d", s.Status)
	case bodiless(r.status) && s.Body != "":
		return nil, fmt.Errorf("body: status %d cannot have one", r.status)
	case !validValue(r.contentType):
		return nil, fmt.Errorf("content_type: %q cannot be the value of a header", s.ContentType)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Headers)) {
		f, err := parseField(name, s.Headers[name])
		if err != nil {
			return nil, fmt.Errorf("headers.%s: %w", name, err)
		}
		r.headers = append(r.headers, f)
	}
	body, err := attribute.ParseTemplate(s.Body)
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	r.escape = escapeFor(r.contentType)
	if text, ok := body.Static(); ok {
		r.static = []byte(text)
	} else {
		r.body = body
	}
	return r, nil
}

func bodiless(status int) bool { return status == 204 || status == 205 || status == 304 }

func parseField(name, value string) (field, error) {
	if _, err := attribute.Parse("header." + name); err != nil {
		return field{}, errors.New("cannot be the name of a header")
	}
	if slices.Contains(framing, strings.ToLower(name)) {
		return field{}, errors.New("is decided by the body and the connection; for the content type there is content_type")
	}
	if !validValue(value) {
		return field{}, fmt.Errorf("%q cannot be the value of a header", value)
	}
	t, err := attribute.ParseTemplate(value)
	if err != nil {
		return field{}, err
	}
	if text, ok := t.Static(); ok {
		return field{name: name, text: text}, nil
	}
	return field{name: name, value: t}, nil
}

func validValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// escapeFor keeps values sent by clients from becoming markup.
func escapeFor(contentType string) attribute.Escape {
	t := strings.ToLower(contentType)
	switch {
	case strings.Contains(t, "html"), strings.Contains(t, "xml"), strings.Contains(t, "svg"):
		return attribute.HTML
	case strings.Contains(t, "json"), strings.Contains(t, "javascript"):
		return attribute.JSON
	}
	return attribute.Raw
}

// Handle answers; it is a route's last handler. It does not allocate.
func (r *Respond) Handle(c *fiber.Ctx) error {
	ctx := c.Context()
	resp := &ctx.Response
	resp.SetStatusCode(r.status)
	for i := range r.headers {
		r.headers[i].set(ctx, c)
	}
	if bodiless(r.status) {
		return nil
	}
	resp.Header.SetContentType(r.contentType)
	if r.body == nil {
		resp.SetBodyRaw(r.static)
		return nil
	}
	// What clients send comes back: nobody may guess that it is a page.
	resp.Header.Set(fasthttp.HeaderXContentTypeOptions, "nosniff")
	p := scratch.Get().(*[]byte)
	b := r.body.AppendEscaped((*p)[:0], ctx, exchange.From(c), r.escape)
	resp.SetBody(b)
	release(p, b)
	return nil
}

func (f *field) set(ctx *fasthttp.RequestCtx, c *fiber.Ctx) {
	if f.value == nil {
		ctx.Response.Header.Set(f.name, f.text)
		return
	}
	p := scratch.Get().(*[]byte)
	b, ok := f.value.AppendHeaderSafe((*p)[:0], ctx, exchange.From(c))
	if ok && len(b) > 0 {
		ctx.Response.Header.SetBytesV(f.name, b)
	}
	release(p, b)
}
