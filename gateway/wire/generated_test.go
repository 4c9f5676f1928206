package wire_test

import (
	"math/rand/v2"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// TestGeneratedRequests builds requests from parts that parsers are known to
// disagree about; whatever of it we accept, net/http must read the same way.
func TestGeneratedRequests(t *testing.T) {
	accepted := 0
	for seed := range uint64(60_000) {
		g := generator{rand.New(rand.NewPCG(seed, 1))}
		in := []byte(g.request())
		var h wire.Head
		n, r := h.Parse(in, &testLimits)
		if r != nil {
			continue
		}
		accepted++
		body, trailers, err := decode(in[n:], 1+int(seed%40), 1+int(seed%9), &h)
		compare(t, in, &h, body, trailers, err)
	}
	if accepted < 1000 {
		t.Errorf("only %d accepted: the test tests nothing", accepted)
	}
}

type generator struct{ *rand.Rand }

func (g generator) pick(parts ...string) string { return parts[g.IntN(len(parts))] }

func (g generator) request() string {
	s := g.pick("GET", "POST", "PUT", "PROPFIND", "OPTIONS", "HEAD", "M-X", "G(T", "get") + g.pick(" ", " ", " ", " ", "  ", "\t") +
		g.pick("/", "/x", "/x?a=%zz", "/%41", "/%4", "*", "http://a.test/x", "http://A.test:80/x?y", "//x//y", "/x;p=1", "/a#b", "/\xc3\xa9",
			"/x?{}|'\"<>\\^`", "http://a.test", "/a:b@c", "?x", "https://a.test/../x", "/x?://y") +
		" " + g.pick("HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/1.1 ") + g.pick("\r\n", "\r\n", "\r\n", "\r\n", "\n")
	s += "Host:" + g.pick(" ", "", "\t") + g.pick("a.test", "a.test", "a.test", "a.test:80", "[::1]", "a b", "a/b", "u@a", "1.2.3.4:5", "a.test:", "a_b.c") + "\r\n"
	for range g.IntN(4) {
		s += g.pick("X", "x-Y", "Cookie", "Accept", "X_Y", "X.Y", "Pragma", "Connection", "Te", "Upgrade", "Content-Length", "Transfer-Encoding", "Expect", "Trailer", "X ", "\x01", "!#$%&'*+-.^_`|~") +
			g.pick(":", ":", ":", ":", " :", "") +
			g.pick("", " ", "  \t") +
			g.pick("a", "a, b", "", "a\x7f", "caf\xe9", "a\tb", "a\r b", "close", "keep-alive, upgrade", "3", "chunked", "100-continue", "Chunked", "0", "X-T", "a:b") +
			g.pick("", " ", "\t ") + g.pick("\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r\n ")
	}
	return s + g.body()
}

func (g generator) body() (s string) {
	switch g.IntN(3) {
	case 0:
		return "Content-Length: " + g.pick("0", "3", "03", "5", "+3", "3 ") + "\r\n\r\n" + g.pick("abc", "abcde", "ab")
	case 1:
		s = "Transfer-Encoding: chunked" + g.pick("", "", " ") + "\r\n\r\n"
		for range g.IntN(3) {
			s += g.pick("3\r\nabc", "3;a=b\r\nabc", "03\r\nabc", "A\r\n0123456789", "a\r\n0123456789", "3 \r\nabc", "3;\"x\"\r\nabc", "3\r\nabcd", "3\nabc", "0x3\r\nabc") +
				g.pick("\r\n", "\r\n", "\r\n", "\n", "")
		}
		return s + g.pick("0", "000", "0;x", "") + "\r\n" + g.pick("", "", "X-T: v\r\n", "x-t:\r\n", "Host: b\r\n", "X T: v\r\n", "X: \x00\r\n") + "\r\n"
	}
	return "\r\n"
}
