package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/grpc"
	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

// call makes every request a gRPC call, as the plugin grpc_web does for its own.
func call(e *exchange.Exchange) { e.RPC.Kind = grpc.Native }

// within makes every request a call that must end in time.
func within(d time.Duration) func(*exchange.Exchange) {
	return func(e *exchange.Exchange) {
		e.RPC.Kind, e.RPC.Deadline = grpc.Native, time.Now().Add(d)
		e.Deadline = e.RPC.Deadline
	}
}

const oneMessage = "\x00\x00\x00\x00\x02hi"

// callReply is a reply in HTTP/1 form: with a status in the head, or after a message.
func callReply(status string, message bool) string {
	if !message {
		return "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\n" + status + "Content-Length: 0\r\n\r\n"
	}
	return "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n" + oneMessage + "\r\n0\r\n" + status + "\r\n"
}

func TestRetriesForGRPCStatus(t *testing.T) {
	for _, tc := range []struct {
		name, status, body string
		on                 []string
		edit               func(*exchange.Exchange)
		buffer, tries      int
	}{
		{name: "unavailable", status: "14", on: []string{"grpc_unavailable"}, edit: call, tries: 2},
		{name: "with a body", status: "14", body: oneMessage, on: []string{"grpc_unavailable"}, edit: call, tries: 2},
		{name: "with a stream", status: "8", body: "chunked", on: []string{"grpc_resource_exhausted", "reset"}, edit: call, buffer: 100, tries: 2},
		{name: "too long to keep", status: "14", body: "chunked", on: []string{"grpc_unavailable"}, edit: call, buffer: 2, tries: 1},
		{name: "another status", status: "14", on: []string{"grpc_internal", "grpc_cancelled", "grpc_deadline_exceeded"}, edit: call, tries: 1},
		{name: "not asked for", status: "14", edit: call, tries: 1},
		{name: "no call", status: "14", on: []string{"grpc_unavailable"}, edit: func(*exchange.Exchange) {}, tries: 1},
		{name: "fine", status: "0", on: []string{"grpc_unavailable"}, edit: call, tries: 1},
		{name: "an HTTP status is none of gRPC", status: "14", on: []string{"503"}, edit: call, tries: 1},
		{name: "no time left", status: "14", on: []string{"grpc_unavailable"}, edit: within(time.Minute), tries: 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reply := func(status string, want *string) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					b, _ := io.ReadAll(r.Body)
					if want != nil && string(b) != *want {
						t.Errorf("body %q", b)
					}
					w.Header().Set("Content-Type", "application/grpc")
					w.Header().Set("Grpc-Status", status)
				}
			}
			bad, good := handle(t, reply(tc.status, nil)), handle(t, reply("0", &tc.body))
			s := proxy.Settings{
				Backends: []proxy.Backend{{Upstream: newUpstream(t, upstream.Settings{Algorithm: upstream.RoundRobin}, bad, good), Weight: 1}},
				Retries:  proxy.RetrySettings{Attempts: 1, On: retryOn(t, tc.on...), BudgetPercent: 20, BufferBody: tc.buffer},
			}
			g := start(t, s)
			g.edit = tc.edit
			c := client(t)
			for range 4 { // until the bad one was first
				var body io.Reader
				if tc.body == "chunked" {
					body = io.MultiReader(strings.NewReader(tc.body))
				} else if tc.body != "" {
					body = strings.NewReader(tc.body)
				}
				req, _ := http.NewRequest("POST", "http://"+g.addr+"/s.S/M", body)
				req.Header.Set("Content-Type", "application/grpc")
				before := len(g.tried())
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				tries := g.tried()[before:]
				if tries[0].Endpoint != bad {
					continue
				}
				want := tc.status
				if tc.tries == 2 {
					want = "0"
				}
				if len(tries) != tc.tries || resp.Header.Get("Grpc-Status") != want {
					t.Fatalf("status %s after %+v", resp.Header.Get("Grpc-Status"), tries)
				}
				return
			}
			t.Fatal("the bad endpoint was never first")
		})
	}
	if _, err := proxy.ParseRetryOn([]string{"grpc_not_found"}); err == nil || !strings.Contains(err.Error(), "grpc_unavailable") {
		t.Errorf("an unknown status: %v", err)
	}
}

