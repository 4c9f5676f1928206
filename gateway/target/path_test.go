package target_test

import (
	"bytes"
	"net/url"
	"path"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/target"
)

var (
	standard = target.Rules{MergeSlashes: true}
	lenient  = target.Rules{KeepEncodedSlashes: true}
	strict   = target.Rules{MergeSlashes: true, RefuseDotSegments: true, RefusePathParams: true}
)

func TestNormalizeWritesOneForm(t *testing.T) {
	f := func(rules target.Rules, in, want string) {
		t.Helper()
		got, r := target.Normalize(nil, []byte(in), rules)
		if r != nil || string(got) != want {
			t.Errorf("Normalize(%q) = %q, %v, want %q", in, got, r, want)
		}
	}
	for _, same := range []string{
		"*", "/", "/a", "/a/", "/a/b.c", "/.well-known/x", "/...", "/a/..b", "/a/.b/", "/~x/-_.",
		"/a:b@c!$&'()*+,=", "/a%20b", "/%25", "/100%25", "/%2525", "/%25zz", "/%2520", "/a;v=1/b", "/a;l=1%2C2",
		"/%2B+", "/%3F%23%5B", "/%E2%82%AC", "/a%3Bb",
	} {
		f(standard, same, same)
	}
	f(standard, "/%61%2D%7e", "/a-~")
	f(standard, "/%3a%40%21%2c%3D", "/:@!,=")
	f(standard, "/a%e2%82%ac", "/a%E2%82%AC")
	f(standard, "/€", "/%E2%82%AC")
	f(standard, `/a"<>[]^`+"`{|}", "/a%22%3C%3E%5B%5D%5E%60%7B%7C%7D")
	f(standard, "//a///b//", "/a/b/")
	f(lenient, "//a///b//", "//a///b//")
	f(standard, "/a/./b/../c/.", "/a/c/")
	f(standard, "/a/%2e/b/%2E%2e/c", "/a/c")
	f(standard, "/a/.%2e", "/")
	f(standard, "/a/b/..", "/a/")
	f(standard, "/a//../b", "/b")
	f(lenient, "/a//../b", "/a/b")
	f(lenient, "/a%2fb%5c", "/a%2Fb%5C")
	f(standard, "/%2525x", "/%2525x")
}

func TestNormalizeRefuses(t *testing.T) {
	f := func(rules target.Rules, in string, want *reason.Reason) {
		t.Helper()
		if got, r := target.Normalize(nil, []byte(in), rules); r != want {
			t.Errorf("Normalize(%q) = %q, %v, want %v", in, got, r, want)
		}
	}
	for _, in := range []string{"", "a", "a/b", "**", "http://x/", "?x"} {
		f(standard, in, reason.BadTarget)
	}
	for _, in := range []string{
		"/..", "/../a", "/a/../..", "/%2e%2e/x", "/a/..//../..",
		"/a\\b", "/a%5cb", "/a%2Fb", "/a%2fb", "/%00", "/%0d%0a", "/a%1f", "/%7f", "/a\x00", "/a b", "/a#b", "/a?b", "/\x7f", "/\t",
		"/%", "/%2", "/%zz", "/%2%35", "/%u002f",
		"/%c0%af", "/%c0%ae%c0%ae/", "/%e0%80%af", "/%f0%80%80%af", "/%ff", "/\xff", "/%ed%a0%80", "/%f4%90%80%80", "/%e2%82", "/%e2a", "/\xe2/\x82\xac",
		"/%252e%252e/", "/%252f", "/%255c", "/%2500", "/%250a", "/%25252e", "/%25%32%65", "/%25%32%46", "/a%257f",
		"/..;/", "/..;x=1/a", "/.;/a", "/a/..%3b/b", "/a/%2e%2e;/b", "/;x/a", "/a/;", "/a/.%3Bx",
	} {
		f(standard, in, reason.AmbiguousPath)
	}
	for _, in := range []string{"/a/..%2fb", "/..%5c..", "/a/b%2f.", "/a%2f..;x", "/x%2F%2e%2e"} {
		f(lenient, in, reason.AmbiguousPath)
	}
	for _, in := range []string{"/a/../b", "/./a", "/a;b", "/a/.", "/%2e"} {
		f(strict, in, reason.AmbiguousPath)
	}
}

func TestNormalizeKeepsNormalPathsInPlace(t *testing.T) {
	for _, in := range []string{"/v1/users/42", "/a%20b/c;d=e"} {
		p := []byte(in)
		dst := make([]byte, 0, 64)
		got, _ := target.Normalize(dst, p, standard)
		if &got[0] != &p[0] {
			t.Errorf("%s: copied", in)
		}
	}
}

// pathText makes paths full of what is special in them.
func pathText() *rapid.Generator[string] {
	pieces := []string{
		"/", "//", ".", "..", "%2e", "%2E", ";", "%3b", "%2f", "%5C", "%25", "25", "2e", "%32", "%65", "a", "B", "%41", "%2B", "+",
		":", "%3a", ",", "%2c", "€", "%e2", "%82", "%ac", "\xff", "|", "%7c", " ", "%20", "\\", "%00",
	}
	return rapid.Custom(func(t *rapid.T) string {
		return "/" + strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 12).Draw(t, "pieces"), "")
	})
}

