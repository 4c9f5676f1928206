package action_test

import (
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"
	"pgregory.net/rapid"

	"github.com/gatehouse-proxy/gatehouse/gateway/action"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/target"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

func rewrite(t testing.TB, s action.RewriteSettings) *action.Rewrite {
	t.Helper()
	w, err := action.NewRewrite(s)
	if err != nil {
		t.Fatalf("%+v: %v", s, err)
	}
	return w
}

func rewritten(w *action.Rewrite, path, query string) string {
	return string(w.AppendTarget([]byte(">"), nil, &exchange.Exchange{Path: path, Query: query}))[1:]
}

func TestRewritePrefix(t *testing.T) {
	f := func(path, matched, with, want string) {
		t.Helper()
		if got := rewritten(rewrite(t, action.RewriteSettings{Prefix: with, Matched: matched}), path, ""); got != want {
			t.Errorf("%s, %s → %s: %s, want %s", path, matched, with, got, want)
		}
	}
	// The table of Gateway API's ReplacePrefixMatch.
	f("/foo/bar", "/foo", "/xyz", "/xyz/bar")
	f("/foo/bar", "/foo", "/xyz/", "/xyz/bar")
	f("/foo/bar", "/foo/", "/xyz", "/xyz/bar")
	f("/foo/bar", "/foo/", "/xyz/", "/xyz/bar")
	f("/foo", "/foo", "/xyz", "/xyz")
	f("/foo/", "/foo", "/xyz", "/xyz/")
	f("/foo/bar", "/foo", "/", "/bar")
	f("/foo/", "/foo", "/", "/")
	f("/foo", "/foo", "/", "/")

	f("/foo", "/foo", "/xyz/", "/xyz/")
	f("/foobar", "/foo", "/xyz", "/foobar")
	f("/a/b", "", "/x", "/x/a/b")
	f("/", "", "/x", "/x/")
	f("/", "/", "/", "/")
	f("/foo//evil.example/x", "/foo", "/", "/evil.example/x")
	f("/foo//a", "/foo", "/x", "/x//a")
	f("/a%20b/c", "/a%20b", "/%c3%bc:%3a", "/%C3%BC::/c")
	f("*", "", "/x", "*")
}

func TestRewriteRegex(t *testing.T) {
	f := func(pattern, with, path, want string) {
		t.Helper()
		if got := rewritten(rewrite(t, action.RewriteSettings{Pattern: pattern, With: with}), path, ""); got != want {
			t.Errorf("%s → %s, %s: %s, want %s", pattern, with, path, got, want)
		}
	}
	f("^/v([0-9]+)/(.*)$", "/$2/v${1}", "/v2/users", "/users/v2")
	f("^/api/", "", "/api/x", "/x")
	f("^/api(?P<rest>/.*)?$", "$rest", "/api", "/")
	f("b", "$$", "/abab", "/a$a$")
	f("_", ".", "/a_b", "/a.b")
	f("x", "/", "/axxb", "/a/b")
	f("/", "%2F", "/a/b", "/%2Fa%2Fb")
	f("b", "%3a", "/ab", "/a:")
	f("nothing", "x", "/a%2Fb//c", "/a%2Fb//c")
	// What would be ambiguous is not done.
	f("x", "", "/a/.x./b", "/a/.x./b")
	f("x", "", "/a/x.x/b", "/a/x.x/b")
	f("20", "", "/a%20b", "/a%20b")
	f("25x", "", "/a%25x2F", "/a%25x2F")
	f("x", "", "/..x;/a", "/..x;/a")
	f("x", "", "*", "*")
}

func TestRewriteKeepsQuery(t *testing.T) {
	w := rewrite(t, action.RewriteSettings{Prefix: "/b", Matched: "/a"})
	if got := rewritten(w, "/a/c", "x=1&y=%zz"); got != "/b/c?x=1&y=%zz" {
		t.Error(got)
	}
	var none *action.Rewrite
	if got := rewritten(none, "/a/c", "x"); got != "/a/c?x" {
		t.Error(got)
	}
	for line, want := range map[string]string{"/a?": "/b?", "/a": "/b", "/a??": "/b??", "/a?b?c": "/b?b?c"} {
		plugintest.Do(t, plugintest.Request{Raw: "GET " + line + " HTTP/1.1\r\nHost: h\r\n\r\n"}, func(c *fiber.Ctx) error {
			if got := string(w.AppendTarget(nil, c.Context(), exchange.From(c))); got != want {
				t.Errorf("%s: %s, want %s", line, got, want)
			}
			return plugintest.Upstream(c)
		})
	}
}

func TestGuardRefusesWhatCannotBeRewritten(t *testing.T) {
	w := rewrite(t, action.RewriteSettings{Pattern: "x", With: ""})
	f := func(path string, want *reason.Reason) {
		t.Helper()
		r := plugintest.Do(t, plugintest.Request{Raw: "GET " + path + " HTTP/1.1\r\nHost: h\r\n\r\n"}, w.Guard(plugintest.Upstream))
		if (r.Refusal == nil) != (want == nil) || want != nil && r.Refusal.Reason != want {
			t.Errorf("%s: %v, want %v", path, r.Refusal, want)
		}
	}
	f("/a/x", nil)
	f("/a/.x.", reason.AmbiguousPath)
	called := false
	next := func(*fiber.Ctx) error { called = true; return nil }
	if err := rewrite(t, action.RewriteSettings{Prefix: "/a"}).Guard(next)(nil); err != nil || !called {
		t.Error("a rewrite by prefix, which cannot fail, is guarded")
	}
}

func TestNewRewriteNamesTheKnob(t *testing.T) {
	for want, s := range map[string]action.RewriteSettings{
		"must have either":                            {},
		"must have either prefix or regex":            {Prefix: "/a", Pattern: "b"},
		`prefix "a": must begin with a slash`:         {Prefix: "a"},
		`prefix "/a/../b"`:                            {Prefix: "/a/../b"},
		`prefix "/a?b"`:                               {Prefix: "/a?b"},
		`match.path.prefix "b"`:                       {Prefix: "/a", Matched: "b"},
		`regex.pattern "("`:                           {Pattern: "("},
		`regex.with "/$1x": $1x names no group`:       {Pattern: "(a)", With: "/$1x"},
		`regex.with "${b}": ${b} names no group`:      {Pattern: "(a)", With: "${b}"},
		`regex.with "a$": a lone $`:                   {Pattern: "(a)", With: "a$"},
		`regex.with "/../$1": must be part of a path`: {Pattern: "(a)", With: "/../$1"},
		`regex.with "?a"`:                             {Pattern: "a", With: "?a"},
		`regex.with "a b"`:                            {Pattern: "a", With: "a b"},
		`regex.with "a\r\nb"`:                         {Pattern: "a", With: "a\r\nb"},
	} {
		if _, err := action.NewRewrite(s); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%+v: got %v, want %s", s, err, want)
		}
	}
}

