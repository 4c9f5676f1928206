package h1_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/h1"
)

// inVirtualTime runs f in a bubble with a connection to a server in it.
func inVirtualTime(t *testing.T, s h1.Settings, f func(t *testing.T, nc net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		srv := h1.New(s)
		ours, theirs := net.Pipe()
		srv.ServeConn(theirs)
		f(t, ours)
		ours.Close()
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
}

// since reports how long the connection lived after from, to the tick.
func endsAfter(t *testing.T, nc net.Conn, want time.Duration) (said string) {
	t.Helper()
	from := time.Now()
	b, err := io.ReadAll(nc)
	if err != nil {
		t.Fatalf("after %q: %v", b, err)
	}
	if took := time.Since(from); took < want || took > want+200*time.Millisecond {
		t.Errorf("ended after %v, want %v", took, want)
	}
	return string(b)
}

func send(t *testing.T, nc net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(nc, s); err != nil {
		t.Fatal(err)
	}
}

func TestSilentConnectionIsClosed(t *testing.T) {
	var r refusals
	s := settings(echo)
	s.HeadTimeout, s.Refused = 10*time.Second, r.add
	inVirtualTime(t, s, func(t *testing.T, nc net.Conn) {
		if said := endsAfter(t, nc, 10*time.Second); said != "" {
			t.Errorf("said %q", said)
		}
	})
	if r.String() != "" {
		t.Errorf("refusals: %s", &r)
	}
}

func TestSlowHeadIsRefused(t *testing.T) {
	var r refusals
	s := settings(echo)
	s.HeadTimeout, s.Refused = 10*time.Second, r.add
	inVirtualTime(t, s, func(t *testing.T, nc net.Conn) {
		from := time.Now()
		var drip sync.WaitGroup
		defer drip.Wait()
		drip.Go(func() { // a byte each second keeps nothing alive
			for _, b := range []byte("GET / HTTP/1.1\r\nHost: a\r\nX: aaaaaaaaaaaaaaaaaaaaa") {
				if _, err := nc.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		})
		said := endsAfter(t, nc, 10*time.Second)
		if !strings.HasPrefix(said, "HTTP/1.1 408 ") || !strings.Contains(said, "head_timeout") || !strings.Contains(said, "Connection: close") {
			t.Errorf("said %q after %v", said, time.Since(from))
		}
	})
	if r.String() != "head_timeout" {
		t.Errorf("refusals: %s", &r)
	}
}

func TestIdleConnectionIsClosed(t *testing.T) {
	s := settings(echo)
	s.IdleTimeout = 30 * time.Second
	inVirtualTime(t, s, func(t *testing.T, nc net.Conn) {
		br := bufio.NewReader(nc)
		for range 3 {
			send(t, nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			if r, err := http.ReadResponse(br, nil); err != nil {
				t.Fatal(err)
			} else if _, err := io.Copy(io.Discard, r.Body); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Second)
		}
		if said := endsAfter(t, nc, 10*time.Second); said != "" {
			t.Errorf("said %q", said)
		}
	})
}

func TestSlowBodyIsRefused(t *testing.T) {
	for name, head := range map[string]string{"length": "Content-Length: 10\r\n\r\nab", "chunked": "Transfer-Encoding: chunked\r\n\r\n5\r\nab"} {
		t.Run(name, func(t *testing.T) {
			s := settings(echo)
			s.BodyTimeout = 10 * time.Second
			inVirtualTime(t, s, func(t *testing.T, nc net.Conn) {
				send(t, nc, "POST / HTTP/1.1\r\nHost: a\r\n"+head)
				said := endsAfter(t, nc, 10*time.Second)
				if !strings.HasPrefix(said, "HTTP/1.1 408 ") || !strings.Contains(said, "body_timeout") || !strings.Contains(said, "Connection: close") {
					t.Errorf("said %q", said)
				}
			})
		})
	}
}

func TestBodyMayTakeLongerThanItsTimeoutInAll(t *testing.T) {
	s := settings(echo)
	s.BodyTimeout, s.HeadTimeout, s.IdleTimeout = 10*time.Second, time.Second, time.Second
	inVirtualTime(t, s, func(t *testing.T, nc net.Conn) {
		send(t, nc, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n")
		for range 8 {
			time.Sleep(9 * time.Second)
			send(t, nc, "x")
		}
		r, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r.Body); err != nil || string(b) != "POST / xxxxxxxx" {
			t.Errorf("%q, %v", b, err)
		}
	})
}

func TestHandlerMayTakeLongerThanEveryTimeout(t *testing.T) {
	s := settings(func(ctx *fasthttp.RequestCtx, _ exchange.Front) {
		time.Sleep(time.Hour)
		ctx.SetBodyString("done")
	})
	s.BodyTimeout, s.HeadTimeout, s.IdleTimeout, s.WriteTimeout = time.Second, time.Second, time.Second, time.Second
	inVirtualTime(t, s, func(t *testing.T, nc net.Conn) {
		send(t, nc, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		if said := endsAfter(t, nc, time.Hour); !strings.HasSuffix(said, "done") {
			t.Errorf("said %q", said)
		}
	})
}

func TestClientThatTakesNothingIsCutOff(t *testing.T) {
	for name, reply := range map[string]func(*fasthttp.RequestCtx){
		"body":   func(ctx *fasthttp.RequestCtx) { ctx.SetBody(make([]byte, 1<<20)) },
		"length": func(ctx *fasthttp.RequestCtx) { ctx.SetBodyStream(bytes.NewReader(make([]byte, 1<<20)), 1<<20) },
		"stream": func(ctx *fasthttp.RequestCtx) { ctx.SetBodyStream(bytes.NewReader(make([]byte, 1<<20)), -1) },
	} {
		t.Run(name, func(t *testing.T) {
			var ended atomic.Int64
			s := settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
				from := time.Now()
				ctx.SetUserValue("end", closer(func() { ended.Store(int64(time.Since(from))) }))
				reply(ctx)
			})
			s.WriteTimeout = 10 * time.Second
			inVirtualTime(t, s, func(t *testing.T, nc net.Conn) {
				send(t, nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
				if _, err := io.ReadFull(nc, make([]byte, 1000)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				if took := time.Duration(ended.Load()); took < 10*time.Second || took > 11*time.Second {
					t.Errorf("the exchange ended after %v", took)
				}
			})
		})
	}
}

func TestSlowReaderIsServed(t *testing.T) {
	s := settings(func(ctx *fasthttp.RequestCtx, _ exchange.Front) { ctx.SetBody(make([]byte, 300<<10)) })
	s.WriteTimeout = 10 * time.Second
	inVirtualTime(t, s, func(t *testing.T, nc net.Conn) {
		send(t, nc, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		n, b := 0, make([]byte, 16<<10) // 16 KiB each second: 64 KiB within the limit, all of it not
		for {
			m, err := nc.Read(b)
			n += m
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if n < 300<<10 {
			t.Errorf("got %d bytes", n)
		}
	})
}

// closer is a user value that tells when the exchange ends.
type closer func()

func (f closer) Close() error { f(); return nil }

// The same limits on a socket, where the loop reads and waits differently.
func TestTimeoutsOnSockets(t *testing.T) {
	const limit = 2 * time.Second // a client that stalls before it speaks is not what is tested
	var r refusals
	s := settings(echo)
	s.HeadTimeout, s.BodyTimeout, s.IdleTimeout, s.Refused = limit, limit, limit, r.add
	addr, srv := start(t, s)
	t.Run("all", func(t *testing.T) {
		for name, test := range map[string]func(t *testing.T, c *client){
			"head": func(t *testing.T, c *client) {
				c.send("GET / HTTP/1.1\r\nHost")
				if r, b := c.reply("GET"); r.StatusCode != 408 || !strings.Contains(b, "head_timeout") || !r.Close {
					t.Errorf("%v %q", r, b)
				}
			},
			"second head": func(t *testing.T, c *client) {
				c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HT")
				if r, _ := c.reply("GET"); r.StatusCode != 200 {
					t.Errorf("%v", r)
				}
				if r, b := c.reply("GET"); r.StatusCode != 408 || !strings.Contains(b, "head_timeout") {
					t.Errorf("%v %q", r, b)
				}
			},
			"body": func(t *testing.T, c *client) {
				c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
				if r, b := c.reply("POST"); r.StatusCode != 408 || b != "body_timeout" || !r.Close {
					t.Errorf("%v %q", r, b)
				}
			},
			"idle": func(_ *testing.T, c *client) {
				c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
				c.reply("GET")
			},
			"silent": func(*testing.T, *client) {},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c := dial(t, addr)
				test(t, c)
				c.closed()
			})
		}
	})
	eventually(t, "all connections gone", func() bool { return srv.Stats().Open == 0 })
	if r.String() != "head_timeout head_timeout" {
		t.Errorf("refusals: %s", &r)
	}
}
