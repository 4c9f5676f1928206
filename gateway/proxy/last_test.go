package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
)

// TestBodyNobodyReads: a server that does not read the body of a GET must not
// find another request in it.
func TestBodyNobodyReads(t *testing.T) {
	const hidden = "GET /hidden HTTP/1.1\r\nHost: a.test\r\n\r\n"
	for _, tc := range []struct {
		method, te string
		closed     bool
	}{
		{"GET", "", true},
		{"HEAD", "", true},
		{"DELETE", "", true},
		{"GET", "TE: trailers\r\n", true},
		{"POST", "", false},
		{"PUT", "", false},
		{"OPTIONS", "", false},
	} {
		t.Run(tc.method+tc.te, func(t *testing.T) {
			seen := make(chan string, 8)
			up := raw(t, func(n int, c net.Conn, r *bufio.Reader) {
				for {
					head := readHead(r)
					if head == "" {
						return
					}
					seen <- fmt.Sprintf("%d %s", n, head)
					if !tc.closed || strings.Contains(head, "/next") {
						if _, err := io.CopyN(io.Discard, r, int64(strings.Count(head, "Content-Length")*len(hidden))); err != nil {
							return
						}
					}
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					if strings.Contains(head, "Connection: close") {
						return
					}
				}
			})
			g := start(t, proxy.Settings{}, up)
			c, r := dial(t, g.addr, "%s /first HTTP/1.1\r\nHost: a.test\r\n%sContent-Length: %d\r\n\r\n%s", tc.method, tc.te, len(hidden), hidden)
			readHead(r)
			fmt.Fprint(c, "GET /next HTTP/1.1\r\nHost: a.test\r\n\r\n")
			readHead(r)
			first, next := <-seen, <-seen
			if !strings.HasPrefix(first, "0 "+tc.method+" /first") || strings.Contains(first, "Connection: close") != tc.closed {
				t.Errorf("first the endpoint got %q", first)
			}
			want := "0 GET /next"
			if tc.closed {
				want = "1 GET /next"
			}
			if !strings.HasPrefix(next, want) || strings.Contains(next, "Connection") {
				t.Errorf("then the endpoint got %q", next)
			}
		})
	}
}

// TestNoContentWithALength: a 204 cannot have a body, but one that announces
// some may be followed by it, late.
func TestNoContentWithALength(t *testing.T) {
	up := raw(t, func(n int, c net.Conn, r *bufio.Reader) {
		for readHead(r) != "" {
			if n == 0 {
				io.WriteString(c, "HTTP/1.1 204 No Content\r\nContent-Length: 44\r\n\r\n")
				continue
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond")
		}
	})
	g := start(t, proxy.Settings{}, up)
	c, r := dial(t, g.addr, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	if head := readHead(r); !strings.Contains(head, "204") || strings.Contains(head, "Content-Length") {
		t.Fatalf("got %q", head)
	}
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	if head := readHead(r); !strings.Contains(head, "200 OK") {
		t.Fatalf("got %q", head)
	}
	if tries := g.tried(); len(tries) != 2 || tries[1].Reused {
		t.Errorf("the connection was used again: %+v", tries)
	}
}
