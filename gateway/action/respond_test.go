package action_test

import (
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/gateway/action"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

func respond(t testing.TB, s action.RespondSettings) *action.Respond {
	t.Helper()
	r, err := action.NewRespond(s)
	if err != nil {
		t.Fatalf("%+v: %v", s, err)
	}
	return r
}

func TestRespond(t *testing.T) {
	f := func(s action.RespondSettings, status int, contentType, body string) {
		t.Helper()
		r := ask(t, respond(t, s).Handle, "a", `/p?q=%3Cb%3E%22%26%0a`, nil)
		if got := string(r.Header.ContentType()); r.Status != status || got != contentType || r.Body != body {
			t.Errorf("%+v: %d %q %q", s, r.Status, got, r.Body)
		}
		for name, value := range s.Headers {
			if got := string(r.Header.Peek(name)); got != value {
				t.Errorf("%s: %q, want %q", name, got, value)
			}
		}
		sniff := string(r.Header.Peek("X-Content-Type-Options"))
		if dynamic := strings.Contains(s.Body, "${q") || strings.Contains(s.Body, "${p"); dynamic != (sniff == "nosniff") {
			t.Errorf("%+v: X-Content-Type-Options %q", s, sniff)
		}
	}
	text := "text/plain; charset=utf-8"
	f(action.RespondSettings{}, 200, text, "")
	f(action.RespondSettings{Status: 503, Body: "later $${x}\n", Headers: map[string]string{"Retry-After": "5", "x-a": "b"}}, 503, text, "later ${x}\n")
	f(action.RespondSettings{Body: "${path} ${query.q}|"}, 200, text, "/p <b>\"&\n|")
	f(action.RespondSettings{Body: "<i>${query.q}</i>", ContentType: "text/html"}, 200, "text/html", "<i>&lt;b&gt;&#34;&amp;\n</i>")
	f(action.RespondSettings{Body: `{"q":"${query.q}"}`, ContentType: "application/problem+json"}, 200, "application/problem+json", `{"q":"\u003cb\u003e\"\u0026\u000a"}`)
	made := respond(t, action.RespondSettings{Status: 204, Headers: map[string]string{
		"X-Path": "at ${path}", "X-Plain": "$${path}", "X-Split": "${query.q}", "X-None": "${query.none}",
	}})
	if r := ask(t, made.Handle, "a", "/p?q=a%0d%0aSet-Cookie:b", nil); string(r.Header.Peek("X-Path")) != "at /p" || string(r.Header.Peek("X-Plain")) != "${path}" ||
		strings.Contains(string(r.Header.Peek("X-Split")), "\n") || len(r.Header.Peek("Set-Cookie")) != 0 || r.Header.Peek("X-None") != nil {
		t.Errorf("headers with values: %s", r.Header.String())
	}
	if r := ask(t, respond(t, action.RespondSettings{Status: 204}).Handle, "a", "/", nil); r.Status != 204 || r.Body != "" || len(r.Header.ContentType()) != 0 {
		t.Errorf("204: %d %q %q", r.Status, r.Header.ContentType(), r.Body)
	}
}

func TestNewRespondNamesTheKnob(t *testing.T) {
	for want, s := range map[string]action.RespondSettings{
		"status: must be 200 to 599, got 100":    {Status: 100},
		"status: must be 200 to 599, got 600":    {Status: 600},
		"body: status 204 cannot have one":       {Status: 204, Body: "x"},
		"body: column 3: unknown attribute":      {Body: "ab${x}"},
		`content_type: "a\r\nb"`:                 {ContentType: "a\r\nb"},
		"headers.A B: cannot be the name":        {Headers: map[string]string{"A B": ""}},
		"headers.X: \"a\\nb\" cannot be the val": {Headers: map[string]string{"X": "a\nb"}},
		"headers.Content-Length: is decided":     {Headers: map[string]string{"Content-Length": "1"}},
		"headers.X: column 1: unknown attribute": {Headers: map[string]string{"X": "${x}"}},
		"headers.content-type: is decided":       {Headers: map[string]string{"content-type": "a"}},
	} {
		if _, err := action.NewRespond(s); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%+v: got %v, want %s", s, err, want)
		}
	}
}

func TestRespondDoesNotAllocate(t *testing.T) {
	for _, body := range []string{"fixed", "${path} ${client_ip}"} {
		h := respond(t, action.RespondSettings{Body: body, ContentType: "text/html", Headers: map[string]string{"X-A": "b", "X-B": "${method}"}}).Handle
		ask(t, func(c *fiber.Ctx) error {
			n := testing.AllocsPerRun(200, func() {
				if err := h(c); err != nil {
					t.Error(err)
				}
			})
			if n != 0 && !raceEnabled {
				t.Errorf("%q: %v allocations, want 0", body, n)
			}
			return nil
		}, "a", "/p", func(e *exchange.Exchange) { e.Query = "" })
	}
}

func BenchmarkRespond(b *testing.B) {
	h := respond(b, action.RespondSettings{Body: "${path}"}).Handle
	ask(b, func(c *fiber.Ctx) error {
		b.ReportAllocs()
		for b.Loop() {
			if err := h(c); err != nil {
				b.Fatal(err)
			}
		}
		return nil
	}, "a", "/p", nil)
}
