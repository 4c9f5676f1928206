package compress

import (
	"bytes"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/grpc"
	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// Factory makes compress instances.
func Factory() plugins.Factory {
	return plugins.Define("compress", func(c *Config, s plugins.Settings) (plugins.Instance, error) {
		replies := s.Counter("gatehouse_compress_responses_total", "Replies compressed, by encoding.", "route", "encoding")
		sizes := s.Counter("gatehouse_compress_bytes_total", "Bytes of bodies in memory before and after compression.", "route", "stage")
		p := &plugin{
			types: newTypes(c.ContentTypes), min: int(c.MinSize),
			before: sizes.WithLabelValues(s.Route.Name, "before"),
			after:  sizes.WithLabelValues(s.Route.Name, "after"),
		}
		for _, name := range c.Encodings {
			p.codings = append(p.codings, newCoding(name, c.Level))
			p.replies = append(p.replies, replies.WithLabelValues(s.Route.Name, name))
		}
		return plugins.Stateless(p.handle), nil
	})
}

type plugin struct {
	codings       []*coding
	replies       []prometheus.Counter // by coding
	types         types
	min           int
	before, after prometheus.Counter
}

func (p *plugin) handle(c *fiber.Ctx) error {
	err := c.Next()
	ctx := c.Context()
	resp := &ctx.Response
	if !p.eligible(ctx, exchange.From(c)) {
		return err
	}
	// From here on the reply depends on Accept-Encoding, even if this client
	// gets it as it is.
	vary(&resp.Header)
	if ctx.IsHead() || noTransform(ctx.Request.Header.Peek(fasthttp.HeaderCacheControl)) {
		return err
	}
	// Several lines are one list; the second is rare enough to be ignored,
	// which only costs compression.
	coding := negotiate(ctx.Request.Header.Peek(fasthttp.HeaderAcceptEncoding), p.codings)
	if coding == nil {
		return err
	}
	if resp.IsBodyStream() {
		s := newStream(resp.BodyStream(), coding)
		if !exchange.WrapReply(resp, s, -1) {
			s.release()
			return err
		}
	} else if !p.whole(resp, coding) {
		return err
	}
	p.mark(&resp.Header, coding)
	return err
}

// eligible reports whether the reply may be compressed for anybody.
func (p *plugin) eligible(ctx *fasthttp.RequestCtx, e *exchange.Exchange) bool {
	resp := &ctx.Response
	h := &resp.Header
	switch status := resp.StatusCode(); {
	case e.Stream, e.RPC.Kind != grpc.None, status < 200, status == 204, status == 205, status == 206, status == 304:
		return false
	case !p.types.has(h.ContentType()), len(h.Peek(fasthttp.HeaderContentRange)) > 0,
		noTransform(h.Peek(fasthttp.HeaderCacheControl)):
		return false
	}
	if enc := h.ContentEncoding(); len(enc) > 0 && !is(enc, "identity") {
		return false
	}
	if n := size(resp); n >= 0 && n < p.min && !ctx.IsHead() {
		return false
	}
	return true
}

// size is the body's length, -1 if it is not known.
func size(resp *fasthttp.Response) int {
	if resp.IsBodyStream() {
		return resp.Header.ContentLength()
	}
	return len(resp.Body())
}

// whole compresses a body in memory, unless that makes it longer.
func (p *plugin) whole(resp *fasthttp.Response, c *coding) bool {
	body := resp.Body()
	w := c.get()
	defer c.put(w)
	out := w.whole(body)
	if len(out) >= len(body) {
		return false
	}
	p.before.Add(float64(len(body)))
	p.after.Add(float64(len(out)))
	resp.SetBody(out) // copies; body itself may be its own buffer
	return true
}

// mark says in the header what has been done.
func (p *plugin) mark(h *fasthttp.ResponseHeader, coding *coding) {
	for i, c := range p.codings {
		if c == coding {
			p.replies[i].Inc()
		}
	}
	h.SetContentEncoding(coding.name)
	// They speak of the bytes as they were.
	h.Del(fasthttp.HeaderAcceptRanges)
	h.Del("Content-Md5")
	h.Del("Content-Digest")
	if tag := h.Peek(fasthttp.HeaderETag); len(tag) > 0 && tag[0] == '"' {
		weak := make([]byte, 0, 64)
		h.SetBytesV(fasthttp.HeaderETag, append(append(weak, "W/"...), tag...))
	}
}

func noTransform(cacheControl []byte) bool {
	return len(cacheControl) > 0 && bytes.Contains(bytes.ToLower(cacheControl), []byte("no-transform"))
}

func vary(h *fasthttp.ResponseHeader) {
	for _, line := range h.PeekAll(fasthttp.HeaderVary) {
		for len(line) > 0 {
			var t []byte
			if i := bytes.IndexByte(line, ','); i >= 0 {
				t, line = line[:i], line[i+1:]
			} else {
				t, line = line, nil
			}
			if t = bytes.Trim(t, " \t"); string(t) == "*" || strings.EqualFold(string(t), fasthttp.HeaderAcceptEncoding) {
				return
			}
		}
	}
	h.Add(fasthttp.HeaderVary, fasthttp.HeaderAcceptEncoding)
}