// What says that an endpoint has failed ejects it, in the head or behind
// messages; what a client can bring about at will does not.
func TestGRPCStatusJudgesEndpoints(t *testing.T) {
	for _, tc := range []struct {
		code    int
		message bool
		edit    func(*exchange.Exchange)
		ejected bool
	}{
		{14, false, call, true},
		{14, true, call, true},
		{13, false, call, true},
		{2, true, call, true},
		{4, false, call, true},
		{4, false, within(time.Minute), false},
		{0, true, call, false},
		{12, false, call, false},
		{5, false, call, false},
		{16, true, call, false},
		{8, false, call, false},
		{14, false, func(*exchange.Exchange) {}, false},
	} {
		bad := answering(t, callReply(fmt.Sprintf("Grpc-Status: %d\r\n", tc.code), tc.message))
		up := judging(t, 2, bad, handle(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Grpc-Status", "0") }))
		g := start(t, proxy.Settings{Backends: []proxy.Backend{{Upstream: up, Weight: 1}}})
		g.edit = tc.edit
		for range 12 {
			post(t, g, "")
		}
		ejected := false
		for _, e := range up.Status().Endpoints {
			ejected = ejected || e.Address == bad && !e.EjectedUntil.IsZero()
		}
		if ejected != tc.ejected {
			t.Errorf("status %d, after a message: %v: ejected %v", tc.code, tc.message, ejected)
		}
	}
}

// judging is an upstream that ejects an endpoint after so many errors in a row.
func judging(t testing.TB, errors int, addresses ...string) *upstream.Upstream {
	t.Helper()
	u := newUpstream(t, upstream.Settings{Algorithm: upstream.RoundRobin, Outlier: upstream.OutlierSettings{
		Enabled: true, ConsecutiveErrors: errors, Interval: time.Minute, BaseEjection: time.Minute, MaxEjection: time.Minute, MaxEjectedPercent: 100,
	}}, addresses...)
	if err := u.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return u
}

// post makes a call on a connection of its own and returns everything received.
func post(t testing.TB, g *gateway, more string) string {
	t.Helper()
	_, r := dial(t, g.addr, "POST /s.S/M HTTP/1.1\r\nHost: a.test\r\nContent-Type: application/grpc\r\nTE: trailers\r\n"+
		"Connection: close, TE\r\nContent-Length: 7\r\n%s\r\n%s", more, oneMessage)
	b, _ := io.ReadAll(r) // a reset is part of what some tests look for
	return string(b)
}

func TestATimeoutGoesOnShortened(t *testing.T) {
	told := make(chan string, 1)
	up := handle(t, func(w http.ResponseWriter, r *http.Request) {
		told <- r.Header.Get("Grpc-Timeout")
		w.Header().Set("Grpc-Status", "0")
	})
	g := start(t, proxy.Settings{}, up)
	g.edit = within(time.Minute)
	post(t, g, "Grpc-Timeout: 1M\r\n")
	value := <-told
	if d, ok := grpc.ParseTimeout([]byte(value)); !ok || d >= time.Minute || d < 50*time.Second {
		t.Errorf("a minute was told as %q", value)
	}
	g.edit = call // no deadline that could be told
	post(t, g, "Grpc-Timeout: 99999999H\r\n")
	if value := <-told; value != "99999999H" {
		t.Errorf("for ever was told as %q", value)
	}
}

// gone is an upstream that gives what reply says and tells when it was asked and
// when it was left.
func gone(t testing.TB, reply string) (addr string, asked *atomic.Bool, left chan struct{}) {
	asked, left = new(atomic.Bool), make(chan struct{}, 10)
	return raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		asked.Store(readHead(r) != "")
		io.WriteString(c, reply)
		io.Copy(io.Discard, r)
		left <- struct{}{}
	}), asked, left
}

func TestTheCallersTimeEndsACall(t *testing.T) {
	const begun = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n" + oneMessage + "\r\n"
	for name, tc := range map[string]struct{ reply, want string }{
		"before the head": {"", "Grpc-Status: 4\r\n"},
		"in the stream":   {begun, oneMessage + "\r\n0\r\ngrpc-status: 4\r\ngrpc-message: The request took too long.\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			stretched(t, 150*time.Millisecond, func(t *testing.T, timeout time.Duration) error {
				addr, asked, left := gone(t, tc.reply)
				up := judging(t, 1, addr)
				g := start(t, proxy.Settings{Backends: []proxy.Backend{{Upstream: up, Weight: 1}}, Timeouts: proxy.Timeouts{Request: time.Minute}})
				g.edit = within(timeout)
				began := time.Now()
				got := post(t, g, fmt.Sprintf("Grpc-Timeout: %dm\r\n", timeout.Milliseconds()))
				if took := time.Since(began); !asked.Load() || !strings.Contains(got, tc.want) || took < timeout {
					return fmt.Errorf("asked: %v, after %v: %q", asked.Load(), took, got)
				}
				<-left
				f := g.await(t, 1)
				if f.refusal == nil || f.refusal.Reason != reason.RequestTimeout || !f.rpc.Known || f.rpc.Code != grpc.DeadlineExceeded {
					return fmt.Errorf("taken down: %w, %+v", f.refusal, f.rpc)
				}
				if !up.Status().Endpoints[0].EjectedUntil.IsZero() {
					t.Error("the endpoint was blamed for the caller's haste")
				}
				return nil
			})
		})
	}
	t.Run("over before it begins", func(t *testing.T) {
		g := start(t, proxy.Settings{}, refusing(t))
		g.edit = within(0)
		if got := post(t, g, ""); !strings.Contains(got, "Grpc-Status: 4\r\n") || len(g.tried()) > 0 {
			t.Errorf("got %q after %d tries", got, len(g.tried()))
		}
	})
}

