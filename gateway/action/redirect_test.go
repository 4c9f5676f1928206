package action_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
	"pgregory.net/rapid"

	"github.com/gatehouse-proxy/gatehouse/gateway/action"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/target"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

func redirect(t testing.TB, s action.RedirectSettings) *action.Redirect {
	t.Helper()
	r, err := action.NewRedirect(s)
	if err != nil {
		t.Fatalf("%+v: %v", s, err)
	}
	return r
}

// ask sends a request for host and path?query through h, as dispatch would.
func ask(t testing.TB, h fiber.Handler, host, uri string, edit func(*exchange.Exchange)) plugintest.Reply {
	t.Helper()
	return plugintest.Do(t, plugintest.Request{Raw: "GET " + uri + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n", Edit: func(e *exchange.Exchange) {
		name, _ := target.Host(nil, []byte(host))
		e.Host = string(name)
		if edit != nil {
			edit(e)
		}
	}}, h)
}

func TestRedirect(t *testing.T) {
	f := func(s action.RedirectSettings, host, uri, want string) {
		t.Helper()
		r := ask(t, redirect(t, s).Handle, host, uri, func(e *exchange.Exchange) {
			e.Identity.Claims = map[string]any{"t": "a/b?c#d e"}
		})
		status := s.Status
		if status == 0 {
			status = 302
		}
		if got := string(r.Header.Peek("Location")); got != want || r.Status != status || r.Body != "" {
			t.Errorf("%+v, %s%s: %d %s, want %s", s, host, uri, r.Status, got, want)
		}
	}
	https := action.RedirectSettings{Scheme: "https", Status: 301, Query: true}
	f(https, "A.example:8080", "/x/y?z=1", "https://a.example/x/y?z=1")
	f(https, "a.example.", "/", "https://a.example/")
	f(https, "a.example", "//evil.example/x", "https://a.example//evil.example/x")
	f(https, "[2001:db8::1]:80", "/a", "https://[2001:db8::1]/a")
	f(https, "a.example", "/a?b\"<>\\\xc3\xa4", "https://a.example/a?b%22%3C%3E%5C%C3%A4")
	f(action.RedirectSettings{Scheme: "https", Port: 8443}, "a.example", "/a?b", "https://a.example:8443/a")
	f(action.RedirectSettings{Scheme: "https", Port: 443}, "a.example:80", "/", "https://a.example/")
	f(action.RedirectSettings{Scheme: "http", Port: 443}, "a.example:80", "/", "http://a.example:443/")
	f(action.RedirectSettings{Host: "B.example", Status: 308}, "a.example:8080", "/p", "http://b.example:8080/p")
	f(action.RedirectSettings{Host: "b.example", Status: 307}, "a.example:80", "/p", "http://b.example/p")
	f(action.RedirectSettings{Port: 81, Status: 303}, "a.example", "/p", "http://a.example:81/p")
	f(action.RedirectSettings{Prefix: "/new", Matched: "/old", Query: true}, "a", "/old/x?y", "http://a/new/x?y")
	f(action.RedirectSettings{Prefix: "/", Matched: "/old"}, "a", "/old//evil.example", "http://a/evil.example")
	f(action.RedirectSettings{Path: "/fixed/%c3%bc"}, "a", "/x", "http://a/fixed/%C3%BC")
	f(action.RedirectSettings{Path: "/u/${claim.t}"}, "a", "/x", "http://a/u/a%2Fb%3Fc%23d%20e")
	f(action.RedirectSettings{Path: "/to${path}/${query.q:-none}"}, "a", "/x%20y?q=1%202", "http://a/to/x%20y/1%202")
	f(action.RedirectSettings{Path: "${path}/index.html"}, "a", "/x/", "http://a/x/index.html")
	f(action.RedirectSettings{Path: "/q/${query.q}"}, "a", "/x?q=/%2fevil", "http://a/q/%2F%2Fevil")
}

