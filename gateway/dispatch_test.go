package gateway_test

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/telemetry/accesslog"
)

func TestDispatchComputesHostPathAndClientOnce(t *testing.T) {
	web := listener(t, "web", at("a.test", "/", answer("a")), at("", "/v1", answer("v1")))
	far := listener(t, "far", at("", "/", answer("far")))
	far.Trust = trust("127.0.0.0/8")
	n := newNode(t)
	n.swap(t, snap(web, far))
	url, proxied := n.url(t, "web"), n.url(t, "far")
	for _, c := range []struct {
		url, want string
		fields    []string
	}{
		{url + "/x?q=%2e", "a a.test /x q=%2e 127.0.0.1 http web", []string{"Host: A.test.:8080"}},
		{url + "//v1/./%61/../b", "v1 b.test /v1/b  127.0.0.1 http web", []string{"Host: b.test"}},
		{url + "/v1?", "v1 [::1] /v1  127.0.0.1 http web", []string{"Host: [::1]:80"}},
		// Nobody but a trusted proxy is believed.
		{url + "/v1", "v1 b.test /v1  127.0.0.1 http web", []string{"Host: b.test", "X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https"}},
		{proxied + "/", "far b.test /  203.0.113.9 https far", []string{"Host: b.test", "X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https"}},
		{proxied + "/", "far b.test /  127.0.0.1 http far", []string{"Host: b.test"}},
	} {
		if status, body := get(t, "GET", c.url, c.fields...); status != 200 || body != c.want {
			t.Errorf("%s %q: got %d %q, want %q", c.url, c.fields, status, body, c.want)
		}
	}
}

func TestWhatDispatchRefuses(t *testing.T) {
	web := listener(t, "web", at("", "/", answer("all")))
	n := newNode(t)
	n.swap(t, snap(web))
	for _, c := range []struct {
		line, want string
		why        *reason.Reason
	}{
		{"GET /a%2fb HTTP/1.1", "400", reason.AmbiguousPath},
		{"GET /a/..;/b HTTP/1.1", "400", reason.AmbiguousPath},
		{"FROBNICATE / HTTP/1.1", "501", reason.MethodRefused},
		{"get / HTTP/1.1", "501", reason.MethodRefused},
	} {
		got := raw(t, n.url(t, "web"), c.line+"\r\nHost: a.test\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 "+c.want) || !strings.Contains(got, `"reason":"`+c.why.Name+`"`) {
			t.Errorf("%s: got %s", c.line, got)
		}
	}
	if v := n.metric(t, "gatehouse_route_refusals_total method_refused"); v != "2" {
		t.Errorf("%s refusals were counted", v)
	}
	if got := raw(t, n.url(t, "web"), "OPTIONS * HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"); !strings.HasSuffix(got, "all a.test *  127.0.0.1 http web") {
		t.Errorf("OPTIONS *: got %s", got) // the prefix / is any path
	}
}

func TestNoRouteRunsTheGlobalPlugins(t *testing.T) {
	web := listener(t, "web", at("a.test", "/", answer("a")))
	web.NoRoute = noRoute(func(c *fiber.Ctx) error {
		c.Set("X-Global", exchange.From(c).Route.Name)
		return c.Next()
	})
	n := newNode(t)
	n.swap(t, snap(web))
	got := raw(t, n.url(t, "web"), "GET / HTTP/1.1\r\nHost: b.test\r\nConnection: close\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 404") || !strings.Contains(got, "X-Global: none") || !strings.Contains(got, "no_route") {
		t.Errorf("got %s", got)
	}
}

func TestWhatAPluginDoesToTheRawRequestDoesNotMoveTheRoute(t *testing.T) {
	web := listener(t, "web", at("", "/", chain("r",
		func(c *fiber.Ctx) error {
			c.Request().Header.SetHost("evil.test")
			c.Request().SetRequestURI("/admin/../../etc?x=2")
			c.Request().Header.Set("Host", "worse.test")
			return c.Next()
		}, answer("x").Chain[0])))
	n := newNode(t)
	n.swap(t, snap(web))
	if _, body := get(t, "GET", n.url(t, "web")+"/public/page?x=1", "Host: good.test"); body != "x good.test /public/page x=1 127.0.0.1 http web" {
		t.Errorf("got %q", body)
	}
}

func TestAPanickingPluginIsNamed(t *testing.T) {
	web := listener(t, "web", at("", "/", chain("broken",
		func(c *fiber.Ctx) error { return c.Next() },
		func(*fiber.Ctx) error { panic("oh no") })))
	n := newNode(t)
	n.swap(t, snap(web))
	if status, body := get(t, "GET", n.url(t, "web")); status != 500 || strings.Contains(body, "oh no") {
		t.Errorf("got %d %s", status, body)
	}
	for _, want := range []string{`panic="oh no"`, "route=broken", "plugin=step1", "dispatch_test.go"} {
		if !strings.Contains(n.log.String(), want) {
			t.Errorf("the log does not say %s:\n%s", want, n.log)
		}
	}
	if v := n.metric(t, "gatehouse_node_panics_total"); v != "1" {
		t.Errorf("%s panics were counted", v)
	}
}

