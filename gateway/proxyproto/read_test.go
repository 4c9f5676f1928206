package proxyproto_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/proxyproto"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

func v2(command, family byte, block string) string {
	return "\r\n\r\n\x00\r\nQUIT\n" + string([]byte{0x20 | command, family, byte(len(block) >> 8), byte(len(block))}) + block
}

const (
	block4 = "\xc0\x00\x02\x01\x0a\x00\x00\x01\x04\xd2\x00\x50"
	block6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07" + "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x08" + "\x04\xd2\x00\x50"
)

// cases are headers, what is behind them, and the client; empty: the peer itself.
var good = map[string]struct{ header, client string }{
	"v1 TCP4":              {"PROXY TCP4 192.0.2.1 10.0.0.1 1234 80\r\n", "192.0.2.1:1234"},
	"v1 shortest TCP4":     {"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n", "1.1.1.1:1"},
	"v1 TCP6":              {"PROXY TCP6 2001:db8::7 2001:db8::8 1234 80\r\n", "[2001:db8::7]:1234"},
	"v1 shortest TCP6":     {"PROXY TCP6 :: :: 0 0\r\n", "[::]:0"},
	"v1 longest TCP6":      {"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"},
	"v1 mapped":            {"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:10.0.0.1 1234 80\r\n", "192.0.2.1:1234"},
	"v1 UNKNOWN":           {"PROXY UNKNOWN\r\n", ""},
	"v1 UNKNOWN with more": {"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", ""},
	"v1 UNKNOWN, longest":  {"PROXY UNKNOWN " + strings.Repeat("x", 91) + "\r\n", ""},
	"v2 TCP4":              {v2(1, 0x11, block4), "192.0.2.1:1234"},
	"v2 TCP6":              {v2(1, 0x21, block6), "[2001:db8::7]:1234"},
	"v2 with extensions":   {v2(1, 0x11, block4+"\x02\x00\x05hello\x04\x00\x00"), "192.0.2.1:1234"},
	"v2 with many":         {v2(1, 0x11, block4+"\xee\x0f\x00"+strings.Repeat("e", 0xf00)), "192.0.2.1:1234"},
	"v2 broken extensions": {v2(1, 0x11, block4+"\x02\xff\xff"), "192.0.2.1:1234"},
	"v2 LOCAL":             {v2(0, 0x00, ""), ""},
	"v2 LOCAL with a lie":  {v2(0, 0x11, block4), ""},
	"v2 unix":              {v2(1, 0x31, strings.Repeat("\x00", 216)), ""},
}