// TestRewrittenPathsAreNormal: whatever is rewritten how, the result is what
// Normalize leaves alone, and names no host.
func TestRewrittenPathsAreNormal(t *testing.T) {
	pieces := rapid.SampledFrom([]string{"/", "//", "a", "b", ".", "..", "%2e", "%25", "2e", "2F", "%2F", "%5C", ";", "x", "%C3%A4"})
	text := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(pieces, 0, 8).Draw(t, "pieces"), "")
	})
	patterns := rapid.SampledFrom([]string{"x", "a", "/", "[ab]", "(.)x(.)", "25", "%", ";", "^/a", ".$", "//", "C3", "^.*$", "2F|2e"})
	rapid.Check(t, func(t *rapid.T) {
		rules := target.Rules{KeepEncodedSlashes: rapid.Bool().Draw(t, "keep"), MergeSlashes: rapid.Bool().Draw(t, "merge")}
		path, why := target.Normalize(nil, []byte("/"+text.Draw(t, "path")), rules)
		if why != nil {
			return
		}
		s := action.RewriteSettings{Prefix: "/" + text.Draw(t, "prefix"), Matched: rapid.SampledFrom([]string{"", "/a", "/a/b"}).Draw(t, "matched")}
		if rapid.Bool().Draw(t, "regex") {
			s = action.RewriteSettings{Pattern: patterns.Draw(t, "pattern"), With: text.Draw(t, "with")}
		}
		w, err := action.NewRewrite(s)
		if err != nil {
			return
		}
		// An encoded slash may be there only if it was, or the author wrote it.
		keep := strings.ContainsAny(string(path), "%") && (strings.Contains(string(path), "%2F") || strings.Contains(string(path), "%5C")) ||
			strings.Contains(s.With, "%2F") || strings.Contains(s.With, "%5C") || s.Prefix != ""
		got := rewritten(w, string(path), "")
		again, why := target.Normalize(nil, []byte(got), target.Rules{KeepEncodedSlashes: keep, MergeSlashes: rules.MergeSlashes, RefuseDotSegments: true})
		if why != nil || string(again) != got {
			t.Fatalf("%s by %+v: %s is not normal: %q, %v", path, s, got, again, why)
		}
		if strings.HasPrefix(got, "//") && !strings.HasPrefix(string(path), "//") {
			t.Fatalf("%s by %+v: %s begins like a host", path, s, got)
		}
	})
}

func TestRewriteDoesNotAllocate(t *testing.T) {
	w, e, buf := rewrite(t, action.RewriteSettings{Prefix: "/users", Matched: "/v1/users"}), &exchange.Exchange{Path: "/v1/users/42", Query: "a=b"}, make([]byte, 0, 128)
	if n := testing.AllocsPerRun(1000, func() { w.AppendTarget(buf, nil, e) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkRewritePrefix(b *testing.B) {
	w, e, buf := rewrite(b, action.RewriteSettings{Prefix: "/users", Matched: "/v1/users"}), &exchange.Exchange{Path: "/v1/users/42", Query: "a=b"}, make([]byte, 0, 128)
	b.ReportAllocs()
	for b.Loop() {
		w.AppendTarget(buf, nil, e)
	}
}

func BenchmarkRewriteRegex(b *testing.B) {
	w, e, buf := rewrite(b, action.RewriteSettings{Pattern: "^/v([0-9]+)/(.*)$", With: "/$2/v$1"}), &exchange.Exchange{Path: "/v1/users/42", Query: "a=b"}, make([]byte, 0, 128)
	b.ReportAllocs()
	for b.Loop() {
		w.AppendTarget(buf, nil, e)
	}
}
