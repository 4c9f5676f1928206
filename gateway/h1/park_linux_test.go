package h1_test

import (
	"context"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/h1"
)

// parkedServer parks its connections at the first opportunity.
func parkedServer(t testing.TB, s h1.Settings) (addr string, srv *h1.Server) {
	addr, srv = start(t, s)
	srv.SetParkAfter(0)
	return addr, srv
}

func waitParked(t testing.TB, srv *h1.Server, n int) {
	t.Helper()
	eventually(t, "parked connections", func() bool { s := srv.Stats(); return s.Parked == n && s.Idle == n })
}

func TestParkedConnections(t *testing.T) {
	s := settings(echo)
	addr, srv := parkedServer(t, s)
	var conns []*client
	for range 20 {
		c := dial(t, addr)
		conns = append(conns, c)
		c.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
		c.reply("GET")
	}
	waitParked(t, srv, 20)
	t.Run("serve again, more than once", func(t *testing.T) {
		for range 3 {
			for i, c := range conns {
				c.send("%s", "GET /2 HTTP/1.1\r\nHost: a\r\n\r\n"[:1+i])
				c.send("%s", "GET /2 HTTP/1.1\r\nHost: a\r\n\r\n"[1+i:])
				if _, b := c.reply("GET"); b != "GET /2 " {
					t.Errorf("%q", b)
				}
			}
			waitParked(t, srv, 20)
		}
	})
	t.Run("are closed with their client", func(t *testing.T) {
		for _, c := range conns[:10] {
			c.Close()
		}
		waitParked(t, srv, 10)
	})
	t.Run("take a last request with a FIN", func(t *testing.T) {
		for _, c := range conns[10:15] {
			c.send("GET /3 HTTP/1.1\r\nHost: a\r\n\r\n")
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if _, b := c.reply("GET"); b != "GET /3 " {
				t.Errorf("%q", b)
			}
			c.closed()
		}
		waitParked(t, srv, 5)
	})
	t.Run("end with Shutdown", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		for _, c := range conns[15:] {
			c.closed()
		}
	})
}

func TestParkedConnectionsTimeOut(t *testing.T) {
	testParkedTimeOut(t, func(addr string, _ *h1.Server) ending {
		c := dial(t, addr)
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		c.reply("GET")
		return c
	}, func(addr string, _ *h1.Server) ending { return dial(t, addr) })
}

// ending is a client that can wait for its connection's end.
type ending interface{ closed() }

// testParkedTimeOut wants parked connections to end in time: one that was used
// and one that never asked. A machine that is too slow to see them parked before
// they end gets more time.
func testParkedTimeOut(t *testing.T, use, come func(addr string, srv *h1.Server) ending) {
	for d := 300 * time.Millisecond; ; d *= 4 {
		s := settings(echo)
		s.IdleTimeout = d
		addr, srv := parkedServer(t, s)
		used := use(addr, srv)
		s.HeadTimeout = d
		srv.Update(s)
		fresh := come(addr, srv)
		parked := false
		eventually(t, "parked, or gone already", func() bool {
			now := srv.Stats()
			parked = parked || now.Parked == 2
			return parked || now.Open == 0
		})
		used.closed()
		fresh.closed()
		eventually(t, "gone", func() bool { return srv.Stats().Open == 0 })
		if parked {
			return
		}
		if d > 5*time.Second {
			t.Fatal("never parked")
		}
	}
}

func TestParkedConnectionsEndWithClose(t *testing.T) {
	addr, srv := parkedServer(t, settings(echo))
	c := dial(t, addr)
	waitParked(t, srv, 1)
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	c.closed()
}

// Requests that come just as their connection is being parked must not be lost.
func TestParkingUnderLoad(t *testing.T) {
	addr, srv := parkedServer(t, settings(echo))
	done := make(chan bool)
	for i := range 16 {
		go func() {
			defer func() { done <- true }()
			c := dial(t, addr)
			for n := range 12 {
				c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
				c.reply("GET")
				time.Sleep(time.Duration(90+(i*7+n*3)%40) * time.Millisecond)
			}
			c.Close()
		}()
	}
	for range 16 {
		<-done
	}
	eventually(t, "gone", func() bool { return srv.Stats().Open == 0 })
}
