package pipeline_test

import (
	"encoding/json"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/compress"
	"github.com/gofiber/fiber/v2/middleware/cors"
	"github.com/gofiber/fiber/v2/middleware/etag"
	"github.com/gofiber/fiber/v2/middleware/keyauth"
	"github.com/gofiber/fiber/v2/middleware/recover"
	"github.com/gofiber/fiber/v2/middleware/requestid"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/pipeline"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// problem is the RFC 9457 document.
type problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Reason    string `json:"reason"`
	RequestID string `json:"request_id"`
}

func TestProblemsAreHTMLOnlyForWhoAsksForIt(t *testing.T) {
	for accept, html := range map[string]bool{
		"":    false,
		"*/*": false,
		"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": true,
		"application/json":             false,
		"application/json, text/html":  false,
		"text/html, application/json":  false,
		"application/problem+json":     false,
		"text/plain":                   false,
		"application/vnd.api+json;q=1": false,
	} {
		r := newRequest("GET", "Accept: "+accept)
		r.e.RequestID = `<script>"`
		r.run(func(*fiber.Ctx) error { return reason.NoRoute })
		want := "application/problem+json"
		if html {
			want = "text/html; charset=utf-8"
		}
		if got := r.header("Content-Type"); got != want {
			t.Errorf("Accept: %s: got %s", accept, got)
		}
		if html && (strings.Contains(r.body(), "<script>") || !strings.Contains(r.body(), "&lt;script&gt;")) {
			t.Errorf("the request ID is not escaped: %s", r.body())
		}
		var p problem
		if !html {
			if err := json.Unmarshal([]byte(r.body()), &p); err != nil || p.RequestID != `<script>"` || p.Reason != "no_route" || p.Status != 404 {
				t.Errorf("%s: %v", r.body(), err)
			}
		}
		if r.header("Cache-Control") != "no-store" {
			t.Error("a refusal could be cached")
		}
	}
}

func TestEveryReasonMakesAProblem(t *testing.T) {
	for _, why := range reason.All() {
		var p problem
		if err := json.Unmarshal(pipeline.AppendProblem(nil, why.Status, why, ""), &p); err != nil {
			t.Fatalf("%s: %v", why.Name, err)
		}
		if p.Type != "about:blank" || p.Title != why.Title || p.Status != why.Status || p.Reason != why.Name || p.RequestID != "" {
			t.Errorf("%s: got %+v", why.Name, p)
		}
	}
}

