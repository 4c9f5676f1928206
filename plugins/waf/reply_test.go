package waf_test

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
	engine "github.com/gatehouse-proxy/gatehouse/waf"
)

const revealed = "<b>You have an error in your SQL syntax; check the manual that corresponds to your MySQL server version for the right syntax to use</b>"

// answers is an upstream with one reply, streamed as the proxy streams it.
func answers(status int, kind, body string, edit ...func(*fiber.Ctx)) fiber.Handler {
	return func(c *fiber.Ctx) error {
		exchange.From(c).Upstream.Status = status
		c.Status(status).Set("Content-Type", kind)
		for _, e := range edit {
			e(c)
		}
		c.Context().SetBodyStream(strings.NewReader(body), len(body))
		return nil
	}
}

func inspecting() plugins.WAFPolicy {
	pol := defaultPolicy()
	pol.ResponseBody = true
	return pol
}

func through(t testing.TB, p plugins.Instance, upstream fiber.Handler) plugintest.Reply {
	t.Helper()
	return plugintest.Do(t, plugintest.Request{Raw: get("/page", "chair")}, p.Handle, upstream)
}

func TestReplyBodies(t *testing.T) {
	p := newInstance(t, inspecting())
	for _, kind := range []string{"text/html", "Text/HTML; charset=utf-8", "application/json"} {
		refused(t, through(t, p, answers(500, kind, revealed)), reason.WAFBlocked)
		r := through(t, p, answers(201, kind, "<p>fine</p>"))
		if r.Status != 201 || r.Body != "<p>fine</p>" {
			t.Fatalf("%s: %d %q", kind, r.Status, r.Body)
		}
	}
	ev := p.sink.all()
	if len(ev) == 0 || ev[0].ReplyScore < 4 || !slices.ContainsFunc(ev[0].Matches, func(m engine.Match) bool { return slices.Contains(m.Tags, "attack-disclosure") }) {
		t.Fatalf("events %+v", ev)
	}
	gzip := func(c *fiber.Ctx) { c.Set("Content-Encoding", "gzip") }
	for name, up := range map[string]fiber.Handler{
		"image":      answers(200, "image/png", revealed),
		"compressed": answers(200, "text/html", revealed, gzip),
	} {
		if r := through(t, p, up); r.Status != 200 || r.Body != revealed {
			t.Errorf("%s: %d %q", name, r.Status, r.Body)
		}
	}
	if r := through(t, newInstance(t, defaultPolicy()), answers(500, "text/html", revealed)); r.Status != 500 || r.Body != revealed {
		t.Errorf("without response_body: %d %q", r.Status, r.Body)
	}
}

func TestReplyTypesOfThePolicy(t *testing.T) {
	pol := inspecting()
	pol.ResponseContentTypes = []string{"Text/CSV"}
	p := newInstance(t, pol)
	refused(t, through(t, p, answers(200, "text/csv", revealed)), reason.WAFBlocked)
	if r := through(t, p, answers(200, "text/html", revealed)); r.Body != revealed {
		t.Fatalf("%d %q", r.Status, r.Body)
	}
}

func TestLongReplyIsInspectedUpToTheLimit(t *testing.T) {
	pol := inspecting()
	pol.ResponseBodyLimit = 1024
	p := newInstance(t, pol)
	long := strings.Repeat("<p>fine</p>", 500)
	if r := through(t, p, answers(200, "text/html", long)); r.Body != long {
		t.Fatalf("%d bytes of %d", len(r.Body), len(long))
	}
	refused(t, through(t, p, answers(200, "text/html", revealed+long)), reason.WAFBlocked)
	if r := through(t, p, answers(200, "text/html", long+revealed)); r.Body != long+revealed {
		t.Fatalf("%d bytes", len(r.Body))
	}
}

func TestRepliesInDetectMode(t *testing.T) {
	pol := inspecting()
	pol.Mode = "detect"
	p := newInstance(t, pol)
	if r := through(t, p, answers(500, "text/html", revealed)); r.Status != 500 || r.Body != revealed {
		t.Fatalf("%d %q", r.Status, r.Body)
	}
	if ev := p.sink.all(); len(ev) != 1 || ev[0].Action != "detected" {
		t.Fatalf("events %+v", ev)
	}
}

