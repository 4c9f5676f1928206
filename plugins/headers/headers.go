package headers

import (
	"bytes"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/attribute"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// Factory makes headers instances.
func Factory() plugins.Factory {
	return plugins.Define("headers", func(c *Config, _ plugins.Settings) (plugins.Instance, error) {
		p := &plugin{security: presets(c.Security)}
		var err error
		if p.request, err = compile(&c.Request); err != nil {
			return nil, fmt.Errorf("request: %w", err)
		}
		if p.response, err = compile(&c.Response); err != nil {
			return nil, fmt.Errorf("response: %w", err)
		}
		return plugins.Stateless(p.handle), nil
	})
}

type plugin struct {
	request, response *edits
	security          []preset
}

// edits are an Edits with its names in wire form and its templates parsed.
type edits struct {
	remove, prefixes []string
	set, add         []field
}

type field struct {
	name  string
	value *attribute.Template
}

// preset is a reply field that is set unless the upstream has.
type preset struct {
	name, value string
	tlsOnly     bool
}

func compile(e *Edits) (*edits, error) {
	out := &edits{}
	for _, n := range e.Remove {
		if prefix, ok := strings.CutSuffix(n, "*"); ok {
			out.prefixes = append(out.prefixes, canonical(prefix))
		} else {
			out.remove = append(out.remove, canonical(n))
		}
	}
	var err error
	if out.set, err = fields(e.Set); err != nil {
		return nil, fmt.Errorf("set.%w", err)
	}
	if out.add, err = fields(e.Add); err != nil {
		return nil, fmt.Errorf("add.%w", err)
	}
	return out, nil
}

func fields(m map[string]string) (out []field, err error) {
	for _, n := range slices.Sorted(maps.Keys(m)) {
		t, err := attribute.ParseTemplate(m[n])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", n, err)
		}
		out = append(out, field{canonical(n), t})
	}
	return out, nil
}

func canonical(name string) string { return string(fasthttp.AppendNormalizedHeaderKey(nil, name)) }

func presets(s *Security) (out []preset) {
	if s == nil {
		return nil
	}
	add := func(on bool, name, value string) {
		if on {
			out = append(out, preset{name: canonical(name), value: value})
		}
	}
	if age := s.HSTS.D(); age > 0 {
		v := fmt.Sprintf("max-age=%d", age/time.Second)
		if s.HSTSSubdomains {
			v += "; includeSubDomains"
		}
		if s.HSTSPreload {
			v += "; preload"
		}
		out = append(out, preset{name: canonical("Strict-Transport-Security"), value: v, tlsOnly: true})
	}
	add(s.NoSniff, "X-Content-Type-Options", "nosniff")
	add(s.Frame != "off", "X-Frame-Options", strings.ToUpper(s.Frame))
	add(s.Referrer != "off", "Referrer-Policy", s.Referrer)
	add(s.ContentPolicy != "", "Content-Security-Policy", s.ContentPolicy)
	add(s.Permissions != "", "Permissions-Policy", s.Permissions)
	return out
}

func (p *plugin) handle(c *fiber.Ctx) error {
	e, ctx := exchange.From(c), c.Context()
	p.request.removeSpelled(&ctx.Request.Header)
	p.request.apply(&ctx.Request.Header, ctx, e)
	err := c.Next()
	h := &ctx.Response.Header
	for i := range p.security {
		s := &p.security[i]
		if (!s.tlsOnly || e.Scheme == "https") && len(h.Peek(s.name)) == 0 {
			h.Set(s.name, s.value)
		}
	}
	p.response.apply(h, ctx, e)
	return err
}

// header is what request and reply headers have in common.
type header interface {
	All() iter.Seq2[[]byte, []byte]
	Del(name string)
	SetBytesV(name string, value []byte)
	AddBytesV(name string, value []byte)
}

var scratch = sync.Pool{New: func() any { b := make([]byte, 0, 256); return &b }}

const maxPooled = 16 << 10

func (d *edits) apply(h header, ctx *fasthttp.RequestCtx, e *exchange.Exchange) {
	for _, n := range d.remove {
		h.Del(n)
	}
	if len(d.prefixes) > 0 {
		d.removePrefixes(h)
	}
	if len(d.set) == 0 && len(d.add) == 0 {
		return
	}
	p := scratch.Get().(*[]byte)
	b := *p
	for i := range d.set {
		f := &d.set[i]
		v, ok := f.value.AppendHeaderSafe(b[:0], ctx, e)
		b = v[:0]
		// Del first: Set would leave the second of two, and the client's own
		// must not stand where ours cannot.
		h.Del(f.name)
		if ok && len(v) > 0 {
			h.SetBytesV(f.name, v)
		}
	}
	for i := range d.add {
		f := &d.add[i]
		v, ok := f.value.AppendHeaderSafe(b[:0], ctx, e)
		b = v[:0]
		if ok && len(v) > 0 {
			h.AddBytesV(f.name, v)
		}
	}
	if cap(b) <= maxPooled {
		*p = b
		scratch.Put(p)
	}
}

// removeSpelled removes what the client spelt with '_' for '-' of the names that
// are set or removed. Applications that get headers the way CGI hands them over
// cannot tell X_Consumer from X-Consumer, and would get the client's.
func (d *edits) removeSpelled(h *fasthttp.RequestHeader) {
	var found []string
	for k := range h.All() {
		if bytes.IndexByte(k, '_') >= 0 && d.owns(k) {
			found = append(found, string(k))
		}
	}
	for _, k := range found {
		h.Del(k)
	}
}

// owns reports whether the edits set or remove a name, however it is spelt.
func (d *edits) owns(k []byte) bool {
	for i := range d.set {
		if wire.SameName(k, d.set[i].name) {
			return true
		}
	}
	for _, n := range d.remove {
		if wire.SameName(k, n) {
			return true
		}
	}
	for _, n := range d.prefixes {
		if len(k) >= len(n) && wire.SameName(k[:len(n)], n) {
			return true
		}
	}
	return false
}

// removePrefixes collects first: deleting moves what is being walked over.
func (d *edits) removePrefixes(h header) {
	var names []string
	for k := range h.All() {
		for _, prefix := range d.prefixes {
			if len(k) >= len(prefix) && strings.EqualFold(string(k[:len(prefix)]), prefix) && !isFraming(k) {
				names = append(names, string(k))
			}
		}
	}
	for _, n := range names {
		h.Del(n)
	}
}

func isFraming(k []byte) bool {
	for _, f := range framing {
		if len(k) == len(f) && strings.EqualFold(string(k), f) {
			return true
		}
	}
	return len(k) == 4 && (strings.EqualFold(string(k), "host") || strings.EqualFold(string(k), "date"))
}
