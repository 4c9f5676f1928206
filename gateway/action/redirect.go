package action

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/attribute"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/target"
)

// RedirectSettings say where to send clients. What is zero stays as requested;
// something must not.
type RedirectSettings struct {
	Scheme string // "http" or "https"
	Host   string // without a port
	// Port 0 is the request's, or the scheme's own if Scheme is given.
	Port int
	// Path replaces the whole path; it may have ${…}, whose values become
	// parts of segments.
	Path string
	// Prefix replaces Matched, as in RewriteSettings.
	Prefix, Matched string
	// Status is 301, 302, 303, 307 or 308; 0 means 302.
	Status int
	// Query keeps the query.
	Query bool
}

// Redirect answers with another address. It never changes.
type Redirect struct {
	scheme, host string
	port         int
	path         *attribute.Template // nil: none
	prefix       *prefix             // nil: none
	status       int
	query        bool
}

// NewRedirect checks s; errors name the knob.
func NewRedirect(s RedirectSettings) (*Redirect, error) {
	r := &Redirect{scheme: s.Scheme, host: strings.ToLower(s.Host), port: s.Port, status: s.Status, query: s.Query}
	switch s.Status {
	case 0:
		r.status = fasthttp.StatusFound
	case 301, 302, 303, 307, 308:
	default:
		return nil, fmt.Errorf("status: must be 301, 302, 303, 307 or 308, got %d", s.Status)
	}
	switch {
	case s.Scheme == "" && s.Host == "" && s.Port == 0 && s.Path == "" && s.Prefix == "":
		return nil, errors.New("must change scheme, host, port, path or prefix: it would lead to itself")
	case s.Scheme != "" && s.Scheme != "http" && s.Scheme != "https":
		return nil, fmt.Errorf("scheme: must be http or https, got %q", s.Scheme)
	case s.Host != "" && !validHost(s.Host):
		return nil, fmt.Errorf("host: must be a host name without a port, got %q", s.Host)
	case s.Port < 0 || s.Port > 65535:
		return nil, fmt.Errorf("port: must be 1 to 65535, got %d", s.Port)
	case s.Path != "" && s.Prefix != "":
		return nil, errors.New("path, prefix: only one of them can be given")
	case s.Prefix != "":
		p, err := newPrefix("prefix", s.Matched, s.Prefix)
		if err != nil {
			return nil, err
		}
		r.prefix = &p
	case s.Path != "":
		if err := r.setPath(s.Path); err != nil {
			return nil, fmt.Errorf("path %q: %w", s.Path, err)
		}
	}
	return r, nil
}

func (r *Redirect) setPath(path string) (err error) {
	if r.path, err = attribute.ParseTemplate(path); err != nil {
		return err
	}
	if !strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "${path}") {
		return errors.New("must begin with a slash")
	}
	// Try it on nothing: what is wrong then is the author's own text.
	text := "/" + string(r.path.Append(nil, new(fasthttp.RequestCtx), new(exchange.Exchange)))
	_, err = normal(text)
	return err
}

// Handle answers; it is a route's last handler. The Location is always an
// absolute URL on a host that the config or the request names, so that no path
// ("//evil.example") can be taken for a host. It refuses paths that values
// make ambiguous. It does not allocate.
func (r *Redirect) Handle(c *fiber.Ctx) error {
	ctx := c.Context()
	p := scratch.Get().(*[]byte)
	b, why := r.appendLocation((*p)[:0], ctx, exchange.From(c))
	if why == nil {
		ctx.Response.SetStatusCode(r.status)
		ctx.Response.Header.SetBytesV(fasthttp.HeaderLocation, b)
	}
	release(p, b)
	if why != nil {
		return why
	}
	return nil
}

func (r *Redirect) appendLocation(dst []byte, ctx *fasthttp.RequestCtx, e *exchange.Exchange) ([]byte, *reason.Reason) {
	scheme, host, port := r.scheme, r.host, r.port
	if port == 0 && scheme == "" {
		_, asked := target.Host(nil, ctx.Request.Header.Host())
		port = int(asked)
	}
	if scheme == "" {
		scheme = e.Scheme
	}
	if host == "" {
		if host = e.Host; !validHost(host) {
			return dst, reason.BadHost
		}
	}
	dst = append(append(append(dst, scheme...), "://"...), host...)
	if port != 0 && !(port == 80 && scheme == "http") && !(port == 443 && scheme == "https") {
		dst = strconv.AppendInt(append(dst, ':'), int64(port), 10)
	}
	dst, why := r.appendPath(dst, ctx, e)
	if why == nil && r.query && e.Query != "" {
		dst = appendQuery(append(dst, '?'), e.Query)
	}
	return dst, why
}

func (r *Redirect) appendPath(dst []byte, ctx *fasthttp.RequestCtx, e *exchange.Exchange) ([]byte, *reason.Reason) {
	switch {
	case r.prefix != nil:
		return r.prefix.append(dst, e.Path), nil
	case r.path == nil && e.Path == "*":
		return append(dst, '/'), nil
	case r.path == nil:
		return append(dst, e.Path...), nil
	}
	at := len(dst)
	dst = r.path.AppendEscaped(dst, ctx, e, attribute.Path)
	end := len(dst)
	// The normal form goes behind the text it is made of, and then over it.
	clean, why := target.Normalize(dst[end:], dst[at:end], target.Rules{KeepEncodedSlashes: true, MergeSlashes: true, RefuseDotSegments: true})
	if why != nil {
		return dst[:at], reason.AmbiguousPath
	}
	return append(dst[:at], clean...), nil
}

// appendQuery appends a query, or a path with its query, as sent, but nothing
// that could end a header or begin a fragment.
func appendQuery[S ~string | ~[]byte](dst []byte, query S) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(query) {
		if c := query[i]; c <= 0x20 || c >= 0x7f || c == '#' || c == '"' || c == '<' || c == '>' || c == '\\' {
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		} else {
			dst = append(dst, c)
		}
	}
	return dst
}
