package h1_test

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/h1"
)

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// handedOver is a server whose connections of HTTP/2 arrive on the channel.
func handedOver(t *testing.T, r *refusals) (addr string, srv *h1.Server, taken chan string, conns chan net.Conn) {
	taken, conns = make(chan string, 1), make(chan net.Conn, 1)
	s := settings(func(ctx *fasthttp.RequestCtx, _ exchange.Front) { ctx.SetBodyString("one") })
	s.Refused = r.add
	s.Preface = func(nc net.Conn, early []byte) {
		taken <- string(early)
		conns <- nc
	}
	addr, srv = start(t, s)
	return addr, srv, taken, conns
}

func TestAConnectionOfHTTP2IsHandedOver(t *testing.T) {
	for name, send := range map[string][]string{
		"alone":             {preface},
		"with more behind":  {preface + "\x00\x00\x00\x04"},
		"in two pieces":     {preface[:7], preface[7:]},
		"byte by byte":      strings.Split(preface, ""),
		"more in one piece": {preface[:20], preface[20:] + "\x00"},
	} {
		t.Run(name, func(t *testing.T) {
			var r refusals
			addr, srv, taken, conns := handedOver(t, &r)
			c := dial(t, addr)
			for _, piece := range send {
				c.send("%s", piece)
				time.Sleep(time.Millisecond) // so that pieces arrive as such
			}
			if got := <-taken; !strings.HasPrefix(strings.Join(send, ""), got) || !strings.HasPrefix(got, preface) {
				t.Errorf("handed over with %q", got)
			}
			nc := <-conns
			defer nc.Close()
			if err := srv.Close(); err != nil { // has nothing to do with it any more
				t.Error(err)
			}
			if _, err := io.WriteString(nc, "settings"); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 8)
			if _, err := io.ReadFull(c, got); err != nil || string(got) != "settings" {
				t.Errorf("the client reads %q, %v", got, err)
			}
			if n := srv.Stats().Open; n != 0 || r.String() != "" {
				t.Errorf("%d connections left, refused %q", n, r.String())
			}
		})
	}
}

func TestOnlyTheFirstBytesAreAPreface(t *testing.T) {
	for name, c := range map[string]struct{ send, want string }{
		"after a request":     {"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + preface, "bad_version"},
		"after an empty line": {"\r\n" + preface, "bad_version"},
		"only its first line": {"PRI * HTTP/2.0\r\nHost: a\r\n\r\n", "bad_version"},
		"another end":         {preface[:len(preface)-2] + "xx", "bad_version"},
		"HTTP/1 with PRI":     {"PRI * HTTP/1.1\r\nHost: a\r\n\r\n", "method_refused"},
	} {
		t.Run(name, func(t *testing.T) {
			var r refusals
			addr, _, taken, _ := handedOver(t, &r)
			cl := dial(t, addr)
			cl.send("%s", c.send)
			if _, err := io.ReadAll(cl); err != nil {
				t.Fatal(err)
			}
			if len(taken) > 0 || r.String() != c.want {
				t.Errorf("handed over %d, refused %q, want %q", len(taken), r.String(), c.want)
			}
		})
	}
	t.Run("a method that begins alike", func(t *testing.T) {
		var r refusals
		addr, _, _, _ := handedOver(t, &r)
		cl := dial(t, addr)
		for _, piece := range []string{"P", "R", "OPFIND / HTTP/1.1\r\nHost: a\r\n\r\n"} {
			cl.send("%s", piece)
			time.Sleep(time.Millisecond)
		}
		if resp, body := cl.reply("PROPFIND"); resp.StatusCode != 200 || body != "one" {
			t.Errorf("got %d %q", resp.StatusCode, body)
		}
	})
}

func TestWithoutAPlaceToGoAPrefaceIsRefused(t *testing.T) {
	var r refusals
	s := settings(func(*fasthttp.RequestCtx, exchange.Front) { t.Error("reached the handler") })
	s.Refused = r.add
	addr, _ := start(t, s)
	c := dial(t, addr)
	c.send("%s", preface)
	if resp, _ := c.reply("GET"); resp.StatusCode != 505 || r.String() != "bad_version" {
		t.Errorf("got %d, refused %q", resp.StatusCode, r.String())
	}
}

func TestAPrefaceThatDoesNotArriveIsCut(t *testing.T) {
	var r refusals
	s := settings(func(*fasthttp.RequestCtx, exchange.Front) {})
	s.Refused, s.HeadTimeout = r.add, 10*time.Second
	s.Preface = func(net.Conn, []byte) { t.Error("handed over half a preface") }
	inVirtualTime(t, s, func(t *testing.T, nc net.Conn) {
		send(t, nc, preface[:10])
		endsAfter(t, nc, 10*time.Second)
	})
	if r.String() != "head_timeout" {
		t.Errorf("refused %q", r.String())
	}
}
