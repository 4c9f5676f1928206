package origin_test

import (
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/plugins/internal/origin"
)

func TestHas(t *testing.T) {
	s, err := origin.Parse([]string{"https://App.example.com", "http://localhost:3000", "https://*.example.org", "https://*.x.test:8443", "http://[::1]:8080", "null"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.AddRegex([]string{`https://pr-\d+\.dev\.test`, `http://a|http://b`}); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]bool{
		"https://app.example.com": true, "http://localhost:3000": true, "null": true, "http://[::1]:8080": true,
		"https://a.example.org": true, "https://a.b.example.org": true, "https://y.x.test:8443": true,
		"https://pr-12.dev.test": true, "http://a": true, "http://b": true,
		"": false, "https://app.example.com.evil.test": false, "http://app.example.com": false, "https://app.example.com:8443": false,
		"https://example.org": false, "https://.example.org": false, "https://evilexample.org": false, "http://a.example.org": false,
		"https://evil.test/.example.org": false, "https://evil.test#.example.org": false, "https://u@.example.org": false,
		"https://evil.test\\.example.org": false, "https://a.example.org:1": false, "https://y.x.test": false,
		"https://pr-12.dev.test.evil.test": false, "xhttps://pr-12.dev.test": false, "https://pr-1.dev.test\n": false, "http://ab": false,
		"NULL": false, "https://": false, "https://A.example.org": false,
	} {
		if got := s.Has([]byte(in)); got != want {
			t.Errorf("%q: %v", in, got)
		}
	}
	sub := []byte("https://a.b.example.org")
	if n := testing.AllocsPerRun(100, func() { s.Has(sub) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, o := range []string{
		"example.com", "https://", "https://a/", "https://a/b", "https://u@a", "https://a?b", "https://*", "https://a.*.b",
		"https://*.*.b", "*.example.com", "https://a:443", "http://a:80", "https://a:", "://a", "", "https://a#b", "http://%zz",
	} {
		if _, err := origin.Parse([]string{"null", o}); err == nil || !strings.HasPrefix(err.Error(), "[1]: ") {
			t.Errorf("%q: %v", o, err)
		}
	}
	var s origin.Set
	if err := s.AddRegex([]string{"("}); err == nil {
		t.Error("a broken expression is accepted")
	}
}

func TestHost(t *testing.T) {
	for in, want := range map[string]string{
		"https://a.test": "a.test", "http://a.test:80": "a.test:80", "http://[::1]:8": "[::1]:8",
		"null": "", "": "", "https:": "", "https://": "", "://a": "", "https://a/b": "", "https://u@a": "", "https://a b": "", "file:///x": "",
	} {
		if got := string(origin.Host([]byte(in))); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func FuzzHas(f *testing.F) {
	f.Add([]byte("https://a.example.org"))
	s, err := origin.Parse([]string{"https://*.example.org"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, o []byte) {
		if !s.Has(o) {
			return
		}
		h := string(origin.Host(o))
		if !strings.HasPrefix(string(o), "https://") || !strings.HasSuffix(h, ".example.org") || "https://"+h != string(o) {
			t.Fatalf("%q is taken for a subdomain", o)
		}
	})
}