func FuzzAppendProblem(f *testing.F) {
	for _, id := range []string{"", "01J0", `"`, `\`, "\x00\a\v\x1f\x7f", "\xff\xfe", "\u2028é\U0001F600", "\xed\xa0\x80"} {
		f.Add(id, 503)
	}
	f.Fuzz(func(t *testing.T, id string, code int) {
		b := pipeline.AppendProblem(nil, code, reason.NoRoute, id)
		var p problem
		if err := json.Unmarshal(b, &p); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		if want := strings.ToValidUTF8(id, "\uFFFD"); !sameText(p.RequestID, want, id) || p.Status != code {
			t.Errorf("%q became %q, status %d", id, p.RequestID, p.Status)
		}
		for _, c := range b[:len(b)-1] {
			if c < ' ' || c == 0x7f {
				t.Errorf("a control character got through: %q", b)
			}
		}
	})
}

// sameText compares strictly where the input was valid UTF-8.
func sameText(got, want, in string) bool {
	if utf8.ValidString(in) {
		return got == in
	}
	squeeze := func(s string) string {
		for strings.Contains(s, "\uFFFD\uFFFD") {
			s = strings.ReplaceAll(s, "\uFFFD\uFFFD", "\uFFFD")
		}
		return s
	}
	return squeeze(got) == squeeze(want)
}

// Stock Fiber middleware is used as it comes.

func TestStockRequestID(t *testing.T) {
	r := newRequest("GET").run(requestid.New(), respond(200, "hello"))
	if len(r.header("X-Request-ID")) < 10 || r.body() != "hello" {
		t.Errorf("got %q %q", r.header("X-Request-ID"), r.body())
	}
}

func TestStockCORS(t *testing.T) {
	chain := []fiber.Handler{cors.New(cors.Config{AllowOrigins: "https://app.test"}), func(*fiber.Ctx) error { return reason.RateLimited }}
	r := newRequest("GET", "Origin: https://app.test").run(chain...)
	if r.header("Access-Control-Allow-Origin") != "https://app.test" || r.ctx.Response.StatusCode() != 429 {
		t.Errorf("a refusal behind it: %d, %q", r.ctx.Response.StatusCode(), r.header("Access-Control-Allow-Origin"))
	}
	r = newRequest("OPTIONS", "Origin: https://app.test", "Access-Control-Request-Method: PUT").run(chain...)
	if r.ctx.Response.StatusCode() != 204 || !strings.Contains(r.header("Access-Control-Allow-Methods"), "PUT") {
		t.Errorf("preflight: %d, %q", r.ctx.Response.StatusCode(), r.header("Access-Control-Allow-Methods"))
	}
}

func TestStockETag(t *testing.T) {
	r := newRequest("GET").run(etag.New(), respond(200, "hello"))
	tag := r.header("ETag")
	if tag == "" {
		t.Fatal("no ETag")
	}
	if r = newRequest("GET", "If-None-Match: "+tag).run(etag.New(), respond(200, "hello")); r.ctx.Response.StatusCode() != 304 {
		t.Errorf("got %d", r.ctx.Response.StatusCode())
	}
}

func TestStockCompress(t *testing.T) {
	text := strings.Repeat("hello ", 1000)
	for name, last := range map[string]fiber.Handler{
		"body":   respond(200, text),
		"stream": func(c *fiber.Ctx) error { return c.SendStream(strings.NewReader(text)) },
	} {
		r := newRequest("GET", "Accept-Encoding: gzip").run(compress.New(), func(c *fiber.Ctx) error {
			c.Set("Content-Type", "text/plain")
			return last(c)
		})
		got, err := r.ctx.Response.BodyGunzip()
		if err != nil || string(got) != text || r.header("Content-Encoding") != "gzip" {
			t.Errorf("%s: %d bytes, %q, %v", name, len(got), r.header("Content-Encoding"), err)
		}
	}
}

func TestStockRecoverComesBeforeOurs(t *testing.T) {
	r := newRequest("GET").run(recover.New(), func(*fiber.Ctx) error { panic("x") })
	if r.ctx.Response.StatusCode() != 500 || len(r.panics) != 0 || r.refusal.Reason != reason.Internal {
		t.Errorf("got %d, %v, %+v", r.ctx.Response.StatusCode(), r.panics, r.refusal)
	}
}

func TestStockKeyAuth(t *testing.T) {
	chain := []fiber.Handler{
		keyauth.New(keyauth.Config{Validator: func(_ *fiber.Ctx, key string) (bool, error) {
			if key == "right" {
				return true, nil
			}
			return false, fiber.ErrForbidden
		}, ErrorHandler: func(_ *fiber.Ctx, err error) error { return err }}),
		respond(200, "hello"),
	}
	if r := newRequest("GET", "Authorization: Bearer right").run(chain...); r.body() != "hello" {
		t.Errorf("got %d %q", r.ctx.Response.StatusCode(), r.body())
	}
	if r := newRequest("GET", "Authorization: Bearer wrong").run(chain...); r.ctx.Response.StatusCode() != 403 {
		t.Errorf("got %d %q", r.ctx.Response.StatusCode(), r.body())
	}
}

// closer is an upstream's reply that must be let go of.
type closer struct {
	io.Reader
	closed bool
}

func (c *closer) Close() error { c.closed = true; return nil }

func TestARefusalClosesTheUpstreamsStream(t *testing.T) {
	body := &closer{Reader: strings.NewReader("secret")}
	r := newRequest("GET").run(func(c *fiber.Ctx) error {
		exchange.From(c).Upstream.Status = 200
		c.Response().SetBodyStream(body, -1)
		return reason.UpstreamReset
	})
	if !body.closed || strings.Contains(r.body(), "secret") {
		t.Errorf("closed %v, got %s", body.closed, r.body())
	}
}

// Dispatch is what the pipeline adds to a request.

func dispatch(steps int) (serve func(), ctx *fasthttp.RequestCtx) {
	pass := func(c *fiber.Ctx) error { return c.Next() }
	route := &exchange.Route{Name: "r"}
	for range steps {
		route.Chain = append(route.Chain, pass)
		route.Steps = append(route.Steps, "pass")
	}
	route.Chain = append(route.Chain, func(c *fiber.Ctx) error {
		c.Context().Response.SetStatusCode(204)
		return nil
	})
	route.Steps = append(route.Steps, "last")
	ctx = new(fasthttp.RequestCtx)
	ctx.Request.SetRequestURI("/v1/users")
	ctx.Request.Header.SetHost("a.test")
	run := pipeline.New(nil)
	o := new(request)
	return func() {
		exchange.Acquire(ctx, nil, o).Route = route
		run(ctx)
		ctx.ResetUserValues()
	}, ctx
}

func TestDispatchAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Log("not counted: the race detector allocates too")
		return
	}
	for _, steps := range []int{0, 1, 10, 40} {
		serve, ctx := dispatch(steps)
		if n := testing.AllocsPerRun(1000, serve); n != 0 {
			t.Errorf("%d steps: %v allocations, want 0", steps, n)
		}
		if ctx.Response.StatusCode() != 204 {
			t.Fatalf("got %d", ctx.Response.StatusCode())
		}
	}
}

func refusals(err error) func() {
	ctx := new(fasthttp.RequestCtx)
	ctx.Request.SetRequestURI("/")
	ctx.Response.Header.SetNoDefaultContentType(true)
	route := &exchange.Route{Chain: []fiber.Handler{func(*fiber.Ctx) error { return err }}, Steps: []string{"limit"}}
	run, o := pipeline.New(nil), new(request)
	return func() {
		e := exchange.Acquire(ctx, nil, o)
		e.Route, e.RequestID = route, "01JXYZ"
		run(ctx)
		ctx.ResetUserValues()
	}
}

// A flood that is refused must not cost more than one that is served.
func TestRefusingAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Log("not counted: the race detector allocates too")
		return
	}
	for _, err := range []error{reason.RateLimited, reason.RateLimited.Because("made before")} {
		if n := testing.AllocsPerRun(1000, refusals(err)); n != 0 {
			t.Errorf("%v: %v allocations, want 0", err, n)
		}
	}
}

func BenchmarkDispatch(b *testing.B) {
	for name, steps := range map[string]int{"no plugin": 0, "1 plugin": 1, "10 plugins": 10, "40 plugins": 40} {
		b.Run(name, func(b *testing.B) {
			serve, _ := dispatch(steps)
			b.ReportAllocs()
			for b.Loop() {
				serve()
			}
		})
	}
}

func BenchmarkRefuse(b *testing.B) {
	refuse := refusals(reason.RateLimited)
	b.ReportAllocs()
	for b.Loop() {
		refuse()
	}
}
