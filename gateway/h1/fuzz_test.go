package h1_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/h1"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// script is a client that sends its pieces one by one, and then nothing more.
type script struct {
	mu     sync.Mutex
	pieces []string
	out    bytes.Buffer
	closed chan struct{}
	once   sync.Once
}

func (s *script) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.pieces[0])
	if s.pieces[0] = s.pieces[0][n:]; s.pieces[0] == "" {
		s.pieces = s.pieces[1:]
	}
	return n, nil
}

func (s *script) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *script) Close() error                     { s.once.Do(func() { close(s.closed) }); return nil }
func (s *script) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *script) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

var dateLine = regexp.MustCompile(`Date: [^\r]*\r\n`)

// FuzzConnection: how the bytes of a connection are cut into reads must not
// change what is answered, and every request served must be the one net/http
// sees there: the same method, target and body, in the same order.
func FuzzConnection(f *testing.F) {
	for _, s := range []string{
		"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
		"\r\nPOST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nX: y\r\n\r\nGET /2 HTTP/1.0\r\nHost: a\r\n\r\n",
		"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /unread HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /1 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
		"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc",
	} {
		f.Add([]byte(s), uint8(3))
	}
	type served struct{ method, target, body string }
	var seen []served // of one connection at a time
	srv := h1.New(settings(func(ctx *fasthttp.RequestCtx, fr exchange.Front) {
		s := served{string(ctx.Method()), string(fr.RawTarget()), "unread"}
		if !strings.Contains(s.target, "unread") {
			s.body = ""
			if fr.HasBody() {
				b, err := io.ReadAll(ctx.RequestBodyStream())
				if s.body = string(b); err != nil {
					ctx.SetStatusCode(reason.From(err).Code())
					return
				}
			}
		}
		seen = append(seen, s)
		fmt.Fprintf(ctx, "%d bytes", len(s.body))
	}))
	f.Cleanup(func() { srv.Close() })
	run := func(pieces []string) (out string, list []served) {
		seen = nil
		c := &script{pieces: pieces, closed: make(chan struct{})}
		srv.ServeConn(c)
		<-c.closed
		return dateLine.ReplaceAllString(c.out.String(), ""), seen
	}
	f.Fuzz(func(t *testing.T, in []byte, cut uint8) {
		if len(in) == 0 {
			return
		}
		out, list := run([]string{string(in)})
		size := int(cut)%32 + 1
		var parts []string
		for rest := string(in); rest != ""; rest = rest[min(size, len(rest)):] {
			parts = append(parts, rest[:min(size, len(rest))])
		}
		out2, list2 := run(parts)
		// Only whether a client that did not wait is told to go on, may differ.
		if strings.ReplaceAll(out, "HTTP/1.1 100 Continue\r\n\r\n", "") != strings.ReplaceAll(out2, "HTTP/1.1 100 Continue\r\n\r\n", "") || fmt.Sprint(list) != fmt.Sprint(list2) {
			t.Fatalf("%q\nwhole: %q %q\npieces of %d: %q %q", in, out, list, size, out2, list2)
		}
		br := bufio.NewReader(bytes.NewReader(in))
		for i, s := range list {
			for { // net/http's parser takes no empty line before a request; its server does not either
				if p, err := br.Peek(2); err != nil || string(p) != "\r\n" {
					break
				}
				br.Discard(2)
			}
			r, err := http.ReadRequest(br)
			if err != nil {
				t.Fatalf("%q: request %d served as %q; net/http: %v", in, i, s, err)
			}
			b, err := io.ReadAll(r.Body)
			if r.Method != s.method || r.RequestURI != s.target || s.body != "unread" && (string(b) != s.body || err != nil) {
				t.Fatalf("%q: request %d served as %q; net/http: %s %s %q %v", in, i, s, r.Method, r.RequestURI, b, err)
			}
		}
	})
}
