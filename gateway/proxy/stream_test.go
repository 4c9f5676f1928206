package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

func TestEventsArriveAtOnce(t *testing.T) {
	stretched(t, 50*time.Millisecond, func(t *testing.T, timeout time.Duration) error {
		next := make(chan struct{}, 3) // a stream that was cut takes none
		up := handle(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				fmt.Fprintf(w, "data: %d\n\n", i)
				w.(http.Flusher).Flush()
				select {
				case <-next:
				case <-r.Context().Done():
					return
				}
			}
		})
		g := start(t, proxy.Settings{Timeouts: proxy.Timeouts{Request: timeout, Idle: time.Minute}}, up)
		resp, err := client(t).Get("http://" + g.addr + "/")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		r := bufio.NewReader(resp.Body)
		for i := range 3 {
			// The upstream sends no more before this event has come through.
			line, err := r.ReadString('\n')
			if err != nil || line != fmt.Sprintf("data: %d\n", i) {
				return fmt.Errorf("event %d: %q, %w", i, line, err)
			}
			r.ReadString('\n')
			time.Sleep(timeout * 6 / 5) // beyond the request's time: streams have none
			next <- struct{}{}
		}
		if _, err := r.ReadByte(); err != io.EOF {
			return fmt.Errorf("the end: %w", err)
		}
		if f := g.await(t, 1); !f.stream || f.refusal != nil {
			return fmt.Errorf("%+v", f)
		}
		return nil
	})
}

// The first bytes of a reply with a length are not held until the rest comes.
func TestSlowReplyIsNotHeld(t *testing.T) {
	next := make(chan struct{})
	up := raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		readHead(r)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
		<-next
		io.WriteString(c, "later")
	})
	g := start(t, proxy.Settings{}, up)
	_, r := dial(t, g.addr, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	readHead(r)
	b := make([]byte, 5)
	if _, err := io.ReadFull(r, b); err != nil || string(b) != "first" {
		t.Fatalf("%q, %v", b, err)
	}
	close(next)
	if _, err := io.ReadFull(r, b); err != nil || string(b) != "later" {
		t.Fatalf("%q, %v", b, err)
	}
}

func TestTrailersBothWays(t *testing.T) {
	up := handle(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Sum")
		w.(http.Flusher).Flush()
		fmt.Fprintf(w, "request trailer: %s, announced %v", r.Trailer.Get("X-Up"), len(r.Trailer))
		w.Header().Set("X-Sum", "42")
		w.Header().Set(http.TrailerPrefix+"X-Late", "43")
	})
	g := start(t, proxy.Settings{}, up)
	_, r := dial(t, g.addr, "POST / HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nTrailer: X-Up\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Up: 41\r\n\r\n")
	if head := readHead(r); !strings.Contains(head, "chunked") {
		t.Fatalf("got %q", head)
	}
	rest := ""
	for !strings.HasSuffix(rest, "\r\n\r\n") {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("%q, %v", rest, err)
		}
		rest += line
	}
	for _, want := range []string{"request trailer: 41, announced 1", "\r\nX-Sum: 42\r\n", "\r\nX-Late: 43\r\n"} {
		if !strings.Contains(rest, want) {
			t.Errorf("%q is missing in %q", want, rest)
		}
	}
}

func TestInterimReplies(t *testing.T) {
	up := answering(t, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x\r\n\r\n"+ok)
	g := start(t, proxy.Settings{}, up)
	var got []string
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		got = append(got, fmt.Sprint(code, h.Get("Link"), len(h)))
		return nil
	}}
	req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), "GET", "http://"+g.addr+"/", nil)
	resp, err := client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if strings.Join(got, ";") != "103</a.css>1" {
		t.Errorf("interim replies %q", got)
	}
}

// A reply that comes before the request body has been sent arrives, and the
// rest of the body is not asked for.
func TestEarlyReply(t *testing.T) {
	for _, framing := range []string{"Content-Length: 100000000", "Transfer-Encoding: chunked"} {
		t.Run(framing, func(t *testing.T) {
			ended := make(chan struct{})
			up := raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
				readHead(r)
				io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 7\r\nConnection: close\r\n\r\ntoo big")
				io.Copy(io.Discard, r)
				close(ended)
			})
			g := start(t, proxy.Settings{}, up)
			_, r := dial(t, g.addr, "POST / HTTP/1.1\r\nHost: a.test\r\n%s\r\n\r\n5\r\nhello\r\n", framing)
			head := readHead(r)
			if !strings.HasPrefix(head, "HTTP/1.1 413") || !strings.Contains(head, "Connection: close") {
				t.Fatalf("got %q", head)
			}
			b := make([]byte, 7)
			if _, err := io.ReadFull(r, b); err != nil || string(b) != "too big" {
				t.Fatalf("%q, %v", b, err)
			}
			<-ended // the upload was cut
		})
	}
}

// Both directions at once, as long as either wants.
func TestFullDuplex(t *testing.T) {
	up := handle(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		b := make([]byte, 16)
		for {
			n, err := r.Body.Read(b)
			if n > 0 {
				w.Write(b[:n])
				w.(http.Flusher).Flush()
			}
			if err != nil {
				return
			}
		}
	})
	g := start(t, proxy.Settings{}, up)
	pr, pw := io.Pipe()
	req, _ := http.NewRequest("POST", "http://"+g.addr+"/", pr)
	go func() { fmt.Fprint(pw, "ping0") }()
	resp, err := client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b := make([]byte, 5)
	for i := range 5 {
		if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != fmt.Sprint("ping", i) {
			t.Fatalf("%q, %v", b, err)
		}
		if i < 4 {
			fmt.Fprint(pw, "ping", i+1)
		}
	}
	pw.Close()
	if _, err := io.ReadFull(resp.Body, b[:1]); err != io.EOF {
		t.Fatal(err)
	}
}

func TestClientGoneCancelsTheUpstream(t *testing.T) {
	for _, tc := range []struct {
		name string
		up   http.HandlerFunc
	}{
		{"before the reply", func(_ http.ResponseWriter, r *http.Request) {}},
		{"under the reply", func(w http.ResponseWriter, r *http.Request) {
			w.Write([]byte("begun"))
			w.(http.Flusher).Flush()
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			began, ended := make(chan struct{}, 1), make(chan time.Time, 1)
			up := handle(t, func(w http.ResponseWriter, r *http.Request) {
				tc.up(w, r)
				began <- struct{}{}
				<-r.Context().Done()
				ended <- time.Now()
			})
			g := start(t, proxy.Settings{}, up)
			c, _ := dial(t, g.addr, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
			<-began
			time.Sleep(300 * time.Millisecond) // the front watches requests that are older than a tick
			c.Close()
			select {
			case <-ended:
			case <-time.After(30 * time.Second):
				t.Fatal("the upstream still works for nobody")
			}
			f := g.await(t, 1)
			if tc.name == "before the reply" && (f.refusal == nil || f.refusal.Reason != reason.ClientGone) {
				t.Errorf("refusal %v", f.refusal)
			}
			for _, try := range g.tried() {
				if try.Failure.String() != "not_tried" && try.Failure.String() != "none" {
					t.Errorf("the endpoint is blamed: %+v", try)
				}
			}
		})
	}
}
