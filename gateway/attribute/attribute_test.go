package attribute_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/attribute"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/telemetry"
)

// request is a request with every attribute.
func request() (*fasthttp.RequestCtx, *exchange.Exchange) {
	ctx := new(fasthttp.RequestCtx)
	h := &ctx.Request.Header
	h.SetMethod("POST")
	h.DisableSpecialHeader()
	h.Add("Cookie", "a=1; session=s%20x")
	h.EnableSpecialHeader()
	h.Add("X-Tag", "one")
	h.Add("x-tag", "two")
	h.Add("X-Empty", "")
	h.Add("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	e := &exchange.Exchange{
		Route: &exchange.Route{Name: "users"}, Listener: "web", Scheme: "https", Host: "a.example", Path: "/v1/a%20b",
		Query: "q=x%20y+z&evil=%0d%0aX:1&q=2", Client: netip.MustParseAddr("2001:db8:1:2:3::4"), RequestID: "rid-1",
		TLS: &exchange.TLS{
			Version: "TLS 1.3", Cipher: "TLS_AES_128_GCM_SHA256", ServerName: "a.example",
			Subject: "CN=alice,O=Example", SPIFFEID: "spiffe://example.internal/alice", Fingerprint: "00ff",
		},
		Identity: exchange.Identity{Consumer: &exchange.Consumer{Name: "alice"}, Subject: "sub|1", Claims: map[string]any{
			"tenant": "t1", "n": float64(12345678), "f": 1.5, "big": float64(1 << 62), "b": true, "num": json.Number("7"), "i": 3, "i64": int64(-4), "u": uint64(5),
			"exp": time.Unix(1700000000, 5).UTC(), "roles": []any{"x", true, 2.0}, "aud": []string{"p", "q"}, "none": nil, "nested": []any{[]any{"a"}},
			"realm": map[string]any{"access": map[string]any{"level": "high"}}, "https://x.example/t": "dotted", "listobj": []any{map[string]any{}},
		}},
	}
	return ctx, e
}

func TestAppend(t *testing.T) {
	ctx, e := request()
	f := func(name, want string, found bool) {
		t.Helper()
		a, err := attribute.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := a.Append([]byte(">"), ctx, e)
		if string(got) != ">"+want || ok != found {
			t.Errorf("%s = %q, %v, want %q, %v", name, got, ok, want, found)
		}
	}
	for name, want := range map[string]string{
		"client_ip": "2001:db8:1:2:3::4", "method": "POST", "scheme": "https", "host": "a.example", "path": "/v1/a%20b",
		"query": "q=x%20y+z&evil=%0d%0aX:1&q=2", "route": "users", "listener": "web", "consumer": "alice", "subject": "sub|1",
		"request_id": "rid-1", "trace_id": "0af7651916cd43dd8448eb211c80319c",
		"tls.version": "TLS 1.3", "tls.cipher": "TLS_AES_128_GCM_SHA256", "tls.server_name": "a.example",
		"tls.client.subject": "CN=alice,O=Example", "tls.client.spiffe_id": "spiffe://example.internal/alice", "tls.client.fingerprint": "00ff",
		"header.x-TAG": "one, two", "header.X-Empty": "", "cookie.session": "s%20x", "query.q": "x y z",
		"claim.tenant": "t1", "claim.n": "12345678", "claim.f": "1.5", "claim.big": "4611686018427388000", "claim.b": "true", "claim.num": "7", "claim.i": "3",
		"claim.i64": "-4", "claim.u": "5", "claim.exp": "1700000000", "claim.roles": "x,true,2", "claim.aud": "p,q",
		"claim.realm.access.level": "high", "claim.https://x.example/t": "dotted",
	} {
		f(name, want, true)
	}
	for _, absent := range []string{"header.nope", "cookie.A", "cookie.nope", "query.nope", "claim.nope", "claim.none", "claim.realm", "claim.realm.nope", "claim.tenant.x", "claim.nested", "claim.listobj"} {
		f(absent, "", false)
	}
	*e = exchange.Exchange{}
	ctx.Request.Header.Del("Traceparent")
	for _, empty := range []string{"client_ip", "scheme", "host", "path", "query", "route", "listener", "consumer", "subject", "request_id", "trace_id", "claim.tenant", "query.q", "tls.version", "tls.client.subject"} {
		f(empty, "", false)
	}
}

type span string

func (s span) Child(string) telemetry.Span                 { return s }
func (span) Step(string, time.Time, time.Duration, string) {}
func (s span) SetString(string, string)                    {}
func (s span) SetInt(string, int64)                        {}
func (s span) Fail(string)                                 {}
func (s span) End()                                        {}
func (s span) AppendTraceparent(dst []byte) []byte         { return append(dst, s...) }

func TestTraceID(t *testing.T) {
	a, _ := attribute.Parse("trace_id")
	ctx, e := request()
	f := func(want string, found bool) {
		t.Helper()
		if got, ok := a.Append([]byte("x"), ctx, e); string(got) != "x"+want || ok != found {
			t.Errorf("got %q %v, want %q", got, ok, want)
		}
	}
	e.Span = span("00-ffffffffffffffffffffffffffffffff-b7ad6b7169203331-01")
	f("ffffffffffffffffffffffffffffffff", true)
	e.Span = span("short")
	f("", false)
	e.Span = nil
	for _, bad := range []string{"", "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-00000000000000000000000000000000-b7ad6b7169203331-01", "00x0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"} {
		ctx.Request.Header.Set("Traceparent", bad)
		f("", false)
	}
}

func TestParseNamesWhatIsKnown(t *testing.T) {
	for _, bad := range []string{"", "ip", "header", "header.", "cookie.", "claim.", "query.", "header.X Y", "cookie.a;b", "Path"} {
		_, err := attribute.Parse(bad)
		if err == nil || !strings.Contains(err.Error(), `"`+bad+`"`) {
			t.Errorf("Parse(%q): %v", bad, err)
		}
	}
	_, err := attribute.Parse("clientip")
	if err == nil || !strings.HasSuffix(err.Error(), attribute.Known) {
		t.Errorf("error without the known names: %v", err)
	}
	for name := range strings.SplitSeq(attribute.Known, ", ") {
		a, err := attribute.Parse(name)
		if err != nil || !strings.EqualFold(a.String(), name) {
			t.Errorf("%s: %q, %v", name, a, err)
		}
	}
	if (attribute.Attribute{}).String() != "" {
		t.Error("the zero attribute has a name")
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	ctx, e := request()
	buf := make([]byte, 0, 512)
	for _, name := range []string{"client_ip", "method", "path", "header.X-Tag", "cookie.session", "query.q", "claim.tenant", "claim.n", "claim.roles", "claim.realm.access.level", "consumer", "trace_id"} {
		a, err := attribute.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(1000, func() { a.Append(buf, ctx, e) }); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
}
