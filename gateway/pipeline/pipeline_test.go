package pipeline_test

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/pipeline"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/telemetry"
)

// request is one request on its way through a chain.
type request struct {
	ctx fasthttp.RequestCtx
	e   *exchange.Exchange
	// refusal and refusedBy are what was left when the request was over.
	refusal   *reason.Refusal
	refusedBy string
	panics    []string
}

func (r *request) Finish(e *exchange.Exchange) { r.refusal, r.refusedBy = e.Refusal, e.RefusedBy }

func newRequest(method string, fields ...string) *request {
	r := new(request)
	var q fasthttp.Request
	q.Header.SetMethod(method)
	q.SetRequestURI("/v1/users?q=1")
	q.Header.SetHost("a.test")
	for _, f := range fields {
		k, v, _ := strings.Cut(f, ": ")
		q.Header.Add(k, v)
	}
	r.ctx.Init(&q, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 4711}, nil)
	r.ctx.Response.Header.SetNoDefaultContentType(true)
	r.e = exchange.Acquire(&r.ctx, nil, r)
	return r
}

// run sends r through a chain whose steps are called 0, 1, 2, …
func (r *request) run(chain ...fiber.Handler) *request {
	r.e.Route = &exchange.Route{Name: "test", Chain: chain}
	for i := range chain {
		r.e.Route.Steps = append(r.e.Route.Steps, fmt.Sprint(i))
	}
	pipeline.New(func(_ *exchange.Exchange, v any, stack []byte) {
		r.panics = append(r.panics, fmt.Sprintf("%v %v", v, len(stack) > 0))
	})(&r.ctx)
	r.ctx.ResetUserValues()
	return r
}

func (r *request) header(name string) string { return string(r.ctx.Response.Header.Peek(name)) }
func (r *request) body() string              { return string(r.ctx.Response.Body()) }

func respond(status int, body string) fiber.Handler {
	return func(c *fiber.Ctx) error { return c.Status(status).SendString(body) }
}

func TestStepsRunInOrderAndBackAgain(t *testing.T) {
	var seen []string
	around := func(name string) fiber.Handler {
		return func(c *fiber.Ctx) error {
			seen = append(seen, name)
			err := c.Next()
			seen = append(seen, name+" back")
			return err
		}
	}
	r := newRequest("GET").run(around("a"), around("b"), respond(201, "hello"))
	if want := []string{"a", "b", "b back", "a back"}; !slices.Equal(seen, want) {
		t.Errorf("got %v", seen)
	}
	if r.ctx.Response.StatusCode() != 201 || r.body() != "hello" || r.refusal != nil {
		t.Errorf("got %d %q, refusal %v", r.ctx.Response.StatusCode(), r.body(), r.refusal)
	}
}

func TestARefusalBecomesAReplyWhereItIsReturned(t *testing.T) {
	var status int
	var err error
	ran := false
	r := newRequest("GET").run(
		func(c *fiber.Ctx) error {
			err = c.Next()
			status = c.Response().StatusCode()
			c.Set("X-Outer", "was here")
			return err
		},
		func(c *fiber.Ctx) error {
			c.Set("Retry-After", "7")
			return reason.RateLimited.Because("10 a second for %s", "alice")
		},
		func(*fiber.Ctx) error { ran = true; return nil },
	)
	if err != nil || status != 429 || ran {
		t.Errorf("the plugin before sees %v and status %d; the one behind ran: %v", err, status, ran)
	}
	if r.header("X-Outer") != "was here" || r.header("Retry-After") != "7" {
		t.Error("what plugins have set got lost")
	}
	if r.refusal == nil || r.refusal.Reason != reason.RateLimited || r.refusal.Detail != "10 a second for alice" || r.refusedBy != "1" {
		t.Errorf("noted is %+v by %q", r.refusal, r.refusedBy)
	}
	if strings.Contains(r.body(), "alice") {
		t.Errorf("the detail went to the client: %s", r.body())
	}
}