func TestTheAccessLogTellsWhatBecameOfARequest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	log, err := accesslog.Open(accesslog.Settings{Path: path, Format: "json", Sample: 1})
	if err != nil {
		t.Fatal(err)
	}
	web := listener(t, "web",
		at("", "/", answer("fine")),
		at("", "/limited", chain("limited",
			func(c *fiber.Ctx) error {
				e := exchange.From(c)
				e.RequestID = "id-1"
				e.Identity = exchange.Identity{Method: "jwt", Subject: "sub-1", Consumer: &exchange.Consumer{Name: "alice"}}
				e.WAF = exchange.WAFInfo{Policy: "default", Mode: "detect", Score: 5, Rules: []int{942100}}
				return c.Next()
			},
			func(*fiber.Ctx) error { return reason.RateLimited.Because("30 a minute") })))
	n := newNode(t, func(s *gateway.Settings) { s.AccessLog = log })
	n.swap(t, snap(web))
	url := n.url(t, "web")
	get(t, "GET", url+"/hello?q=1", "User-Agent: tester")
	get(t, "GET", url+"/limited")
	raw(t, url, "GET /x y HTTP/1.1\r\nHost: a\r\n\r\n")
	get(t, "GET", url+"/%2f")
	if err := n.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := log.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	want := map[string][]string{ // by path
		"/hello":   {`"route":"fine"`, `"query":"q=1"`, `"status":200`, `"listener":"web"`, `"client":"127.0.0.1"`, "tester"},
		"/limited": {`"route":"limited"`, `"status":429`, "RL", "rate_limited", "30 a minute", "step1", "id-1", "alice", "sub-1", "jwt", "942100"},
		"/x":       {"bad_target", `"status":400`, "parser"},
		"/%2f":     {"ambiguous_path", `"status":400`, "dispatch"},
	}
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(lines), len(want), text)
	}
	for path, parts := range want {
		i := slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, `"path":"`+path+`"`) })
		if i < 0 {
			t.Errorf("no line of %s:\n%s", path, text)
			continue
		}
		for _, p := range parts {
			if !strings.Contains(lines[i], p) {
				t.Errorf("the line of %s lacks %s: %s", path, p, lines[i])
			}
		}
	}
}

func TestExplainTellsWhatDispatchWouldDo(t *testing.T) {
	web := listener(t, "web", at("a.test", "/v1", answer("v1")), at("a.test", "/", answer("rest")))
	for _, c := range []struct{ method, host, target, route, path, refused string }{
		{"GET", "A.test:80", "/v1/./x?q=1", "v1", "/v1/x", ""},
		{"GET", "a.test", "/v10", "rest", "/v10", ""},
		{"GET", "b.test", "/", "", "/", ""},
		{"GET", "a.test", "/a%2fb", "", "", "400 ambiguous_path"},
		{"FOO", "a.test", "/", "", "", "501 method_refused"},
	} {
		var h fasthttp.RequestHeader
		h.SetMethod(c.method)
		h.SetHost(c.host)
		h.SetRequestURI(c.target)
		x := gateway.Explain(web, &h)
		if x.Route != c.route || x.Path != c.path || x.Refused != c.refused {
			t.Errorf("%s %s%s: got %+v", c.method, c.host, c.target, x)
		}
		if c.route != "" && (len(x.Candidates) == 0 || x.Candidates[len(x.Candidates)-1].Route != c.route) {
			t.Errorf("%s%s: candidates %+v", c.host, c.target, x.Candidates)
		}
	}
}

// front is a client's side that costs nothing.
type front struct {
	exchange.Front
	protocol string // empty: HTTP/1.1
	upgrade  bool
	cut      bool
}

// EachField implements exchange.Front.
func (*front) EachField(f func(name, value []byte) bool) {
	for _, x := range fields {
		if !f(x[0], x[1]) {
			return
		}
	}
}

var fields = [][2][]byte{{[]byte("Host"), []byte("api.example.com")}, {[]byte("User-Agent"), []byte("curl/8")}}

func (f *front) Protocol() string             { return cmp.Or(f.protocol, "HTTP/1.1") }
func (f *front) WantsUpgrade() ([]byte, bool) { return nil, f.upgrade }
func (f *front) ReplyBytes() int64            { return 0 }
func (f *front) RequestBytes() int64          { return 0 }
func (f *front) Cut()                         { f.cut = true }

// dispatch returns a function that serves one request without a socket.
func dispatch(t testing.TB, url string, edit ...func(*gateway.Settings)) (func(), *fasthttp.RequestCtx, *gateway.Gateway) {
	web := listener(t, "web",
		at("api.example.com", "/v1/users", chain("users",
			func(c *fiber.Ctx) error { return c.Next() },
			func(c *fiber.Ctx) error { c.Context().SetStatusCode(204); return nil })))
	web.Trust = trust("192.0.2.0/24")
	m := newMetrics()
	s := gateway.Settings{Metrics: m}
	for _, f := range edit {
		f(&s)
	}
	g := gateway.New(s)
	gateway.SetCurrent(g, snap(web))
	serve := gateway.Door(g, "127.0.0.1:0 web")
	ctx := newCtx(url)
	f := &front{}
	return func() {
		fill(ctx, url)
		serve(ctx, f)
		ctx.Request.Reset() // ends the exchange, as the server does
		ctx.Response.Reset()
		ctx.ResetUserValues()
	}, ctx, g
}

func TestDispatchAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Log("not counted: the race detector allocates too")
		return
	}
	log, err := accesslog.Open(accesslog.Settings{Path: filepath.Join(t.TempDir(), "access.log"), Format: "json", Sample: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close(context.Background())
	for name, url := range map[string]string{
		"plain":         "/v1/users?id=1",
		"not normal":    "/v1//./users/%61",
		"refused path":  "/v1/%2f",
		"no such route": "/v2",
	} {
		serve, _, _ := dispatch(t, url)
		if n := testing.AllocsPerRun(1000, serve); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
	serve, _, _ := dispatch(t, "/v1/users?id=1", func(s *gateway.Settings) { s.AccessLog = log })
	if n := testing.AllocsPerRun(1000, serve); n != 0 {
		t.Errorf("with an access log: %v allocations, want 0", n)
	}
}

func TestARequestBehindTheEndIsCut(t *testing.T) {
	_, _, g := dispatch(t, "/")
	g.Current().Release()
	<-g.Current().Retired()
	f := &front{}
	ctx := newCtx("/")
	if gateway.Door(g, "127.0.0.1:0 web")(ctx, f); !f.cut {
		t.Error("it was served from a snapshot that is closed")
	}
}

func TestAListenerThatIsGoneRefuses(t *testing.T) {
	_, _, g := dispatch(t, "/")
	ctx := newCtx("/")
	gateway.Door(g, "127.0.0.1:0 other")(ctx, &front{})
	if ctx.Response.StatusCode() != 503 || !ctx.Response.ConnectionClose() || !strings.Contains(string(ctx.Response.Body()), "draining") {
		t.Errorf("got %s", &ctx.Response)
	}
	ctx.ResetUserValues()
}

// What is no tunnel must not look like one to a client whose CONNECT any success
// answers.
func TestAPageIsNoWebSocket(t *testing.T) {
	status := 0
	web := listener(t, "web", at("", "/", chain("page", func(c *fiber.Ctx) error {
		return c.Status(status).SendString("a page")
	})))
	m := newMetrics()
	g := gateway.New(gateway.Settings{Metrics: m})
	gateway.SetCurrent(g, snap(web))
	serve := gateway.Door(g, "127.0.0.1:0 web")
	for _, c := range []struct {
		front        front
		status, want int
	}{
		{front{protocol: "HTTP/2.0", upgrade: true}, 200, 501},
		{front{protocol: "HTTP/2.0", upgrade: true}, 204, 501},
		{front{protocol: "HTTP/3.0", upgrade: true}, 299, 501},
		{front{protocol: "HTTP/2.0", upgrade: true}, 101, 101},
		{front{protocol: "HTTP/2.0", upgrade: true}, 302, 302},
		{front{protocol: "HTTP/2.0", upgrade: true}, 403, 403},
		{front{protocol: "HTTP/2.0"}, 200, 200},
		{front{upgrade: true}, 200, 200}, // HTTP/1 clients know
	} {
		status = c.status
		ctx := newCtx("/")
		serve(ctx, &c.front)
		page := string(ctx.Response.Body()) == "a page"
		if got := ctx.Response.StatusCode(); got != c.want || page != (c.want == c.status) {
			t.Errorf("%+v, %d: got %s", c.front, c.status, &ctx.Response)
		}
		refused := exchange.FromRequest(ctx).Refusal
		if (refused != nil) != (c.want == 501) || refused != nil && refused.Reason != reason.UpstreamNoUpgrade {
			t.Errorf("%+v, %d: %+v", c.front, c.status, refused)
		}
		ctx.ResetUserValues()
	}
}

func BenchmarkServe(b *testing.B) {
	log, err := accesslog.Open(accesslog.Settings{Path: filepath.Join(b.TempDir(), "access.log"), Format: "json", Sample: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close(context.Background())
	for name, edit := range map[string]func(*gateway.Settings){
		"bare":       func(*gateway.Settings) {},
		"access log": func(s *gateway.Settings) { s.AccessLog = log },
	} {
		b.Run(name, func(b *testing.B) {
			serve, _, _ := dispatch(b, "/v1/users?id=1", edit)
			b.ReportAllocs()
			for b.Loop() {
				serve()
			}
		})
	}
}

var peer = netip.MustParseAddrPort("198.51.100.7:4711")

func newCtx(url string) *fasthttp.RequestCtx {
	ctx := new(fasthttp.RequestCtx)
	ctx.Init(new(fasthttp.Request), net.TCPAddrFromAddrPort(peer), nil)
	fill(ctx, url)
	return ctx
}

// fill makes the request anew.
func fill(ctx *fasthttp.RequestCtx, url string) {
	h := &ctx.Request.Header
	h.SetRequestURI(url)
	h.SetHostBytes(fields[0][1])
	h.SetBytesKV(fields[1][0], fields[1][1])
}
