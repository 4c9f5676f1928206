package e2e

import (
	"bytes"
	"context"
	endian "encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// TestGRPCRefusals: what guards refuse arrives at a gRPC client as the status
// it knows what to do with.
func TestGRPCRefusals(t *testing.T) {
	s := newRPCServer(t, "one")
	g := start(t, fmt.Sprintf(`consumers:
  alice: { api_keys: ["sha256:72ee9d4355ccb9d3a4c9dbf37382e38e75c1b1a225b5bd1f729ee91bbda30c20"] }
upstreams:
  app: { protocol: h2c, endpoints: [%q] }
  nobody: { protocol: h2c, endpoints: [%q] }
  narrow: { protocol: h2c, endpoints: [%q], circuit_breaker: { max_requests: 1 } }
routes:
  plain: { match: { path: /, hosts: [plain.test] }, backends: [{ upstream: app }] }
  waf: { match: { path: /, headers: { X-Case: waf } }, plugins: [{ waf: {} }], backends: [{ upstream: app }] }
  limit: { match: { path: /, headers: { X-Case: limit } }, plugins: [{ rate_limit: { limit: 1, per: 1h } }], backends: [{ upstream: app }] }
  key: { match: { path: /, headers: { X-Case: key } }, plugins: [{ api_key: {} }], backends: [{ upstream: app }] }
  ip: { match: { path: /, headers: { X-Case: ip } }, plugins: [{ ip_filter: { deny: [127.0.0.0/8] } }], backends: [{ upstream: app }] }
  at-once: { match: { path: /, headers: { X-Case: at-once } }, plugins: [{ concurrency_limit: { limit: 1 } }], backends: [{ upstream: app }] }
  size: { match: { path: /, headers: { X-Case: size } }, plugins: [{ body_limit: { max: 1KiB } }], backends: [{ upstream: app }] }
  closed: { match: { path: /, headers: { X-Case: closed } }, plugins: [{ maintenance: {} }], backends: [{ upstream: app }] }
  nobody: { match: { path: /, headers: { X-Case: nobody } }, backends: [{ upstream: nobody }] }
  breaker: { match: { path: /, headers: { X-Case: breaker } }, backends: [{ upstream: narrow }] }
`, s.addr, freeAddress(t), s.addr))
	c := g.rpcClient()
	occupy := func(kind string) {
		ctx, cancel := context.WithCancel(with(t, "x-case", kind))
		t.Cleanup(cancel)
		stream, err := c.FullDuplexCall(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&pb.StreamingOutputCallRequest{}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	occupy("at-once")
	occupy("breaker")
	if _, err := c.UnaryCall(with(t, "x-case", "limit"), &pb.SimpleRequest{}); err != nil {
		t.Errorf("within the limit: %v", err)
	}
	if _, err := c.UnaryCall(with(t, "x-case", "waf"), &pb.SimpleRequest{Payload: sized(100_000)}); err != nil {
		t.Errorf("past the WAF: %v", err)
	}
	for _, tc := range []struct {
		name string
		md   []string
		code codes.Code
		why  string
	}{
		{"waf", []string{"x-query", "<script>alert(1)</script>", "referer", "http://a.test/?q=<script>alert(1)</script>"}, codes.PermissionDenied, "waf_blocked"},
		{"limit", nil, codes.ResourceExhausted, "rate_limited"},
		{"key", nil, codes.Unauthenticated, "unauthenticated"},
		{"ip", nil, codes.PermissionDenied, "ip_denied"},
		{"at-once", nil, codes.ResourceExhausted, "concurrency_limited"},
		{"size", nil, codes.ResourceExhausted, "body_too_large"},
		{"closed", nil, codes.Unavailable, "maintenance"},
		{"nobody", nil, codes.Unavailable, "upstream_connect_failure"},
		{"breaker", nil, codes.Unavailable, "upstream_overflow"},
		{"no route", nil, codes.Unimplemented, "no_route"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := s.calls.Load()
			_, err := c.UnaryCall(with(t, append(tc.md, "x-case", tc.name)...), &pb.SimpleRequest{Payload: sized(2000)})
			if st := status.Convert(err); st.Code() != tc.code || !strings.Contains(st.Message(), "(reason "+tc.why) {
				t.Errorf("got %v: %s", st.Code(), st.Message())
			}
			if tc.name != "size" && s.calls.Load() != before {
				t.Error("the server was called")
			}
			line := g.accessLine(tc.name, func(m map[string]any) bool { return m["reason"] == tc.why })
			if line["status"] != 200.0 || line["grpc_status"] == nil || !strings.Contains(fmt.Sprint(line["grpc_message"]), tc.why) {
				t.Errorf("access log: %v", line)
			}
		})
	}
	g.eventually("the call is counted", func() error {
		return is(g.metric(`gatehouse_route_grpc_calls_total{grpc_status="RESOURCE_EXHAUSTED",route="limit"}`), 1)
	})
}

// TestGRPCStatusAndMetadata: what server and client say to each other arrives
// as it was said, and the log has the status.
func TestGRPCStatusAndMetadata(t *testing.T) {
	s := newRPCServer(t, "one")
	g := start(t, rpcRoute("", s))
	c := g.rpcClient()
	for code := codes.Code(0); code <= codes.Unauthenticated; code++ {
		md := []string{"x-what-bin", "\x00\x01\xff"}
		if code != codes.OK {
			md = append(md, "x-fail", fmt.Sprint(int(code)))
		}
		var head, trail metadata.MD
		out, err := c.UnaryCall(with(t, md...), &pb.SimpleRequest{Payload: sized(10)}, grpc.Header(&head), grpc.Trailer(&trail))
		st := status.Convert(err)
		if st.Code() != code {
			t.Fatalf("%v: got %v", code, err)
		}
		if code == codes.OK {
			if out.GetUsername() != "one" || len(out.GetPayload().GetBody()) != 10 {
				t.Errorf("got %v", out)
			}
			if fmt.Sprintf("%q", head["x-head-bin"]) != `["\x00\xff"]` {
				t.Errorf("head %q", head)
			}
		} else if details := st.Details(); st.Message() != "f\u00e4iled \u20ac 100 %\n" || len(details) != 2 || details[0].(*pb.SimpleResponse).GetUsername() != "one" {
			t.Errorf("%v: %q, %v", code, st.Message(), details)
		}
		if fmt.Sprintf("%q", trail["x-trail"]) != `["a" "b"]` || fmt.Sprintf("%q", trail["x-trail-bin"]) != `["\x01\xfe"]` {
			t.Errorf("%v: trailers %q", code, trail)
		}
	}
	line := g.accessLine("a call that was not found", func(m map[string]any) bool { return m["grpc_status"] == "NOT_FOUND" })
	if line["grpc_message"] != "f\u00e4iled \u20ac 100 %\n" || line["status"] != 200.0 || line["reason"] != nil {
		t.Errorf("access log: %v", line)
	}
	g.eventually("the call is counted", func() error {
		return is(g.metric(`gatehouse_route_grpc_calls_total{grpc_status="OK",route="shop"}`), 1)
	})
}

// rpcFrame is one message as it goes over the wire.
func rpcFrame(payload []byte) []byte {
	b := endian.BigEndian.AppendUint32([]byte{0}, uint32(len(payload)))
	return append(b, payload...)
}

// bareHTTP2 is a client that speaks HTTP/2 in clear text and knows no gRPC.
func bareHTTP2(t *testing.T) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: protocols}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// TestGRPCDeadlines: the caller's time is handed on.
func TestGRPCDeadlines(t *testing.T) {
	s := newRPCServer(t, "one")
	g := start(t, rpcRoute("", s))
	c := g.rpcClient()
	inTime(t, "the server is asked", func(timeout time.Duration) bool {
		before := s.calls.Load()
		ctx, cancel := context.WithTimeout(with(t, "x-hang", "1"), timeout)
		defer cancel()
		if _, err := c.UnaryCall(ctx, &pb.SimpleRequest{}); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("got %v", err)
		}
		if s.calls.Load() == before {
			return false
		}
		<-s.ended
		s.mu.Lock()
		defer s.mu.Unlock()
		left := s.left[len(s.left)-1]
		if left == 0 || left > timeout {
			t.Errorf("of %v the server was left %v", timeout, left)
		}
		return left > 0 // or it began after the time was over
	})
}