func anyRules() *rapid.Generator[target.Rules] {
	return rapid.Custom(func(t *rapid.T) target.Rules {
		b := rapid.Bool()
		return target.Rules{
			KeepEncodedSlashes: b.Draw(t, "keep"), MergeSlashes: b.Draw(t, "merge"),
			RefuseDotSegments: b.Draw(t, "dots"), RefusePathParams: b.Draw(t, "params"),
		}
	})
}

// checkNormal holds for every input: the result is stable, means what the
// input means, and hides nothing from a server that decodes once or twice.
func checkNormal(t interface{ Fatalf(string, ...any) }, in string, rules target.Rules) {
	src := []byte(in)
	out, r := target.Normalize(make([]byte, 0, 16), src, rules)
	if string(src) != in {
		t.Fatalf("input changed: %q", src)
	}
	if r != nil || string(out) == "*" {
		return
	}
	normal := string(out)
	again, r := target.Normalize(nil, []byte(normal), rules)
	if r != nil || string(again) != normal {
		t.Fatalf("%q → %q → %q, %v", in, normal, again, r)
	}
	once, err := url.PathUnescape(normal)
	if err != nil {
		t.Fatalf("%q → %q: %v", in, normal, err)
	}
	if rules.KeepEncodedSlashes {
		once = strings.ReplaceAll(once, "\\", "/")
	}
	for _, seg := range strings.Split(once, "/") {
		if name, _, _ := strings.Cut(seg, ";"); name == "." || name == ".." {
			t.Fatalf("%q → %q: decoded has segment %q", in, normal, seg)
		}
	}
	if twice, err := url.PathUnescape(once); err == nil && !rules.KeepEncodedSlashes {
		if strings.Count(twice, "/") != strings.Count(normal, "/") || strings.ContainsAny(twice, "\\\x00\r\n") {
			t.Fatalf("%q → %q: decoded twice %q", in, normal, twice)
		}
	}
	if rules.MergeSlashes && strings.Contains(normal, "//") {
		t.Fatalf("%q → %q: double slash", in, normal)
	}
	if !rules.KeepEncodedSlashes && rules.MergeSlashes {
		raw, err := url.PathUnescape(in)
		if err != nil {
			t.Fatalf("%q accepted: %v", in, err)
		}
		want := path.Clean(raw)
		if got := strings.TrimSuffix(once, "/"); got != strings.TrimSuffix(want, "/") {
			t.Fatalf("%q → %q means %q, want %q", in, normal, once, want)
		}
	}
}

func TestNormalizeProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		checkNormal(t, pathText().Draw(t, "path"), anyRules().Draw(t, "rules"))
	})
}

func FuzzNormalize(f *testing.F) {
	f.Add("/a/../b", uint8(0))
	f.Fuzz(func(t *testing.T, in string, bits uint8) {
		checkNormal(t, in, target.Rules{
			KeepEncodedSlashes: bits&1 != 0, MergeSlashes: bits&2 != 0,
			RefuseDotSegments: bits&4 != 0, RefusePathParams: bits&8 != 0,
		})
	})
}

func TestNormalizeDoesNotAllocate(t *testing.T) {
	buf := make([]byte, 0, 256)
	for _, in := range []string{"/v1/users/42", "/v1/%75sers/../x%20y"} {
		p := []byte(in)
		if n := testing.AllocsPerRun(1000, func() { target.Normalize(buf, p, standard) }); n != 0 {
			t.Errorf("%s: %v allocations, want 0", in, n)
		}
	}
}

func TestHost(t *testing.T) {
	f := func(in, want string, port uint16) {
		t.Helper()
		got, p := target.Host(nil, []byte(in))
		if string(got) != want || p != port {
			t.Errorf("Host(%q) = %q %d, want %q %d", in, got, p, want, port)
		}
	}
	f("a.example", "a.example", 0)
	f("A.Example.:8080", "a.example", 8080)
	f("a.example.", "a.example", 0)
	f("192.0.2.1:80", "192.0.2.1", 80)
	f("[2001:DB8::1]:443", "[2001:db8::1]", 443)
	f("[::1]", "[::1]", 0)
	f("123", "123", 0)
	f("a:99999", "a", 0)
	f(".", "", 0)
	buf, host := make([]byte, 0, 64), []byte("API.example.com:443")
	if n := testing.AllocsPerRun(1000, func() { target.Host(buf, host) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkNormalize(b *testing.B) {
	buf := make([]byte, 0, 256)
	for name, in := range map[string]string{"normal": "/v1/users/42/orders", "escaped": "/v1/a%20b/%7euser/./x"} {
		p := []byte(in)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if out, _ := target.Normalize(buf, p, standard); bytes.HasPrefix(out, []byte("//")) {
					b.Fatal("wrong")
				}
			}
		})
	}
}
