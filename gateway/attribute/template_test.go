package attribute_test

import (
	"encoding/json"
	"errors"
	"html"
	"net/url"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
	"pgregory.net/rapid"

	"github.com/gatehouse-proxy/gatehouse/gateway/attribute"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

func parse(t testing.TB, s string) *attribute.Template {
	t.Helper()
	tpl, err := attribute.ParseTemplate(s)
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return tpl
}

func TestTemplate(t *testing.T) {
	ctx, e := request()
	f := func(source, want string) {
		t.Helper()
		if got := parse(t, source).Append([]byte(">"), ctx, e); string(got) != ">"+want {
			t.Errorf("%q: %q, want %q", source, got, want)
		}
	}
	f("", "")
	f("plain $5 {x} $", "plain $5 {x} $")
	f("$${path} $$${path}", "${path} $${path}")
	f("${method} ${path}!", "POST /v1/a%20b!")
	f("<${header.nope}>", "<>")
	f("<${header.nope:-no ${ne}>", "<no ${ne>")
	f("<${header.X-Empty:-none}>", "<none>")
	f("${claim.tenant:-x}${consumer}", "t1alice")
}

func TestTemplateStatic(t *testing.T) {
	for source, want := range map[string]string{"": "", "a$${b": "a${b"} {
		if got, ok := parse(t, source).Static(); got != want || !ok {
			t.Errorf("%q: %q, %v", source, got, ok)
		}
	}
	tpl := parse(t, "a${path}b${claim.x:-y}")
	if _, ok := tpl.Static(); ok || tpl.String() != "a${path}b${claim.x:-y}" {
		t.Errorf("%s is static", tpl)
	}
	if a := tpl.Attributes(); len(a) != 2 || a[1].String() != "claim.x" {
		t.Errorf("attributes %v", a)
	}
}

func TestTemplateErrorsHaveColumns(t *testing.T) {
	f := func(source string, column int, part string) {
		t.Helper()
		_, err := attribute.ParseTemplate(source)
		var te *attribute.TemplateError
		if !errors.As(err, &te) || te.Column != column || !strings.Contains(err.Error(), part) {
			t.Errorf("%q: %v, want column %d", source, err, column)
		}
	}
	f("ab${path", 3, "not closed")
	f("${nope}", 1, `unknown attribute "nope"; known: client_ip`)
	f("${path} ${header.}", 9, "lacks a name")
	f("$${a}${}", 6, `unknown attribute ""`)
}

func TestHeaderSafeDropsControlBytes(t *testing.T) {
	ctx, e := request()
	e.Identity.Claims["del"], e.Identity.Claims["tab"] = "a\x7fb", "a\tb"
	for source, want := range map[string]bool{"x-${query.q}": true, "x-${query.evil}": false, "${claim.del}": false, "${claim.tab}": true, "": true} {
		got, ok := parse(t, source).AppendHeaderSafe([]byte("dst"), ctx, e)
		if ok != want || !ok && string(got) != "dst" {
			t.Errorf("%q: %q, %v", source, got, ok)
		}
	}
}

// TestEscapesRoundTrip: escaped values read back as themselves and hold
// nothing that would end where they stand.
func TestEscapesRoundTrip(t *testing.T) {
	tpl := parse(t, "<${claim.v}>")
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.OneOf(rapid.String(), rapid.StringMatching(`[<>&"'\\/%\x00-\x1f\x7fa]{0,9}`)).Draw(t, "value")
		if v == "" {
			return
		}
		e := &exchange.Exchange{Identity: exchange.Identity{Claims: map[string]any{"v": v}}}
		in := func(esc attribute.Escape) string {
			s := string(tpl.AppendEscaped([]byte("x"), new(fasthttp.RequestCtx), e, esc))
			return strings.TrimSuffix(strings.TrimPrefix(s, "x<"), ">")
		}
		if p := in(attribute.Path); strings.ContainsAny(p, "/?#;\\\r\n") {
			t.Fatalf("path %q", p)
		} else if back, err := url.PathUnescape(p); err != nil || back != v {
			t.Fatalf("path %q → %q, %v", v, p, err)
		}
		if h := in(attribute.HTML); strings.ContainsAny(h, `<>"'`) || html.UnescapeString(h) != v && !strings.ContainsAny(v, "\x00\r") {
			t.Fatalf("html %q → %q", v, h)
		}
		var back string
		if j := in(attribute.JSON); json.Unmarshal([]byte(`"`+j+`"`), &back) != nil || back != v {
			t.Fatalf("json %q → %q", v, j)
		}
		if in(attribute.Raw) != v {
			t.Fatalf("raw %q", v)
		}
	})
}

func TestTemplateDoesNotAllocate(t *testing.T) {
	ctx, e := request()
	tpl, buf := parse(t, "${client_ip} ${query.q} ${claim.tenant:-x}"), make([]byte, 0, 256)
	if n := testing.AllocsPerRun(1000, func() {
		tpl.AppendHeaderSafe(buf, ctx, e)
		tpl.AppendEscaped(buf, ctx, e, attribute.Path)
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func FuzzTemplate(f *testing.F) {
	f.Add("a${path:-x}$${b}")
	ctx, e := request()
	f.Fuzz(func(t *testing.T, source string) {
		tpl, err := attribute.ParseTemplate(source)
		if err != nil {
			var te *attribute.TemplateError
			if !errors.As(err, &te) || te.Column < 1 || te.Column > len(source) || !strings.HasPrefix(source[te.Column-1:], "${") {
				t.Fatalf("%q: %v", source, err)
			}
			return
		}
		out := tpl.Append(nil, ctx, e)
		if text, ok := tpl.Static(); ok && (text != string(out) || text != strings.ReplaceAll(source, "$${", "${")) {
			t.Fatalf("%q: %q, static %q", source, out, text)
		}
	})
}

func BenchmarkTemplate(b *testing.B) {
	ctx, e := request()
	tpl, buf := parse(b, "${claim.tenant}/${header.X-Tag}"), make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		tpl.AppendHeaderSafe(buf, ctx, e)
	}
}
