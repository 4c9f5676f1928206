package target_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gatehouse-proxy/gatehouse/gateway/target"
)

func TestCookie(t *testing.T) {
	f := func(header, name, want string, found bool) {
		t.Helper()
		got, ok := target.Cookie([]byte(header), name)
		if string(got) != want || ok != found {
			t.Errorf("Cookie(%q, %q) = %q, %v", header, name, got, ok)
		}
	}
	f("a=1; b=2", "b", "2", true)
	f("a=1;b=2;", "a", "1", true)
	f("a=1; a=2", "a", "1", true)
	f("A=1", "a", "", false)
	f("ab=1; a=2", "a", "2", true)
	f("a=", "a", "", true)
	f("a", "a", "", false)
	f("", "a", "", false)
	f(`a="x=y"; b=c=d==`, "a", `"x=y"`, true)
	f(`a="x=y"; b=c=d==`, "b", "c=d==", true)
	f(" a = 1 ;b=2", "a", "1", true)
	f("a b=1", "a", "", false)
	f("x=%20; y=+", "x", "%20", true)
	f(";;;a=1", "a", "1", true)
}

func FuzzCookie(f *testing.F) {
	f.Add("a=1; b=2; a=3", "a")
	f.Fuzz(func(t *testing.T, header, name string) {
		got, ok := target.Cookie([]byte(header), name)
		if ok && !strings.Contains(header, string(got)) {
			t.Fatalf("%q: %q is not in it", header, got)
		}
		if strings.ContainsAny(string(got), ";") {
			t.Fatalf("%q: value %q", header, got)
		}
		// What net/http finds, we find. It takes a bare word for an empty cookie.
		r := http.Request{Header: http.Header{"Cookie": {header}}}
		if c, err := r.Cookie(name); err == nil && c.Value != "" && !ok {
			t.Fatalf("%q: net/http has %q", header, c.Value)
		}
	})
}

func TestQuery(t *testing.T) {
	f := func(query, name, encoded, decoded string, found bool) {
		t.Helper()
		got, ok := target.Query(query, name)
		if got != encoded || ok != found || string(target.AppendDecoded(nil, got)) != decoded {
			t.Errorf("Query(%q, %q) = %q, %v", query, name, got, ok)
		}
	}
	f("a=1&b=2", "b", "2", "2", true)
	f("a=1&a=2", "a", "1", "1", true)
	f("%61=x%20y+z", "a", "x%20y+z", "x y z", true)
	f("a", "a", "", "", true)
	f("&&a=b=c", "a", "b=c", "b=c", true)
	f("a;b=1", "b", "", "", false)
	f("a%3D=1", "a=", "1", "1", true)
	f("a=%zz%4", "a", "%zz%4", "%zz%4", true)
	f("", "a", "", "", false)
	f("b=1", "", "", "", false)
}

// TestQueryAgreesWithStandardLibrary on everything the standard library reads.
func TestQueryAgreesWithStandardLibrary(t *testing.T) {
	pieces := []string{"a", "b", "=", "&", "%61", "%26", "+", "%20", "x", "%C3%A4"}
	rapid.Check(t, func(t *rapid.T) {
		query := strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 12).Draw(t, "query"), "")
		values, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		for _, name := range []string{"a", "b", "x", "ab", "a b"} {
			enc, ok := target.Query(query, name)
			if ok != values.Has(name) {
				t.Fatalf("%q: %s found %v", query, name, ok)
			}
			want := values.Get(name)
			if got := string(target.AppendDecoded(nil, enc)); got != want || !target.EqualDecoded(enc, want) ||
				target.EqualDecoded(enc, want+"x") || !target.HasPrefixDecoded(enc, want[:len(want)/2]) || !target.Encoded(enc) && enc != want {
				t.Fatalf("%q: %s = %q, want %q", query, name, got, want)
			}
		}
	})
}

func TestValuesDoNotAllocate(t *testing.T) {
	header, query, buf := []byte("a=1; session=abc; b=2"), "x=1&name=a%20b&y=2", make([]byte, 0, 64)
	n := testing.AllocsPerRun(1000, func() {
		target.Cookie(header, "session")
		v, _ := target.Query(query, "name")
		target.AppendDecoded(buf, v)
		if !target.EqualDecoded(v, "a b") {
			t.Error("the decoded value differs")
		}
	})
	if n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkCookie(b *testing.B) {
	header := []byte("_ga=GA1.2.3.4; theme=dark; session=0123456789abcdef; lang=en")
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := target.Cookie(header, "session"); !ok {
			b.Fatal("not found")
		}
	}
}