func TestReplyStatusRule(t *testing.T) {
	pol := defaultPolicy()
	pol.ParanoiaLevel, pol.DetectionParanoiaLevel = 2, 2
	p := newInstance(t, pol)
	refused(t, through(t, p, answers(500, "text/html", "oops")), reason.WAFBlocked) // 950100: a 5xx status
	pol.Rules = `SecRule RESPONSE_HEADERS:X-Powered-By "@rx ." "id:1,phase:3,deny,log,msg:'tells too much'"`
	pol.ParanoiaLevel, pol.DetectionParanoiaLevel = 1, 1
	p = newInstance(t, pol)
	powered := func(c *fiber.Ctx) { c.Set("X-Powered-By", "PHP/4") }
	refused(t, through(t, p, answers(200, "text/html", "x", powered)), reason.WAFBlocked)
	passes(t, through(t, p, answers(200, "text/html", "x")))
}

// endless is a body that never ends and must not be read.
type endless struct{ t testing.TB }

func (e endless) Read([]byte) (int, error) {
	e.t.Error("the stream was read by the WAF")
	return 0, io.ErrUnexpectedEOF
}

func TestStreamsAreNotTouched(t *testing.T) {
	p := newInstance(t, inspecting())
	for name, edit := range map[string]func(*fiber.Ctx, *exchange.Exchange){
		"stream":     func(c *fiber.Ctx, e *exchange.Exchange) { e.Stream = true; c.Set("Content-Type", "text/plain") },
		"events":     func(c *fiber.Ctx, _ *exchange.Exchange) { c.Set("Content-Type", "text/event-stream; charset=utf-8") },
		"grpc":       func(c *fiber.Ctx, _ *exchange.Exchange) { c.Set("Content-Type", "application/grpc+proto") },
		"upgrade":    func(c *fiber.Ctx, _ *exchange.Exchange) { c.Status(101) },
		"own answer": func(c *fiber.Ctx, e *exchange.Exchange) { e.Refusal = reason.UpstreamTimeout.Because("x") },
	} {
		t.Run(name, func(t *testing.T) {
			var touched bool
			up := func(c *fiber.Ctx) error {
				e := exchange.From(c)
				e.Upstream.Status = 200
				edit(c, e)
				c.Context().SetBodyStream(endless{t}, -1)
				return nil
			}
			outer := func(c *fiber.Ctx) error {
				err := c.Next()
				touched = !c.Response().IsBodyStream()
				c.Response().ResetBody() // so that the harness does not read it
				return err
			}
			plugintest.Do(t, plugintest.Request{Raw: get("/", "x")}, outer, p.Handle, up)
			if touched {
				t.Error("the stream was replaced")
			}
		})
	}
}

func TestWebSocketHandshakeIsInspected(t *testing.T) {
	p := newInstance(t, inspecting())
	shake := func(target string) string {
		return "GET " + target + " HTTP/1.1\r\nHost: a.test\r\nUser-Agent: tests\r\nAccept: */*\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	}
	up := func(c *fiber.Ctx) error {
		exchange.From(c).Upstream.Status = 101
		return c.SendStatus(101)
	}
	if r := plugintest.Do(t, plugintest.Request{Raw: shake("/chat?room=1")}, p.Handle, up); r.Status != 101 {
		t.Fatalf("status %d, %v", r.Status, r.Refusal)
	}
	refused(t, plugintest.Do(t, plugintest.Request{Raw: shake("/chat?room=1%27+OR+%271%27%3D%271")}, p.Handle, up), reason.WAFBlocked)
}

// An inspected reply must not be compressed; the client's wish is kept for
// plugins around this one.
func TestUpstreamIsAskedForPlainReplies(t *testing.T) {
	raw := strings.Replace(get("/", "x"), "Accept: */*\r\n", "Accept: */*\r\nAccept-Encoding: gzip, br\r\n", 1)
	for _, c := range []struct {
		policy plugins.WAFPolicy
		want   string
	}{{inspecting(), ""}, {defaultPolicy(), "gzip, br"}} {
		p := newInstance(t, c.policy)
		var inside, after string
		up := func(c *fiber.Ctx) error {
			inside = strings.Clone(c.Get("Accept-Encoding"))
			return plugintest.Upstream(c)
		}
		outer := func(c *fiber.Ctx) error {
			err := c.Next()
			after = strings.Clone(c.Get("Accept-Encoding"))
			return err
		}
		plugintest.Do(t, plugintest.Request{Raw: raw}, outer, p.Handle, up)
		if inside != c.want || after != "gzip, br" {
			t.Errorf("upstream saw %q, want %q; afterwards %q", inside, c.want, after)
		}
	}
}