// pair is two ends of a loopback connection.
func pair(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func policy(timeout time.Duration) *proxyproto.Policy {
	return proxyproto.NewPolicy([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, timeout)
}

// TestTakesExactlyTheHeader: however it comes in pieces, and whatever is
// behind it, not one byte more is read.
func TestTakesExactlyTheHeader(t *testing.T) {
	const behind = "PROXY is what follows\r\n\r\n"
	for name, tc := range good {
		t.Run(name, func(t *testing.T) {
			for split := 0; split <= len(tc.header); split += 1 + len(tc.header)/500 {
				c, s := net.Pipe()
				go func() {
					io.WriteString(c, tc.header[:split])
					io.WriteString(c, tc.header[split:]+behind)
					c.Close()
				}()
				got, err := policy(time.Minute).Read(s)
				rest, _ := io.ReadAll(s)
				if err != nil || string(rest) != behind {
					t.Fatalf("split at %d: %v, behind it %q", split, err, rest)
				}
				if want := tc.client; want == "" && got.IsValid() || want != "" && got.String() != want {
					t.Fatalf("split at %d: %v", split, got)
				}
				s.Close()
			}
		})
	}
}

func TestByteByByteOverTCP(t *testing.T) {
	c, s := pair(t)
	header := good["v1 TCP6"].header
	go func() {
		for i := range len(header) {
			c.Write([]byte{header[i]})
		}
		io.WriteString(c, "x")
	}()
	got, err := policy(time.Minute).Read(s)
	if err != nil || got.String() != "[2001:db8::7]:1234" {
		t.Errorf("%v, %v", got, err)
	}
	b := make([]byte, 2)
	if n, err := s.Read(b); n != 1 || b[0] != 'x' {
		t.Errorf("behind it: %q, %v", b[:n], err)
	}
}

func TestWhatIsNoHeader(t *testing.T) {
	missing, malformed, nothing := error(reason.ProxyHeaderMissing), error(reason.ProxyHeaderMalformed), proxyproto.ErrNothingSaid
	for name, tc := range map[string]struct {
		text string
		want error
	}{
		"nothing":                      {"", nothing},
		"HTTP":                         {"GET / HTTP/1.1\r\n\r\n", missing},
		"one byte":                     {"\x16", missing},
		"nearly":                       {"PROXYS TCP4", missing},
		"lower case":                   {"proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n", missing},
		"nearly v2":                    {"\r\n\r\n\x00\r\nQUIT\r", missing},
		"half v1":                      {"PROXY TCP4 1.1.1.1 2.2", malformed},
		"half v2":                      {v2(1, 0x11, block4)[:20], malformed},
		"only the signature":           {v2(1, 0x11, block4)[:12], malformed},
		"LF alone":                     {"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n", malformed},
		"early line end":               {"PROXY TCP4\r\nGET / HTTP/1.1\r\n\r\n", malformed},
		"CR inside":                    {"PROXY TCP4 1.1.1.1\r2.2.2.2 1 2 3 4\r\n", malformed},
		"too long":                     {"PROXY UNKNOWN " + strings.Repeat("x", 200) + "\r\n", malformed},
		"one byte too long":            {"PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n", malformed},
		"two spaces":                   {"PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n", malformed},
		"a word too many":              {"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n", malformed},
		"a word too few":               {"PROXY TCP4 1.1.1.1 2.2.2.2 12345\r\n", malformed},
		"wrong family":                 {"PROXY TCP4 2001:db8::7 2001:db8::8 1 2\r\n", malformed},
		"a name":                       {"PROXY TCP4 localhost localhost 1 2\r\n", malformed},
		"a zone":                       {"PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n", malformed},
		"leading zero":                 {"PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n", malformed},
		"port too large":               {"PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n", malformed},
		"octal":                        {"PROXY TCP4 1.1.1.01 2.2.2.2 1 2\r\n", malformed},
		"UDP4":                         {"PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n", malformed},
		"UNKNOWN of something":         {"PROXY UNKNOWNS\r\n", malformed},
		"NUL":                          {"PROXY TCP4 1.1.1.1\x00 2.2.2.2 1 2\r\n", malformed},
		"v2 of version 1":              {strings.Replace(v2(1, 0x11, block4), "\x21", "\x11", 1), malformed},
		"v2 unknown command":           {v2(2, 0x11, block4), malformed},
		"v2 unknown family":            {v2(1, 0x41, block4), malformed},
		"v2 unknown transport":         {v2(1, 0x13, block4), malformed},
		"v2 datagrams":                 {v2(1, 0x12, block4), malformed},
		"v2 addresses too short":       {v2(1, 0x11, block4[:8]), malformed},
		"v2 no addresses":              {v2(1, 0x21, ""), malformed},
		"v2 unspecified, not LOCAL":    {v2(1, 0x00, ""), malformed},
		"v2 too large for any purpose": {v2(1, 0x11, strings.Repeat("x", 5000)), malformed},
		"v2 largest length":            {"\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff", malformed},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := net.Pipe()
			defer s.Close()
			go func() {
				io.WriteString(c, tc.text)
				c.Close()
			}()
			if got, err := policy(time.Minute).Read(s); !errors.Is(err, tc.want) || got.IsValid() {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

func TestTooLate(t *testing.T) {
	for _, text := range []string{"", "PROXY", good["v1 TCP4"].header[:30], v2(1, 0x11, block4)[:20]} {
		synctest.Test(t, func(t *testing.T) {
			c, s := net.Pipe()
			go io.WriteString(c, text)
			began := time.Now()
			_, err := policy(5 * time.Second).Read(s)
			if !errors.Is(err, reason.ProxyHeaderTimeout) || time.Since(began) != 5*time.Second {
				t.Errorf("%q: %v after %v", text, err, time.Since(began))
			}
			c.Close()
			s.Close()
		})
	}
}

func TestNobodyIsToBlame(t *testing.T) {
	c, s := pair(t)
	c.SetLinger(0)
	c.Close()
	if _, err := policy(time.Minute).Read(s); !errors.Is(err, proxyproto.ErrNothingSaid) {
		t.Errorf("a reset before the first byte: %v", err)
	}
	_, s = pair(t)
	done := make(chan error)
	go func() { _, err := policy(time.Minute).Read(s); done <- err }()
	s.Close()
	if err := <-done; !errors.Is(err, proxyproto.ErrNothingSaid) {
		t.Errorf("closed by ourselves: %v", err)
	}
}

func TestTrusts(t *testing.T) {
	p := proxyproto.NewPolicy([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fe80::/10")}, time.Second)
	for peer, want := range map[string]bool{
		"10.1.2.3": true, "::ffff:10.1.2.3": true, "11.0.0.1": false, "fe80::1%eth0": true, "::1": false,
	} {
		if p.Trusts(netip.MustParseAddr(peer)) != want {
			t.Errorf("%s: not %v", peer, want)
		}
	}
	if p.Trusts(netip.Addr{}) {
		t.Error("who has no address is trusted")
	}
}

func TestLook(t *testing.T) {
	for text, want := range map[string]proxyproto.Looks{
		"": proxyproto.Undecided, "P": proxyproto.Undecided, "PROXY": proxyproto.Undecided, "PROXY ": proxyproto.Proxy,
		"PROXY TCP4": proxyproto.Proxy, "POST / HTTP/1.1": proxyproto.Other, "\r\n\r\n": proxyproto.Undecided,
		"\r\n\r\n\x00\r\nQUIT\n": proxyproto.Proxy, "\r\n\r\nGET": proxyproto.Other, "\x16\x03\x01": proxyproto.Other,
	} {
		if got := proxyproto.Look([]byte(text)); got != want {
			t.Errorf("%q: %d", text, got)
		}
	}
	b := []byte("GET / HTTP/1.1")
	if n := testing.AllocsPerRun(100, func() { proxyproto.Look(b) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestOwnHeadersAreUnderstood: what Append writes, Read reads.
func TestOwnHeadersAreUnderstood(t *testing.T) {
	for _, from := range []string{"192.0.2.1:1234", "[2001:db8::7]:65535", "[fe80::1%eth0]:1", "[::ffff:192.0.2.1]:5", ""} {
		for _, to := range []string{"10.0.0.1:80", "[2001:db8::8]:443", ""} {
			for _, v := range []proxyproto.Version{proxyproto.V1, proxyproto.V2} {
				var src, dst netip.AddrPort
				if from != "" {
					src = netip.MustParseAddrPort(from)
				}
				if to != "" {
					dst = netip.MustParseAddrPort(to)
				}
				header := proxyproto.Append([]byte("x"), v, src, dst)[1:]
				c, s := net.Pipe()
				go func() { c.Write(header); c.Close() }()
				got, err := policy(time.Minute).Read(s)
				s.Close()
				want := netip.AddrPortFrom(src.Addr().Unmap().WithZone(""), src.Port())
				if from == "" || to == "" {
					want = netip.AddrPort{}
				}
				if err != nil || got != want {
					t.Errorf("%d, %q to %q: %q gives %v, %v", v, from, to, header, got, err)
				}
			}
		}
	}
	if b := proxyproto.Append(nil, proxyproto.None, netip.AddrPort{}, netip.AddrPort{}); len(b) != 0 {
		t.Errorf("None: %q", b)
	}
}

// FuzzRead sends bytes in two pieces: the outcome is the same wherever they are
// cut, nothing behind a header is taken, and a client is named only by one.
func FuzzRead(f *testing.F) {
	for _, tc := range good {
		f.Add([]byte(tc.header+"behind"), uint16(7))
	}
	f.Add([]byte("PROXY TCP4 1.1.1.1\r\n"), uint16(3))
	f.Fuzz(func(t *testing.T, b []byte, cut uint16) {
		read := func(at int) string {
			c, s := net.Pipe()
			go func() {
				if _, err := c.Write(b[:at]); err == nil {
					c.Write(b[at:])
				}
				c.Close()
			}()
			got, err := policy(time.Minute).Read(s)
			if err != nil && got.IsValid() {
				t.Fatalf("%q: %v and %v", b, got, err)
			}
			rest, _ := io.ReadAll(s)
			s.Close()
			if err != nil {
				return reason.From(err).Reason.Name
			}
			taken := b[:len(b)-len(rest)]
			if proxyproto.Look(taken) != proxyproto.Proxy || string(b[len(taken):]) != string(rest) {
				t.Fatalf("%q: took %q, left %q", b, taken, rest)
			}
			if taken[0] == 'P' && !strings.HasSuffix(string(taken), "\r\n") || len(taken) > 16+4096 {
				t.Fatalf("%q: took %q", b, taken)
			}
			return fmt.Sprint(got, len(taken))
		}
		whole, parts := read(len(b)), read(int(cut)%(len(b)+1))
		if whole != parts {
			t.Fatalf("%q: %s at once, %s when cut at %d", b, whole, parts, int(cut)%(len(b)+1))
		}
	})
}

func BenchmarkRead(b *testing.B) {
	for _, name := range []string{"v1 TCP4", "v2 TCP4"} {
		b.Run(name, func(b *testing.B) {
			c, s := pair(b)
			p := policy(time.Minute)
			header := []byte(good[name].header)
			b.ReportAllocs()
			for b.Loop() {
				c.Write(header)
				if _, err := p.Read(s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