// A stream that breaks off ends with a status that says so, and one that a
// server ends is passed on and taken down.
func TestHowACallEnds(t *testing.T) {
	for name, tc := range map[string]struct {
		reply string
		want  string
		code  grpc.Code
		text  string
		why   *reason.Reason
	}{
		"trailers": {
			callReply("Grpc-Status: 5\r\nGrpc-Message: not%20here\r\nX-Cost: 1\r\n", true),
			"X-Cost: 1\r\n", grpc.NotFound, "not%20here", nil,
		},
		"head": {callReply("grpc-status: 7\r\ngrpc-message: no\r\n", false), "Grpc-Status: 7\r\n", grpc.PermissionDenied, "no", nil},
		"broken": {
			"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n" + oneMessage + "\r\n",
			"0\r\ngrpc-status: 14\r\ngrpc-message: The upstream closed the connection.\r\n\r\n", grpc.Unavailable,
			"The upstream closed the connection.", reason.UpstreamReset,
		},
		"an HTTP error passes": {
			"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nno", "HTTP/1.1 503 ", 0, "", nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			up := raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
				readHead(r)
				io.ReadFull(r, make([]byte, 7))
				io.WriteString(c, tc.reply)
			})
			g := start(t, proxy.Settings{}, up)
			g.edit = call
			if got := post(t, g, ""); !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			f := g.await(t, 1)
			if f.rpc.Code != tc.code || f.message != tc.text || f.rpc.Known != (tc.code != 0) {
				t.Errorf("taken down: %+v %q", f.rpc, f.message)
			}
			if tc.why == nil && f.refusal != nil || tc.why != nil && (f.refusal == nil || f.refusal.Reason != tc.why) {
				t.Errorf("refusal %v", f.refusal)
			}
		})
	}
}

// A call whose client still sends is not ended by the route's timeout, nor is
// one whose server does.
func TestLongCallsOutliveTheRoutesTimeout(t *testing.T) {
	stretched(t, 150*time.Millisecond, longCalls)
}

func longCalls(t *testing.T, timeout time.Duration) error {
	up := handle(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		c := http.NewResponseController(w)
		if r.URL.Path == "/both" {
			c.EnableFullDuplex()
			c.Flush()
		}
		if b, err := io.ReadAll(r.Body); err != nil || len(b) != 4*len(oneMessage) {
			return // no status: an error
		}
		for range 3 {
			io.WriteString(w, oneMessage)
			c.Flush()
			time.Sleep(timeout)
		}
		w.Header().Set("Grpc-Status", "0")
	})
	g := start(t, proxy.Settings{Timeouts: proxy.Timeouts{Request: timeout, Idle: time.Minute}}, up)
	g.edit = call
	for i, path := range []string{"/client", "/both"} {
		c, r := dial(t, g.addr, "POST %s HTTP/1.1\r\nHost: a.test\r\nContent-Type: application/grpc\r\nTE: trailers\r\n"+
			"Connection: close, TE\r\nTransfer-Encoding: chunked\r\n\r\n", path)
		c.SetDeadline(time.Now().Add(30*time.Second + 10*timeout))
		for range 4 {
			fmt.Fprintf(c, "7\r\n%s\r\n", oneMessage)
			time.Sleep(timeout)
		}
		io.WriteString(c, "0\r\n\r\n")
		b, _ := io.ReadAll(r)
		if n := strings.Count(string(b), oneMessage); n != 3 || !strings.Contains(strings.ToLower(string(b)), "grpc-status: 0\r\n") {
			return fmt.Errorf("%s: %d messages, %q", path, n, b)
		}
		if f := g.await(t, i+1); f.refusal != nil || !f.rpc.Known || f.rpc.Code != grpc.OK {
			return fmt.Errorf("%s: %w, %+v", path, f.refusal, f.rpc)
		}
	}
	return nil
}
