package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

// moody answers with the request's own path, in one of many ways, some of
// which are wrong.
func moody(t testing.TB) string {
	return raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		for {
			head := readHead(r)
			if head == "" {
				return
			}
			path := strings.Fields(head)[1]
			reply := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(path), path)
			switch rand.IntN(10) {
			case 0:
				return // without a word
			case 1:
				io.WriteString(c, reply[:len(reply)-3])
				return // half-way
			case 2:
				io.WriteString(c, reply)
				return // behind a good reply, without saying so
			case 3:
				io.WriteString(c, reply+"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
			case 4:
				io.WriteString(c, fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(path), path))
			case 5:
				io.WriteString(c, reply[:20])
				time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
				io.WriteString(c, reply[20:])
			case 6:
				socket(c).SetLinger(0)
				return // with a reset
			case 7:
				time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
				io.WriteString(c, reply)
			case 8:
				big := strings.Repeat(path, 3000)
				io.WriteString(c, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(big), big))
			default:
				io.WriteString(c, reply)
			}
		}
	})
}

// Many clients, some of which leave early, and endpoints that do everything
// wrong: whoever gets a complete reply gets his own, and nothing is left over.
func TestStorm(t *testing.T) {
	up := newUpstream(t, upstream.Settings{Breaker: upstream.BreakerSettings{MaxConnections: 8, MaxPending: 1000, MaxRequests: 1000, MaxRetries: 10}}, moody(t), moody(t))
	perTry := 20 * time.Millisecond
	if overTLS {
		perTry = 500 * time.Millisecond // thousands of handshakes take their time
	}
	storm(t, up, perTry, 300)
}

// The same over HTTP/2, where requests share connections.
func TestStormOverHTTP2(t *testing.T) {
	up := overHTTP2(t, moodyHTTP2(t), moodyHTTP2(t))[0].Upstream
	storm(t, up, 200*time.Millisecond, 100)
}

// moodyHTTP2 is what moody is, as far as HTTP/2 lets a server of net/http.
func moodyHTTP2(t testing.TB) string {
	return handleHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
		flush := http.NewResponseController(w).Flush
		switch rand.IntN(8) {
		case 0:
			panic(http.ErrAbortHandler)
		case 1:
			io.WriteString(w, r.URL.Path[:3])
			flush()
			panic(http.ErrAbortHandler)
		case 2:
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, r.URL.Path)
		case 3:
			w.Header().Set("Connection", "close") // GOAWAY
			io.WriteString(w, r.URL.Path)
		case 4:
			time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
			io.WriteString(w, r.URL.Path)
		case 5:
			io.WriteString(w, strings.Repeat(r.URL.Path, 3000))
		default:
			io.WriteString(w, r.URL.Path)
			flush()
		}
	})
}

// storm wants at least so many good replies.
func storm(t *testing.T, up *upstream.Upstream, perTry time.Duration, least int32) {
	s := proxy.Settings{Backends: []proxy.Backend{{Upstream: up, Weight: 1}}, Timeouts: proxy.Timeouts{Request: 5 * time.Second, PerTry: perTry}}
	s.Retries = proxy.RetrySettings{Attempts: 2, On: retryOn(t, "reset", "timeout"), BudgetPercent: 100, Backoff: time.Millisecond}
	for _, hedge := range []time.Duration{0, 2 * time.Millisecond} {
		t.Run(fmt.Sprint("hedge ", hedge), func(t *testing.T) {
			s.Hedge = hedge
			g := start(t, s)
			g.quiet = true
			var good, bad, left atomic.Int32
			var wg sync.WaitGroup
			for n := range 16 {
				c := client(t)
				wg.Go(func() {
					for i := 0; i < 60 || i < 6000 && good.Load() < least; i++ {
						path := fmt.Sprintf("/client/%d/request/%d", n, i)
						if rand.IntN(8) == 0 {
							leave(t, g.addr, path)
							left.Add(1)
							continue
						}
						resp, err := c.Get("http://" + g.addr + path)
						if err != nil {
							bad.Add(1)
							continue
						}
						b, err := io.ReadAll(resp.Body)
						resp.Body.Close()
						switch {
						case err != nil || resp.StatusCode != http.StatusOK:
							bad.Add(1)
						case strings.ReplaceAll(string(b), path, "") != "" || len(b) == 0:
							t.Errorf("%s got %.80q", path, b)
						default:
							good.Add(1)
						}
					}
				})
			}
			wg.Wait()
			t.Logf("%d good, %d refused or cut, %d left early", good.Load(), bad.Load(), left.Load())
			if good.Load() < least {
				t.Errorf("only %d good replies", good.Load())
			}
			late := time.Now().Add(30 * time.Second)
			for b := up.Breaker(); b.Requests() != 0 || b.Pending() != 0 || b.Retries() != 0; time.Sleep(time.Millisecond) {
				if time.Now().After(late) {
					t.Fatalf("left over: %d requests, %d pending, %d retries", b.Requests(), b.Pending(), b.Retries())
				}
			}
		})
	}
}

// leave asks for path and goes away within a moment.
func leave(t testing.TB, addr, path string) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: a.test\r\n\r\n", path)
	time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
	c.Close()
}
