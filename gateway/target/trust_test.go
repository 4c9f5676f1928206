package target_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
	"pgregory.net/rapid"

	"github.com/gatehouse-proxy/gatehouse/gateway/target"
)

const proxy = "10.0.0.1" // the peer in these tests; 10/8 and 2001:db8:f::/48 are trusted

func trust(s target.Source) *target.Trust {
	return target.NewTrust(target.TrustSettings{Source: s, Proxies: []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:f::/48"), netip.MustParsePrefix("::ffff:172.16.0.0/108"),
	}})
}

// header makes a request header of "Name: value" lines.
func header(lines ...string) *fasthttp.RequestHeader {
	h := new(fasthttp.RequestHeader)
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		h.Add(name, value)
	}
	return h
}

func TestOrigin(t *testing.T) {
	f := func(source target.Source, peer, client, scheme string, lines ...string) {
		t.Helper()
		got, gotScheme := trust(source).Origin(netip.MustParseAddr(peer), "http", header(lines...))
		if got.String() != client || gotScheme != scheme {
			t.Errorf("%v: got %v %s, want %s %s", lines, got, gotScheme, client, scheme)
		}
	}
	both := target.XForwardedFor
	f(both, "192.0.2.7", "192.0.2.7", "http", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https", "Forwarded: for=1.2.3.4;proto=https")
	f(both, "::ffff:192.0.2.7", "192.0.2.7", "http")
	f(both, proxy, proxy, "http")
	f(both, "::ffff:10.0.0.1", "1.2.3.4", "http", "X-Forwarded-For: 1.2.3.4")
	f(both, "172.16.3.4", "1.2.3.4", "http", "X-Forwarded-For: 1.2.3.4")
	f(both, proxy, "1.2.3.4", "https", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: HTTPS")
	f(both, proxy, "5.6.7.8", "http", "X-Forwarded-For: 1.2.3.4, 5.6.7.8")
	f(both, proxy, "5.6.7.8", "http", "X-Forwarded-For: 1.2.3.4, 5.6.7.8, 10.1.1.1 ,10.2.2.2")
	f(both, proxy, "5.6.7.8", "http", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-For: 5.6.7.8", "X-Forwarded-For: 10.9.9.9")
	f(both, proxy, "10.3.3.3", "http", "X-Forwarded-For: 10.3.3.3, 10.2.2.2")
	f(both, proxy, "10.2.2.2", "http", "X-Forwarded-For: 1.2.3.4, nonsense, 10.2.2.2")
	f(both, proxy, "5.6.7.8", "http", "X-Forwarded-For: , ,5.6.7.8, ,")
	f(both, proxy, "5.6.7.8", "http", "X-Forwarded-For: 5.6.7.8:4711")
	f(both, proxy, "2001:db8::1", "http", "X-Forwarded-For: [2001:db8::1]:4711")
	f(both, proxy, "2001:db8::1", "http", "X-Forwarded-For: 2001:DB8::1, 2001:db8:f::9, [2001:db8:f::8]")
	f(both, proxy, "5.6.7.8", "http", "X-Forwarded-For: ::ffff:5.6.7.8")
	for _, bad := range []string{"5.6.7.8:x", "5.6.7.8:", "[5.6.7.8]", "[::1", "::1%eth0", "5.6.7", "05.6.7.8", "unknown", "\"5.6.7.8\"", "[::1]x", "5.6.7.8:99999"} {
		f(both, proxy, proxy, "http", "X-Forwarded-For: 1.2.3.4, "+bad)
	}
	f(both, proxy, "5.6.7.8", "https", "X-Forwarded-For: 5.6.7.8, 10.0.0.2", "X-Forwarded-Proto: https, http")
	f(both, proxy, "5.6.7.8", "http", "X-Forwarded-For: 5.6.7.8", "X-Forwarded-Proto: https, http")
	f(both, proxy, "5.6.7.8", "https", "X-Forwarded-For: 5.6.7.8, 10.0.0.2", "X-Forwarded-Proto: https")
	f(both, proxy, "5.6.7.8", "http", "X-Forwarded-For: 5.6.7.8", "X-Forwarded-Proto: gopher")
	f(both, proxy, proxy, "https", "X-Forwarded-Proto: wss")

	f(both, proxy, "5.6.7.8", "https", "Forwarded: for=5.6.7.8;proto=https;by=10.0.0.1")
	f(both, proxy, "5.6.7.8", "http", "Forwarded: for=1.2.3.4;proto=https", "X-Forwarded-For: 5.6.7.8")
	f(target.ForwardedOnly, proxy, "1.2.3.4", "https", "Forwarded: for=1.2.3.4;proto=https", "X-Forwarded-For: 5.6.7.8", "X-Forwarded-Proto: http")
	f(target.ForwardedOnly, proxy, proxy, "http", "X-Forwarded-For: 5.6.7.8", "X-Forwarded-Proto: https")
	f(target.XForwardedForOnly, proxy, proxy, "http", "Forwarded: for=1.2.3.4;proto=https")

	fw := func(client, scheme, line string) { t.Helper(); f(both, proxy, client, scheme, "Forwarded: "+line) }
	fw("5.6.7.8", "http", `For=1.2.3.4, FOR="5.6.7.8:80"; Proto=http ,for=10.1.1.1`)
	fw("2001:db8::1", "https", `for="[2001:db8::1]:4711";proto=https, for="[2001:db8:f::1]"`)
	fw("5.6.7.8", "http", `for="1.2.3.4, for=5.6.7.8`)
	fw("5.6.7.8", "http", `for="1.2.3.4\", for=5.6.7.8`)
	fw("5.6.7.8", "http", `for=1.2.3.4, for=5.6.7.8;ext="a, for=9.9.9.9;\"b\\"`)
	fw("5.6.7.8", "http", `for="5.6.7.8:_p.-1";;`)
	fw("5.6.7.8", "http", `, ,for=5.6.7.8, ,`)
	fw("10.2.2.2", "https", `for=1.2.3.4, for=unknown;proto=https, for=10.2.2.2`)
	fw("10.2.2.2", "http", `for=1.2.3.4, for=_hidden, for=10.2.2.2`)
	fw(proxy, "https", "proto=https")
	for _, bad := range []string{
		"for=5.6.7.8:80", "for=[::1]", `for="::1"`, "for =5.6.7.8", "for= 5.6.7.8", "for=5.6.7.8;for=5.6.7.8", "5.6.7.8", "for", "for=", "for=5.6.7.8 by=x",
		`for="5.6.7.8`, `for=5.6.7.8"`, `for="5.6.7.8:_"`, `for="5.6.7.8:~"`, `for="[::1]:x"`, `for="[5.6.7.8]"`, `for="\5.6.7.8"`, `for=""`, "proto=https;proto=http;for=5.6.7.8", `for=5.6.7.8;x="\`,
	} {
		fw(proxy, "http", "for=1.2.3.4, "+bad)
	}
}

func TestOriginDoesNotAllocate(t *testing.T) {
	tr, peer := trust(target.XForwardedFor), netip.MustParseAddr(proxy)
	for _, h := range []*fasthttp.RequestHeader{
		header("X-Forwarded-For: 1.2.3.4, 2001:db8::7, x", "X-Forwarded-For: 2001:db8:f::8,10.2.3.4", "X-Forwarded-Proto: https"),
		header(`Forwarded: for=1.2.3.4, for="[2001:db8::7]";proto=https, for=10.2.3.4`),
	} {
		if n := testing.AllocsPerRun(1000, func() { tr.Origin(peer, "http", h) }); n != 0 {
			t.Errorf("%s: %v allocations, want 0", h, n)
		}
	}
}

// forwardedList parses a whole Forwarded value from the left, as RFC 7239
// writes it: the elements' raw text, or false.
func forwardedList(s string) (items []string, ok bool) {
	start, quoted, closed := 0, false, false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quoted && c == '\\':
			i++
			if i == len(s) {
				return nil, false
			}
		case c == '"':
			if !quoted && (i == 0 || s[i-1] != '=') {
				return nil, false
			}
			quoted, closed = !quoted, quoted
			continue
		case !quoted && c == ',':
			items = append(items, strings.Trim(s[start:i], " \t"))
			start = i + 1
		case closed && c != ';' && c != ' ':
			return nil, false
		}
		closed = false
	}
	return append(items, strings.Trim(s[start:], " \t")), !quoted
}

// TestForwardedFromTheRight proves that cutting from the right finds the same
// elements as reading from the left, whenever that can be read.
func TestForwardedFromTheRight(t *testing.T) {
	pieces := []string{"for=", "proto=https", "10.1.1.1", "5.6.7.8", `"`, `\`, ",", ";", " ", "x=", `"10.2.2.2"`, `"a,b"`, `"a\"b"`, `"\\"`}
	tr, peer := trust(target.ForwardedOnly), netip.MustParseAddr(proxy)
	rapid.Check(t, func(t *rapid.T) {
		line := strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 16).Draw(t, "pieces"), "")
		items, ok := forwardedList(line)
		if !ok {
			return
		}
		var split [][]byte
		for _, it := range items {
			split = append(split, []byte(it))
		}
		whole, s1 := tr.WalkForwarded(peer, "http", [][]byte{[]byte(line)})
		apart, s2 := tr.WalkForwarded(peer, "http", split)
		if whole != apart || s1 != s2 {
			t.Fatalf("%q: %v %s, its elements %q: %v %s", line, whole, s1, items, apart, s2)
		}
	})
}

// TestClientCannotBeChosen: whatever a client sends itself, what the trusted
// proxy appends decides.
func TestClientCannotBeChosen(t *testing.T) {
	tr, peer, real := trust(target.XForwardedFor), netip.MustParseAddr(proxy), netip.MustParseAddr("5.6.7.8")
	junk := rapid.StringMatching(`[ -~]{0,40}`)
	rapid.Check(t, func(t *rapid.T) {
		sent := junk.Draw(t, "sent")
		if c, _ := tr.WalkXForwardedFor(peer, [][]byte{[]byte(sent), []byte(sent + ", 5.6.7.8")}); c != real {
			t.Fatalf("X-Forwarded-For %q: %v", sent, c)
		}
		if c, _ := tr.WalkForwarded(peer, "http", [][]byte{[]byte(sent), []byte(sent + `, for="5.6.7.8"`)}); c != real {
			t.Fatalf("Forwarded %q: %v", sent, c)
		}
	})
}

func FuzzForwarded(f *testing.F) {
	tr, peer := trust(target.XForwardedFor), netip.MustParseAddr(proxy)
	f.Add(`for=1.2.3.4;proto=https, for="[2001:db8::1]:80"`)
	f.Fuzz(func(t *testing.T, line string) {
		for _, v := range []string{"", line} {
			c, _ := tr.WalkForwarded(peer, "http", [][]byte{[]byte(v), []byte(v + ",for=5.6.7.8")})
			x, _ := tr.WalkXForwardedFor(peer, [][]byte{[]byte(v), []byte(v + ",5.6.7.8")})
			if c.String() != "5.6.7.8" || x != c {
				t.Fatalf("%q hides what the proxy appended: %v, %v", v, c, x)
			}
		}
		client, scheme := tr.WalkForwarded(peer, "http", [][]byte{[]byte(line)})
		if !client.IsValid() || client.Zone() != "" || scheme != "http" && scheme != "https" {
			t.Fatalf("%q: client %v, scheme %q", line, client, scheme)
		}
		if client != peer && !strings.Contains(line, "=") {
			t.Fatalf("%q: client %v out of nothing", line, client)
		}
	})
}