func TestWhatErrorsBecome(t *testing.T) {
	cause := errors.New("the vault is sealed")
	for _, c := range []struct {
		err    error
		status int
		want   *reason.Reason
	}{
		{reason.Forbidden, 403, reason.Forbidden},
		{reason.AuthUnavailable.Wrap(cause), 503, reason.AuthUnavailable},
		{fmt.Errorf("plugin: %w", reason.Unauthenticated), 401, reason.Unauthenticated},
		{&reason.Refusal{Reason: reason.Maintenance, Status: 599}, 599, reason.Maintenance},
		{reason.AuthUnavailable.Wrap(fiber.ErrTeapot), 503, reason.AuthUnavailable},
		{reason.Internal.Wrap(fiber.ErrTeapot), 500, reason.Internal},
		{cause, 500, reason.Internal},
		{fiber.ErrTeapot, 418, reason.PluginRefused},
		{fiber.NewError(404, "secret"), 404, reason.PluginRefused},
		{fmt.Errorf("wrapped: %w", fiber.ErrServiceUnavailable), 503, reason.Internal},
		{fiber.NewError(200, "not an error"), 500, reason.Internal},
		{fiber.NewError(-1), 500, reason.Internal},
		{fiber.NewError(9000), 500, reason.Internal},
	} {
		r := newRequest("GET").run(func(*fiber.Ctx) error { return c.err })
		if r.ctx.Response.StatusCode() != c.status || r.refusal.Reason != c.want {
			t.Errorf("%v: got %d %s, want %d %s", c.err, r.ctx.Response.StatusCode(), r.refusal.Reason.Name, c.status, c.want.Name)
		}
		if strings.Contains(r.body(), "secret") || strings.Contains(r.body(), "vault") {
			t.Errorf("%v: the cause went to the client: %s", c.err, r.body())
		}
	}
}

func TestTheCauseThatWasNotedFirstIsKept(t *testing.T) {
	r := newRequest("POST").run(func(c *fiber.Ctx) error {
		exchange.From(c).Refuse(reason.BodyTooLarge.Because("after 10 bytes")) // a body reader, deep below
		return reason.BodyTooLarge
	})
	if r.refusal.Detail != "after 10 bytes" {
		t.Errorf("got %+v", r.refusal)
	}
	r = newRequest("POST").run(func(c *fiber.Ctx) error {
		exchange.From(c).Refuse(reason.BodyTooLarge)
		return reason.WAFBlocked // another decision
	})
	if r.refusal.Reason != reason.WAFBlocked || r.ctx.Response.StatusCode() != 403 {
		t.Errorf("got %+v", r.refusal)
	}
}

func TestARefusalDropsWhatTheUpstreamAnswered(t *testing.T) {
	answer := func(c *fiber.Ctx) error {
		exchange.From(c).Upstream.Status = 200
		c.Set("X-Upstream-Secret", "1")
		c.Set("Content-Encoding", "br")
		c.Set("Set-Cookie", "session=1")
		return c.SendString("card number 4111 1111 1111 1111")
	}
	r := newRequest("GET").run(func(c *fiber.Ctx) error {
		if err := c.Next(); err != nil {
			return err
		}
		return reason.WAFBlocked
	}, answer)
	for _, h := range []string{"X-Upstream-Secret", "Content-Encoding", "Set-Cookie"} {
		if r.header(h) != "" {
			t.Errorf("%s was passed on", h)
		}
	}
	if strings.Contains(r.body(), "4111") || r.ctx.Response.StatusCode() != 403 {
		t.Errorf("got %d %s", r.ctx.Response.StatusCode(), r.body())
	}
	if ct := r.header("Content-Type"); ct != "application/problem+json" {
		t.Errorf("the type is %q", ct)
	}
}

func TestChainsLongerThanFibersStack(t *testing.T) {
	for _, n := range []int{1, 31, 32, 33, 34, 64, 65, 200} {
		var order []int
		chain := make([]fiber.Handler, n)
		for i := range chain {
			chain[i] = func(c *fiber.Ctx) error {
				order = append(order, i)
				if i == n-1 {
					return c.SendString("end")
				}
				return c.Next()
			}
		}
		r := newRequest("GET").run(chain...)
		if len(order) != n || !slices.IsSorted(order) || r.body() != "end" {
			t.Errorf("%d steps: ran %v, answered %q", n, order, r.body())
		}
	}
}

func TestNextMayBeCalledSeveralTimes(t *testing.T) {
	for _, before := range []int{0, 5, 30, 31, 40} {
		calls, inner := 0, 0
		pass := func(c *fiber.Ctx) error { return c.Next() }
		chain := slices.Repeat([]fiber.Handler{pass}, before)
		chain = append(chain,
			func(c *fiber.Ctx) (err error) {
				for range 50 { // more than the stack is wide
					if err = c.Next(); c.Response().StatusCode() < 500 {
						break
					}
				}
				return err
			},
			func(c *fiber.Ctx) error { inner++; return c.Next() },
			func(c *fiber.Ctx) error {
				if calls++; calls < 45 {
					return reason.UpstreamReset
				}
				exchange.From(c).Refusal = nil
				return c.Status(200).SendString("at last")
			})
		r := newRequest("GET").run(chain...)
		if calls != 45 || inner != 45 || r.body() != "at last" || r.ctx.Response.StatusCode() != 200 {
			t.Errorf("%d before: %d calls, %d through the middle, got %d %q", before, calls, inner, r.ctx.Response.StatusCode(), r.body())
		}
	}
}

