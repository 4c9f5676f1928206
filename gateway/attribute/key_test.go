package attribute_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
	"pgregory.net/rapid"

	"github.com/gatehouse-proxy/gatehouse/gateway/attribute"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

func key(t testing.TB, s attribute.KeySettings) *attribute.Key {
	t.Helper()
	k, err := attribute.NewKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKey(t *testing.T) {
	ctx, e := request()
	f := func(want string, complete bool, bits int, attributes ...string) {
		t.Helper()
		got, ok := key(t, attribute.KeySettings{Attributes: attributes, IPv6Prefix: bits}).Append(nil, ctx, e)
		if string(got) != want || ok != complete {
			t.Errorf("%v: %q, %v, want %q", attributes, got, ok, want)
		}
	}
	f("2001:db8:1:2::/64", true, 64, "client_ip")
	f("2001:db8:1:2:3::4", true, 0, "client_ip")
	f("alice", true, 0, "consumer")
	f("", false, 0, "header.nope")
	f("\x00\x05alice\x00\x02t1", true, 0, "consumer", "claim.tenant")
	f("\x00\x00\xff\xff", false, 0, "header.X-Empty", "header.nope")
	e.Client = netip.MustParseAddr("::ffff:192.0.2.1")
	f("192.0.2.1", true, 64, "client_ip")
	ctx.Request.Header.Set("X-Long", strings.Repeat("x", 70000))
	long, ok := key(t, attribute.KeySettings{Attributes: []string{"header.X-Long", "consumer"}}).Append(nil, ctx, e)
	if !ok || len(long) != 2+8+2+5 {
		t.Errorf("key of a long value: %d bytes", len(long))
	}
	if s := key(t, attribute.KeySettings{Attributes: []string{"client_ip", "header.x-a"}}).String(); s != "client_ip,header.X-A" {
		t.Errorf("String: %s", s)
	}
}

func TestNewKeyNamesTheKnob(t *testing.T) {
	for want, s := range map[string]attribute.KeySettings{
		"attributes: must not be empty":     {},
		`attributes: unknown attribute "x"`: {Attributes: []string{"x"}},
		"ipv6_prefix: must be 0 to 128":     {Attributes: []string{"path"}, IPv6Prefix: 129},
	} {
		if _, err := attribute.NewKey(s); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestKeyIsUnambiguous: two requests share a key only if every attribute agrees.
func TestKeyIsUnambiguous(t *testing.T) {
	k := key(t, attribute.KeySettings{Attributes: []string{"header.A", "header.B", "subject"}, Seed: 7})
	value := rapid.SampledFrom([]string{"absent", "", "a", "b", "ab", "\x00\x01", "\xff\xff", "a\x00", "\x00\x00"})
	type values [3]string
	draw := rapid.Custom(func(t *rapid.T) values {
		s := value.Draw(t, "s")
		if s == "absent" {
			s = "" // a subject is absent when it is empty
		}
		return values{value.Draw(t, "a"), value.Draw(t, "b"), s}
	})
	make := func(v values) (string, uint64) {
		ctx, e := new(fasthttp.RequestCtx), &exchange.Exchange{}
		for i, name := range []string{"A", "B"} {
			if v[i] != "absent" {
				ctx.Request.Header.Set(name, v[i])
			}
		}
		e.Identity.Subject = v[2]
		b, _ := k.Append(nil, ctx, e)
		h, _ := k.Hash(ctx, e)
		return string(b), h
	}
	rapid.Check(t, func(t *rapid.T) {
		x, y := draw.Draw(t, "x"), draw.Draw(t, "y")
		bx, hx := make(x)
		by, hy := make(y)
		if (x == y) != (bx == by) || (x == y) != (hx == hy) {
			t.Fatalf("%q %q: keys %q %q, hashes %x %x", x, y, bx, by, hx, hy)
		}
	})
}

func TestSeedChangesHash(t *testing.T) {
	ctx, e := request()
	one, ok := key(t, attribute.KeySettings{Attributes: []string{"path"}}).Hash(ctx, e)
	two, _ := key(t, attribute.KeySettings{Attributes: []string{"path"}, Seed: 1}).Hash(ctx, e)
	if !ok || one == two {
		t.Errorf("hashes %x and %x, complete %v", one, two, ok)
	}
	if _, ok := key(t, attribute.KeySettings{Attributes: []string{"header.nope"}}).Hash(ctx, e); ok {
		t.Error("a key without its attribute is complete")
	}
}

func TestKeyDoesNotAllocate(t *testing.T) {
	ctx, e := request()
	k := key(t, attribute.KeySettings{Attributes: []string{"client_ip", "header.X-Tag", "claim.tenant"}, IPv6Prefix: 64})
	buf := make([]byte, 0, 256)
	if n := testing.AllocsPerRun(1000, func() { k.Append(buf, ctx, e) }); n != 0 {
		t.Errorf("Append: %v allocations, want 0", n)
	}
	if raceEnabled {
		return // sync.Pool drops at random under the race detector
	}
	if n := testing.AllocsPerRun(1000, func() { k.Hash(ctx, e) }); n != 0 {
		t.Errorf("Hash: %v allocations, want 0", n)
	}
}

func BenchmarkKeyHash(b *testing.B) {
	ctx, e := request()
	k := key(b, attribute.KeySettings{Attributes: []string{"client_ip"}, IPv6Prefix: 64})
	b.ReportAllocs()
	for b.Loop() {
		k.Hash(ctx, e)
	}
}