func TestRedirectRefusesAmbiguousValues(t *testing.T) {
	f := func(path string, edit func(*exchange.Exchange), want *reason.Reason) {
		t.Helper()
		r := ask(t, redirect(t, action.RedirectSettings{Path: path, Scheme: "https"}).Handle, "a", "/x?q=..", edit)
		if r.Refusal == nil || r.Refusal.Reason != want || len(r.Header.Peek("Location")) != 0 {
			t.Errorf("%s: %v, Location %q", path, r.Refusal, r.Header.Peek("Location"))
		}
	}
	f("/a/${query.q}/b", nil, reason.AmbiguousPath)
	f("/a/${claim.t}", func(e *exchange.Exchange) { e.Identity.Claims = map[string]any{"t": "a\r\nX: y"} }, reason.AmbiguousPath)
	for _, host := range []string{"", "a/b", "a@b", "a:80", "[::1", "[]", "a\r\nb"} {
		f("/a", func(e *exchange.Exchange) { e.Host = host }, reason.BadHost)
	}
}

func TestNewRedirectNamesTheKnob(t *testing.T) {
	for want, s := range map[string]action.RedirectSettings{
		"must change scheme, host, port":       {Query: true},
		"status: must be":                      {Scheme: "https", Status: 200},
		`scheme: must be http or https, got "`: {Scheme: "javascript"},
		`host: must be a host name`:            {Host: "a:80"},
		`host: must be a host name without`:    {Host: "a/b"},
		"port: must be 1 to 65535, got -1":     {Port: -1},
		"path, prefix: only one":               {Path: "/a", Prefix: "/b"},
		`prefix "b": must begin`:               {Prefix: "b"},
		`path "b": must begin with a slash`:    {Path: "b"},
		`path "${host}": must begin with a`:    {Path: "${host}"},
		`path "/a?b": must begin`:              {Path: "/a?b"},
		`path "/a/../b"`:                       {Path: "/a/../b"},
		`path "/${x}": column 2: unknown`:      {Path: "/${x}"},
	} {
		if _, err := action.NewRedirect(s); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%+v: got %v, want %s", s, err, want)
		}
	}
}

// TestRedirectStaysOnItsHost: no path, query or value makes the Location lead
// to a host that neither the config nor the request names.
func TestRedirectStaysOnItsHost(t *testing.T) {
	junk := rapid.StringMatching(`[/\\a.;:@?#%&=x-]{0,12}`)
	all := []*action.Redirect{
		redirect(t, action.RedirectSettings{Scheme: "https", Query: true}),
		redirect(t, action.RedirectSettings{Prefix: "/", Matched: "/a", Query: true}),
		redirect(t, action.RedirectSettings{Path: "/${query.x}${path}", Query: true}),
	}
	rapid.Check(t, func(rt *rapid.T) {
		path, why := target.Normalize(nil, []byte("/"+junk.Draw(rt, "path")), target.Rules{KeepEncodedSlashes: true})
		if why != nil {
			return
		}
		query := "x=" + rapid.String().Draw(rt, "query")
		for _, r := range all {
			reply := ask(t, r.Handle, "a.example", "/", func(e *exchange.Exchange) { e.Path, e.Query = string(path), query })
			loc := string(reply.Header.Peek("Location"))
			if reply.Refusal != nil && loc == "" {
				continue
			}
			u, err := url.Parse(loc)
			if err != nil || u.Host != "a.example" || strings.ContainsAny(loc, "\r\n\x00 ") || u.Fragment != "" {
				rt.Fatalf("%s?%s: Location %q, %v", path, query, loc, err)
			}
		}
	})
}

func TestRedirectDoesNotAllocate(t *testing.T) {
	for _, s := range []action.RedirectSettings{{Scheme: "https", Query: true}, {Prefix: "/n", Matched: "/v1"}, {Path: "/x${path}/${query.a}"}} {
		h := redirect(t, s).Handle
		ask(t, func(c *fiber.Ctx) error {
			n := testing.AllocsPerRun(200, func() {
				if err := h(c); err != nil {
					t.Error(err)
				}
			})
			if n != 0 && !raceEnabled { // sync.Pool drops at random under the race detector
				t.Errorf("%+v: %v allocations, want 0", s, n)
			}
			return nil
		}, "a.example", "/v1/x?a=b%20c", nil)
	}
}

func BenchmarkRedirect(b *testing.B) {
	h := redirect(b, action.RedirectSettings{Scheme: "https", Query: true}).Handle
	ask(b, func(c *fiber.Ctx) error {
		b.ReportAllocs()
		for b.Loop() {
			if err := h(c); err != nil {
				b.Fatal(err)
			}
		}
		if c.Response().StatusCode() != fasthttp.StatusFound {
			b.Fatal("not a redirect")
		}
		return nil
	}, "a.example", "/v1/x?a=b", nil)
}
