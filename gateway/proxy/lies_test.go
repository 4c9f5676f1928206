package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// Upstreams that lie get the client a clear refusal, never a reply that is
// made up of what should not have been there.
func TestLyingUpstreams(t *testing.T) {
	long := strings.Repeat("X-Filler: "+strings.Repeat("y", 1000)+"\r\n", 100)
	for _, tc := range []struct {
		name, reply string
		want        *reason.Reason
	}{
		{"garbage", "\x16\x03\x01\x02\x00\x01\x00", reason.UpstreamProtocol},
		{"another protocol", "220 mail.test ESMTP\r\n", reason.UpstreamProtocol},
		{"http 0.9", "<html>hello</html>", reason.UpstreamProtocol},
		{"length and chunked", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", reason.UpstreamProtocol},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", reason.UpstreamProtocol},
		{"negative length", "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello", reason.UpstreamProtocol},
		{"unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxx", reason.UpstreamProtocol},
		{"folded header", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n", reason.UpstreamProtocol},
		{"bare line feeds", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", reason.UpstreamProtocol},
		{"uninvited upgrade", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", reason.UpstreamProtocol},
		{"endless head", "HTTP/1.1 200 OK\r\n" + long, reason.UpstreamHeadLarge},
		{"too many fields", "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 300) + "\r\n", reason.UpstreamHeadLarge},
		{"flood of interim replies", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 1000), reason.UpstreamProtocol},
		{"silence", "", reason.UpstreamReset},
		{"half a head", "HTTP/1.1 200 OK\r\nContent-Len", reason.UpstreamReset},
	} {
		t.Run(tc.name, func(t *testing.T) {
			up := raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
				readHead(r)
				io.WriteString(c, tc.reply)
			})
			g := start(t, proxy.Settings{}, up)
			got := strings.ReplaceAll(get(t, g.addr, "/"), "HTTP/1.1 103 Early Hints\r\n\r\n", "")
			if want := fmt.Sprintf("HTTP/1.1 %d", tc.want.Status); !strings.HasPrefix(got, want) {
				t.Fatalf("client got %q", got)
			}
			f := g.await(t, 1)
			if f.refusal == nil || f.refusal.Reason != tc.want {
				t.Fatalf("refusal %v, want %s", f.refusal, tc.want.Name)
			}
			if !strings.Contains(f.refusal.Detail, up) {
				t.Errorf("the detail does not name the endpoint: %q", f.refusal.Detail)
			}
		})
	}
}

// A reply that breaks off must not look complete to the client.
func TestBrokenReplyAbortsTheClient(t *testing.T) {
	for _, tc := range []struct{ name, reply string }{
		{"short of its length", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"},
		{"in a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\nonly this"},
		{"between chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"},
		{"before the last line", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"},
		{"bad chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n"},
		{"forbidden trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			up := raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
				readHead(r)
				io.WriteString(c, tc.reply)
				time.Sleep(20 * time.Millisecond) // let the beginning arrive by itself
			})
			g := start(t, proxy.Settings{}, up)
			resp, err := client(t).Get("http://" + g.addr + "/")
			if err != nil {
				return // so early that not even the head was sent
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err == nil {
				t.Fatalf("the client took %q for the whole reply", b)
			}
			f := g.await(t, 1)
			if f.refusal == nil || f.refusal.Reason != reason.UpstreamReset && f.refusal.Reason != reason.UpstreamProtocol {
				t.Fatalf("refusal %v", f.refusal)
			}
		})
	}
}

// What an upstream sends behind its reply must not become anybody's reply.
func TestBytesBehindTheReplyAreDropped(t *testing.T) {
	const extra = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned"
	for _, tc := range []struct {
		name  string
		pause time.Duration
	}{{"at once", 0}, {"later", 30 * time.Millisecond}} {
		t.Run(tc.name, func(t *testing.T) {
			sent := make(chan struct{}, 8)
			up := raw(t, func(n int, c net.Conn, r *bufio.Reader) {
				for readHead(r) != "" {
					reply := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nconn %d", n)
					if tc.pause == 0 {
						reply += extra
					}
					io.WriteString(c, reply)
					if tc.pause > 0 {
						time.Sleep(tc.pause)
						io.WriteString(c, extra)
					}
					sent <- struct{}{}
				}
			})
			g := start(t, proxy.Settings{}, up)
			for i := range 3 {
				got := get(t, g.addr, "/")
				if want := fmt.Sprintf("conn %d", i); !strings.HasSuffix(got, want) {
					t.Fatalf("request %d got %q", i, got)
				}
				<-sent
			}
		})
	}
}

func TestRepliesWithoutBody(t *testing.T) {
	for _, tc := range []struct{ name, method, reply, want, not string }{
		{"head with length", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", "Content-Length: 1234\r\n", ""},
		{"head chunked", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "200 OK\r\n", "Content-Length"},
		{"head without", "HEAD", "HTTP/1.1 200 OK\r\nX: y\r\n\r\n", "X: y\r\n", "Content-Length"},
		{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", "204 No Content\r\n", "Content-Length"},
		{"304 with length", "GET", "HTTP/1.1 304 Not Modified\r\nEtag: \"x\"\r\nContent-Length: 77\r\n\r\n", "Etag: \"x\"\r\n", "Content-Length"},
		{"304", "GET", "HTTP/1.1 304 Not Modified\r\nEtag: \"x\"\r\n\r\n", "Etag: \"x\"\r\n", "Content-Length"},
		{"empty", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "Content-Length: 0\r\n", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := start(t, proxy.Settings{}, answering(t, tc.reply))
			c, r := dial(t, g.addr, "%s / HTTP/1.1\r\nHost: a.test\r\n\r\n", tc.method)
			for range 3 { // the connections on both sides stay usable
				head := readHead(r)
				if !strings.Contains(head, tc.want) || tc.not != "" && strings.Contains(head, tc.not) {
					t.Fatalf("got %q", head)
				}
				fmt.Fprintf(c, "%s / HTTP/1.1\r\nHost: a.test\r\n\r\n", tc.method)
			}
			readHead(r)
			if tries := g.tried(); len(tries) < 3 || !tries[2].Reused {
				t.Errorf("the upstream's connection was not used again: %+v", tries)
			}
		})
	}
}

func TestReplyUntilClose(t *testing.T) {
	up := raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		readHead(r)
		io.WriteString(c, "HTTP/1.0 200 OK\r\n\r\nuntil ")
		time.Sleep(10 * time.Millisecond)
		io.WriteString(c, "the end")
	})
	g := start(t, proxy.Settings{}, up)
	resp, err := client(t).Get("http://" + g.addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "until the end" {
		t.Fatalf("%q, %v", b, err)
	}
}

func TestRequestBodyOfWrongLength(t *testing.T) {
	t.Run("cut by the client", func(t *testing.T) {
		asked, seen := make(chan struct{}, 1), make(chan error, 1)
		up := handle(t, func(_ http.ResponseWriter, r *http.Request) {
			asked <- struct{}{}
			_, err := io.ReadAll(r.Body)
			seen <- err
		})
		g := start(t, proxy.Settings{}, up)
		c, _ := dial(t, g.addr, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000\r\n\r\n%s", strings.Repeat("x", 50000))
		<-asked
		c.Close()
		if err := <-seen; err == nil {
			t.Error("the upstream took a cut body for a whole one")
		}
		g.await(t, 1)
	})
	t.Run("chunked, cut by the client", func(t *testing.T) {
		asked, seen := make(chan struct{}, 1), make(chan error, 1)
		up := handle(t, func(_ http.ResponseWriter, r *http.Request) {
			asked <- struct{}{}
			_, err := io.ReadAll(r.Body)
			seen <- err
		})
		g := start(t, proxy.Settings{}, up)
		c, _ := dial(t, g.addr, "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
		<-asked
		c.Close()
		if err := <-seen; err == nil {
			t.Error("the upstream took a cut body for a whole one")
		}
		g.await(t, 1)
	})
	t.Run("malformed chunk", func(t *testing.T) {
		up := handle(t, func(_ http.ResponseWriter, r *http.Request) { io.ReadAll(r.Body) })
		g := start(t, proxy.Settings{}, up)
		_, r := dial(t, g.addr, "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n")
		if head := readHead(r); !strings.HasPrefix(head, "HTTP/1.1 400") {
			t.Errorf("got %q", head)
		}
		if f := g.await(t, 1); f.refusal == nil || f.refusal.Reason != reason.BadChunk {
			t.Errorf("refusal %v", f.refusal)
		}
	})
}