// inTime tries something with more and more time, since a busy machine may take
// all of it before anything has happened.
func inTime(t *testing.T, what string, try func(timeout time.Duration) bool) {
	t.Helper()
	for timeout := 300 * time.Millisecond; timeout < time.Minute; timeout *= 2 {
		if try(timeout) || t.Failed() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// TestGRPCTimeIsOver: the gateway ends a call in time although neither the
// client nor the server looks at the clock.
func TestGRPCTimeIsOver(t *testing.T) {
	left := make(chan struct{}, 10)
	var asked atomic.Int64
	deaf := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refused" {
			t.Error("a call that was refused has come")
		}
		asked.Add(1)
		if r.URL.Path == "/begun" {
			w.Header().Set("Content-Type", "application/grpc")
			_, _ = w.Write(rpcFrame([]byte("message 0")))
			_ = http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
		left <- struct{}{}
	}))
	deaf.Config.Protocols = new(http.Protocols)
	deaf.Config.Protocols.SetUnencryptedHTTP2(true)
	deaf.Start()
	t.Cleanup(deaf.Close)
	g := start(t, rpcRoute("", &rpcServer{addr: deaf.Listener.Addr().String()}))
	bare := bareHTTP2(t)
	call := func(path, timeout, code, why string) string {
		t.Helper()
		req, _ := http.NewRequest("POST", "http://"+g.web+path, bytes.NewReader(rpcFrame(nil)))
		req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "Grpc-Timeout": {timeout}}
		resp, err := bare.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if got := resp.Header.Get("Grpc-Status") + resp.Trailer.Get("Grpc-Status"); err != nil || resp.StatusCode != 200 || got != code {
			t.Errorf("%s, %s: %d, status %q, %q, %v", path, timeout, resp.StatusCode, got, b, err)
		}
		g.accessLine(path, func(m map[string]any) bool { return m["reason"] == why && m["path"] == path })
		return string(b)
	}
	for path, want := range map[string]string{"/silent": "", "/begun": "message 0"} {
		inTime(t, "the server of "+path+" answers", func(timeout time.Duration) bool {
			got := call(path, fmt.Sprint(timeout.Milliseconds(), "m"), "4", "request_timeout")
			if asked.Load() == 0 || got == "" && want != "" {
				return false
			}
			if asked.Store(0); !strings.Contains(got, want) || want == "" && got != "" {
				t.Errorf("%s: %q", path, got)
			}
			<-left
			return true
		})
	}
	for _, timeout := range []string{"300ms", "123456789m"} {
		if got := call("/refused", timeout, "13", "bad_grpc_timeout"); got != "" {
			t.Errorf("%s: %q", timeout, got)
		}
	}
}

