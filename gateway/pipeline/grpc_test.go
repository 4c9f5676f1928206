package pipeline_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/grpc"
	"github.com/gatehouse-proxy/gatehouse/gateway/pipeline"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// call is a request that dispatch has found to be a gRPC call.
func call(contentType string) *request {
	r := newRequest("POST", "Content-Type: "+contentType)
	r.e.RPC.Kind, _ = grpc.KindOf([]byte(contentType))
	return r
}

func TestARefusedCallGetsAStatus(t *testing.T) {
	for _, why := range reason.All() {
		r := call("application/grpc+proto; x=y")
		r.e.RequestID = "id\n\u00e9%"
		code, known := grpc.Unknown, false
		r.run(func(c *fiber.Ctx) error {
			err := c.Next()
			code, known = exchange.From(c).RPC.Code, exchange.From(c).RPC.Known
			c.Set("Access-Control-Allow-Origin", "*")
			return err
		}, func(c *fiber.Ctx) error {
			c.Set("Retry-After", "7")
			return why.Because("a secret of the operator")
		})
		want := why.Title + " (reason " + why.Name + ", request id%0A%C3%A9%25)"
		if r.ctx.Response.StatusCode() != 200 || r.header("Content-Type") != "application/grpc+proto" || r.body() != "" {
			t.Errorf("%s: %d, %q, %q", why.Name, r.ctx.Response.StatusCode(), r.header("Content-Type"), r.body())
		}
		if r.header("Grpc-Status") != string(grpc.AppendCode(nil, why.GRPC)) || r.header("Grpc-Message") != want {
			t.Errorf("%s: %q %q, want %d %q", why.Name, r.header("Grpc-Status"), r.header("Grpc-Message"), why.GRPC, want)
		}
		if !known || code != why.GRPC || r.header("Retry-After") != "7" || r.header("Cache-Control") != "no-store" || r.header("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: noted %v %v; fields: %s", why.Name, code, known, &r.ctx.Response.Header)
		}
	}
}

func TestARefusedWebCallGetsAFrame(t *testing.T) {
	const frame = "\x80\x00\x00\x00\x4bgrpc-status:8\r\ngrpc-message:Too many requests. (reason rate_limited, request 1)\r\n"
	for contentType, text := range map[string]bool{"application/grpc-web+proto": false, "application/grpc-web-text": true} {
		r := call(contentType)
		r.e.RequestID = "1"
		r.run(func(*fiber.Ctx) error { return reason.RateLimited })
		body := r.body()
		if text {
			b, err := base64.StdEncoding.DecodeString(body)
			if err != nil {
				t.Fatal(err)
			}
			body = string(b)
		}
		if want := strings.Replace(frame, "\x4b", string(rune(len(frame)-5)), 1); body != want {
			t.Errorf("%s: got %q, want %q", contentType, body, want)
		}
		if r.ctx.Response.StatusCode() != 200 || r.header("Content-Type") != contentType || r.header("Grpc-Status") != "" {
			t.Errorf("%s: %d %s", contentType, r.ctx.Response.StatusCode(), &r.ctx.Response.Header)
		}
	}
}

func TestStatusesOfTheConfigAreTranslated(t *testing.T) {
	for status, want := range map[int]string{0: "14", 503: "14", 404: "12", 429: "8", 504: "4", 418: "13"} {
		r := call("application/grpc").run(func(*fiber.Ctx) error {
			return &reason.Refusal{Reason: reason.Maintenance, Status: status}
		})
		if r.header("Grpc-Status") != want {
			t.Errorf("%d: got %s, want %s", status, r.header("Grpc-Status"), want)
		}
	}
}

func TestARefusedCallDropsTheUpstreamsReply(t *testing.T) {
	r := call("application/grpc").run(func(c *fiber.Ctx) error {
		exchange.From(c).Upstream.Status = 200
		c.Set("Grpc-Status", "0")
		c.Set("X-Upstream", "1")
		return reason.WAFBlocked
	})
	if r.header("Grpc-Status") != "7" || r.header("X-Upstream") != "" {
		t.Errorf("got %s", &r.ctx.Response.Header)
	}
}

func TestAPanicUnderACallIsInternal(t *testing.T) {
	r := call("application/grpc").run(func(*fiber.Ctx) error { panic("x") })
	if r.header("Grpc-Status") != "13" || r.ctx.Response.StatusCode() != 200 {
		t.Errorf("got %s", &r.ctx.Response.Header)
	}
}

func refusedCalls(contentType string) func() {
	ctx := new(fasthttp.RequestCtx)
	ctx.Request.SetRequestURI("/")
	ctx.Request.Header.SetContentType(contentType)
	ctx.Response.Header.SetNoDefaultContentType(true)
	route := &exchange.Route{Chain: []fiber.Handler{func(*fiber.Ctx) error { return reason.RateLimited }}, Steps: []string{"limit"}}
	kind, _ := grpc.KindOf([]byte(contentType))
	run, o := pipeline.New(nil), new(request)
	return func() {
		e := exchange.Acquire(ctx, nil, o)
		e.Route, e.RequestID, e.RPC.Kind = route, "01JXYZ", kind
		run(ctx)
		ctx.ResetUserValues()
	}
}

func TestRefusingACallAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Log("not counted: the race detector allocates too")
		return
	}
	for _, contentType := range []string{"application/grpc", "application/grpc-web", "application/grpc-web-text+proto"} {
		if n := testing.AllocsPerRun(1000, refusedCalls(contentType)); n != 0 {
			t.Errorf("%s: %v allocations, want 0", contentType, n)
		}
	}
}

func BenchmarkRefuseCall(b *testing.B) {
	refuse := refusedCalls("application/grpc")
	b.ReportAllocs()
	for b.Loop() {
		refuse()
	}
}
