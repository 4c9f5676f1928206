package errorpages

import (
	"bytes"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/attribute"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/filewatch"
	"github.com/gatehouse-proxy/gatehouse/gateway/grpc"
	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// longest page that is read from a file.
const longest = 1 << 20

// Factory makes error_pages instances.
func Factory() plugins.Factory {
	return plugins.Define("error_pages", func(c *Config, s plugins.Settings) (plugins.Instance, error) {
		v := s.Counter("gatehouse_error_pages_served_total", "Error replies whose body was replaced, by whose error it was.", "route", "source")
		p := &plugin{
			upstream: c.Upstream, byName: map[string]*page{}, byStatus: map[int]*page{},
			ours: v.WithLabelValues(s.Route.Name, "gateway"), theirs: v.WithLabelValues(s.Route.Name, "upstream"),
		}
		for key, config := range c.Pages {
			pg, err := load(config, s.Dir)
			if err != nil {
				return nil, fmt.Errorf("pages.%s.%w", key, err)
			}
			switch status, err := strconv.Atoi(key); {
			case err == nil:
				p.byStatus[status] = pg
			case key == "4xx":
				p.class[0] = pg
			case key == "5xx":
				p.class[1] = pg
			default:
				p.byName[key] = pg
			}
		}
		return plugins.Stateless(p.handle), nil
	})
}

type plugin struct {
	upstream     bool
	byName       map[string]*page
	byStatus     map[int]*page
	class        [2]*page // 4xx, 5xx
	ours, theirs prometheus.Counter
}

// page is a Page with its templates parsed; nil where it has none.
type page struct{ html, json text }

func load(c Page, dir string) (*page, error) {
	var pg page
	for _, l := range []struct {
		key, text, file string
		into            *text
	}{{"html", c.HTML, c.HTMLFile, &pg.html}, {"json", c.JSON, c.JSONFile, &pg.json}} {
		key, source := l.key, l.text
		if l.file != "" {
			key += "_file"
			path := l.file
			if !filepath.IsAbs(path) {
				path = filepath.Join(dir, path)
			}
			b, err := filewatch.Read(path, longest)
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", key, path, err)
			}
			source = string(b)
		}
		var err error
		if *l.into, err = parse(source); err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
	}
	return &pg, nil
}

func (p *plugin) handle(c *fiber.Ctx) error {
	err := c.Next()
	ctx, e := c.Context(), exchange.From(c)
	status := ctx.Response.StatusCode()
	if status < 400 || e.Stream || e.RPC.Kind != grpc.None {
		return err // a gRPC client reads the status, and no page
	}
	name, title, counter := "upstream_error", http.StatusText(status), p.theirs
	if e.Refusal != nil {
		name, title, counter = e.Refusal.Reason.Name, e.Refusal.Reason.Title, p.ours
	} else if !p.upstream {
		return err
	}
	pg := p.find(name, status)
	if pg == nil {
		return err
	}
	counter.Inc()
	pg.write(ctx, e, status, name, title)
	return err
}

func (p *plugin) find(name string, status int) *page {
	if pg := p.byName[name]; pg != nil {
		return pg
	}
	if pg := p.byStatus[status]; pg != nil {
		return pg
	}
	return p.class[min(status/100-4, 1)]
}

var scratch = sync.Pool{New: func() any { b := make([]byte, 0, 4096); return &b }}

const maxPooled = 64 << 10

func (pg *page) write(ctx *fasthttp.RequestCtx, e *exchange.Exchange, status int, name, title string) {
	t, kind, esc := pg.html, "text/html; charset=utf-8", attribute.HTML
	if pg.html == nil || pg.json != nil && !prefersHTML(ctx.Request.Header.Peek(fasthttp.HeaderAccept)) {
		t, kind, esc = pg.json, "application/json", attribute.JSON
	}
	b := scratch.Get().(*[]byte)
	out := t.append((*b)[:0], e, status, name, title, esc)
	*b = out
	if !utf8.Valid(out) { // a header or a parameter in it was not
		out = bytes.ToValidUTF8(out, []byte("\ufffd"))
	}
	h := &ctx.Response.Header
	// What spoke of the body that was there.
	for _, n := range [...]string{
		fasthttp.HeaderContentEncoding, fasthttp.HeaderContentRange, fasthttp.HeaderContentDisposition, fasthttp.HeaderContentLanguage,
		fasthttp.HeaderContentLocation, "Content-Md5", "Content-Digest", fasthttp.HeaderETag, fasthttp.HeaderLastModified, fasthttp.HeaderAcceptRanges,
	} {
		h.Del(n)
	}
	h.SetContentType(kind)
	ctx.Response.SkipBody = false
	ctx.Response.SetBody(out) // ends an upstream's stream
	if pg.html != nil && pg.json != nil {
		h.Add(fasthttp.HeaderVary, fasthttp.HeaderAccept)
	}
	if cap(*b) <= maxPooled {
		scratch.Put(b)
	}
}

// prefersHTML is true when text/html is named and JSON is not, as with the
// gateway's own refusals: browsers name the first, programs the second or
// neither.
func prefersHTML(accept []byte) bool {
	return bytes.Contains(accept, []byte("text/html")) && !bytes.Contains(accept, []byte("json"))
}