func TestTheLastPluginMayNotCallNext(t *testing.T) {
	r := newRequest("GET").run(func(c *fiber.Ctx) error { return c.Next() })
	if r.ctx.Response.StatusCode() != 500 || r.refusal.Reason != reason.Internal || !strings.Contains(r.refusal.Detail, "route test") {
		t.Errorf("got %d, %+v", r.ctx.Response.StatusCode(), r.refusal)
	}
}

func TestAPanicIsOneRequestsAlone(t *testing.T) {
	r := newRequest("GET").run(
		func(c *fiber.Ctx) error { c.Set("X-Outer", "1"); return c.Next() },
		func(*fiber.Ctx) error { panic(errors.New("a nil map, say")) },
		respond(200, "never"),
	)
	if r.ctx.Response.StatusCode() != 500 || !r.ctx.Response.ConnectionClose() || strings.Contains(r.body(), "nil map, say") {
		t.Errorf("got %d, close %v, %s", r.ctx.Response.StatusCode(), r.ctx.Response.ConnectionClose(), r.body())
	}
	if len(r.panics) != 1 || !strings.HasPrefix(r.panics[0], "a nil map, say true") {
		t.Errorf("told was %v", r.panics)
	}
	if r.refusal.Reason != reason.PluginPanic || r.refusedBy != "1" {
		t.Errorf("noted is %+v by %q", r.refusal, r.refusedBy)
	}
	if r.header("X-Outer") != "" {
		t.Error("a reply in an unknown state was passed on")
	}
	run := pipeline.New(nil)
	q := newRequest("GET")
	q.e.Route = &exchange.Route{Chain: []fiber.Handler{func(*fiber.Ctx) error { panic("x") }}, Steps: []string{"x"}}
	if run(&q.ctx); q.ctx.Response.StatusCode() != 500 {
		t.Error("without a callback there was no reply")
	}
}

func TestEveryMethodReachesTheChain(t *testing.T) {
	for _, m := range pipeline.Methods {
		if !pipeline.KnowsMethod([]byte(m)) {
			t.Errorf("%s is not known", m)
		}
		r := newRequest(m).run(func(c *fiber.Ctx) error { return c.SendString(c.Method()) })
		if got := r.body(); got != m || r.ctx.Response.StatusCode() != 200 {
			t.Errorf("%s: got %d %q", m, r.ctx.Response.StatusCode(), got)
		}
	}
	for _, m := range []string{"", "get", "TRACE", "CONNECT", "PRI", "FOO"} {
		if pipeline.KnowsMethod([]byte(m)) {
			t.Errorf("%q is known", m)
		}
	}
}

func TestOddTargetsReachTheChain(t *testing.T) {
	for _, target := range []string{"*", "//evil.test/x", "/%2e%2e/", "/a?b?c", "/" + strings.Repeat("a/", 2000), "/\xff", "/:x/*"} {
		r := newRequest("OPTIONS")
		r.ctx.Request.Header.SetRequestURI(target)
		if r.run(respond(200, "here")); r.body() != "here" {
			t.Errorf("%q: got %d %q", target, r.ctx.Response.StatusCode(), r.body())
		}
	}
}

// span notes which steps it is told of.
type span struct {
	telemetry.Span
	log []string
}

func (s *span) Step(name string, _ time.Time, own time.Duration, failure string) {
	s.log = append(s.log, fmt.Sprint(name, " ", own, " ", failure))
}

func TestATraceShowsTheStepsThatTookTimeOrRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(span)
		r := newRequest("GET")
		r.e.Span = s
		wait := func(d time.Duration) fiber.Handler {
			return func(c *fiber.Ctx) error {
				time.Sleep(d)
				err := c.Next()
				time.Sleep(d)
				return err
			}
		}
		r.run(wait(0), wait(time.Second), wait(time.Millisecond), func(*fiber.Ctx) error { return reason.Forbidden })
		want := []string{"3 0s forbidden", "2 2ms ", "1 2s "}
		if !slices.Equal(s.log, want) {
			t.Errorf("got %q, want %q", s.log, want)
		}
		s.log = nil
		r = newRequest("GET")
		r.e.Span = s
		r.run(wait(0), func(*fiber.Ctx) error { time.Sleep(time.Hour); return nil })
		if len(s.log) != 0 {
			t.Errorf("the upstream's time is not a plugin's: %q", s.log)
		}
	})
}