// TestGRPCCancellation: a call the client gives up is given up at the server.
func TestGRPCCancellation(t *testing.T) {
	s := newRPCServer(t, "one")
	g := start(t, rpcRoute("", s))
	c := g.rpcClient()
	ctx, cancel := context.WithCancel(with(t))
	stream, err := c.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pb.StreamingOutputCallRequest{Payload: sized(1)}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-s.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the server's call ended with %v", err)
	}
	line := g.accessLine("the call", func(m map[string]any) bool { return m["grpc_status"] == "CANCELLED" })
	if line["flags"] != "DC" {
		t.Errorf("access log: %v", line)
	}
}

// TestGRPCRetriesAndBalancing: calls of one connection are spread over servers,
// and one that a server cannot take goes to another.
func TestGRPCRetriesAndBalancing(t *testing.T) {
	one, two := newRPCServer(t, "one"), newRPCServer(t, "two")
	g := start(t, rpcRoute("", one, two))
	c := g.rpcClient()
	for range 40 {
		if _, err := c.UnaryCall(with(t), &pb.SimpleRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := one.calls.Load(), two.calls.Load(); a != 20 || b != 20 {
		t.Errorf("%d and %d calls", a, b)
	}
	before := one.calls.Load() + two.calls.Load()
	if _, err := c.UnaryCall(with(t, "x-fail", "14"), &pb.SimpleRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
	if n := one.calls.Load() + two.calls.Load() - before; n != 1 {
		t.Errorf("%d tries where none was asked for", n)
	}
	g.reload(rpcRoute("    retries: { attempts: 1, on: [grpc_unavailable] }\n", one, two))
	for _, tc := range []struct {
		fail  string
		tries int64
	}{{"14", 2}, {"13", 1}} {
		a, b := one.calls.Load(), two.calls.Load()
		_, err := c.UnaryCall(with(t, "x-fail", tc.fail), &pb.SimpleRequest{Payload: sized(1000)})
		st := status.Convert(err)
		a, b = one.calls.Load()-a, two.calls.Load()-b
		if fmt.Sprint(int(st.Code())) != tc.fail || a+b != tc.tries || a > 1 || b > 1 || len(st.Details()) != 2 {
			t.Errorf("status %s: %v after %d and %d tries", tc.fail, err, a, b)
		}
	}
	g.eventually("the retry is counted", func() error { return is(g.metric(`gatehouse_upstream_retries_total{upstream="app"}`), 1) })
}

// TestGRPCDrain: a stop lets streams come to their end and takes no new calls.
func TestGRPCDrain(t *testing.T) {
	s := newRPCServer(t, "one")
	g := start(t, rpcRoute("", s))
	c := g.rpcClient()
	stream, err := c.FullDuplexCall(with(t))
	if err != nil {
		t.Fatal(err)
	}
	ping := func() error {
		if err := stream.Send(&pb.StreamingOutputCallRequest{Payload: sized(3)}); err != nil {
			return err
		}
		_, err := stream.Recv()
		return err
	}
	if err := ping(); err != nil {
		t.Fatal(err)
	}
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	g.eventuallyClosed()
	for range 5 {
		if err := ping(); err != nil {
			t.Fatalf("while draining: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("the stream ended with %v", err)
	}
	if err := <-g.exited; err != nil {
		t.Errorf("the node ended with %v", err)
	}
}

// eventuallyClosed waits until the listener "web" takes no more connections.
func (g *gatehouse) eventuallyClosed() {
	g.t.Helper()
	until(g.t, "the listener is closed", func() error {
		c, err := net.Dial("tcp", g.web)
		if err != nil {
			return nil
		}
		return errors.Join(errors.New("it still accepts"), c.Close())
	})
}
