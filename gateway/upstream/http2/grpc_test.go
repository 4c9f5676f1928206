package http2_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http2"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

// serveGRPC is grpc-go's own server, which does not use net/http.
func serveGRPC(t *testing.T) (address string, state *health.Server) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	state = health.NewServer()
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, state)
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(ln) })
	t.Cleanup(func() {
		s.Stop()
		wg.Wait()
	})
	return ln.Addr().String(), state
}

// message frames one message of a call.
func message(t *testing.T, m proto.Message) string {
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b)))) + string(b)
}

func grpcHead(method string) []byte {
	return head("POST /grpc.health.v1.Health/"+method, "Content-Type: application/grpc", "TE: trailers", "Connection: TE")
}

func TestGRPCUnary(t *testing.T) {
	addr, state := serveGRPC(t)
	state.SetServingStatus("x", healthpb.HealthCheckResponse_SERVING)
	p := newPool(t, http2.Settings{}, addr)
	for service, want := range map[string]struct{ body, trailers string }{
		"x": {message(t, &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}), "Grpc-Status: 0\r\nGrpc-Message: \r\n"},
		"y": {"", ""},
	} {
		body := message(t, &healthpb.HealthCheckRequest{Service: service})
		r := do(p, &transport.Call{Head: grpcHead("Check"), Stream: strings.NewReader(body), Length: -1})
		if r.err != nil || r.status != 200 || r.body != want.body || r.trailers != want.trailers {
			t.Errorf("%+v", r)
		}
		// An error alone comes as one head with everything.
		if service == "y" && (!strings.Contains(r.fields, "Grpc-Status: 5\n") || !strings.Contains(r.fields, "Grpc-Message: unknown service\n")) {
			t.Errorf("got fields %s", r.fields)
		}
	}
	r := do(p, &transport.Call{Head: grpcHead("Nothing"), Stream: strings.NewReader(""), Length: -1})
	if r.err != nil || !strings.Contains(r.fields, "Grpc-Status: 12\n") {
		t.Errorf("%+v", r)
	}
}

// A stream that is silent for long stays, and every message arrives at once.
func TestGRPCStream(t *testing.T) {
	addr, state := serveGRPC(t)
	p := newPool(t, http2.Settings{}, addr)
	state.SetServingStatus("x", healthpb.HealthCheckResponse_SERVING)
	body := message(t, &healthpb.HealthCheckRequest{Service: "x"})
	front := newClient()
	call := &transport.Call{Head: grpcHead("Watch"), Stream: strings.NewReader(body), Length: -1, Front: front, Watch: front, Idle: time.Minute}
	c, err := p.Get(call, false)
	if err == nil {
		err = c.Do(call)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.Unbounded()
	for i := range 6 {
		status := healthpb.HealthCheckResponse_SERVING
		if i%2 == 1 {
			status = healthpb.HealthCheckResponse_NOT_SERVING
		}
		state.SetServingStatus("x", status)
		want := message(t, &healthpb.HealthCheckResponse{Status: status})
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
			t.Fatalf("%d: %q, %v", i, got, err)
		}
	}
	front.leave()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the stream goes on without its client")
	}
	c.Release()
}

// A server that stops says so by GOAWAY: no call is lost.
func TestGRPCServerThatStopsLosesNothing(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	entered := make(chan struct{})
	slow := health.NewServer()
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "slow.Slow", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Do", Handler: func(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			close(entered)
			time.Sleep(100 * time.Millisecond)
			return &healthpb.HealthCheckResponse{}, dec(&healthpb.HealthCheckRequest{})
		}}},
	}, slow)
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(ln) })
	p := newPool(t, http2.Settings{}, ln.Addr().String())
	wg.Go(func() {
		<-entered
		s.GracefulStop()
	})
	call := &transport.Call{Head: head("POST /slow.Slow/Do", "Content-Type: application/grpc", "TE: trailers"), Stream: strings.NewReader(message(t, &healthpb.HealthCheckRequest{})), Length: -1}
	r := do(p, call)
	if r.err != nil || !strings.Contains(r.trailers, "Grpc-Status: 0") {
		t.Errorf("%+v, want status %v", r, codes.OK)
	}
	wg.Wait()
	if r := do(p, newCall()); r.err == nil {
		t.Errorf("the server is gone: %+v", r)
	}
}

// A reply that tells its length is not over before its status has come.
func TestGRPCStatusIsWaitedFor(t *testing.T) {
	addr := endpoints(t, each(func(e *endpoint, v event) {
		e.headers(v.stream, false, ":status", "200", "content-type", "application/grpc", "content-length", "3")
		e.data(v.stream, false, "abc")
		time.Sleep(20 * time.Millisecond)
		e.headers(v.stream, true, "grpc-status", "0")
	}))
	p := newPool(t, http2.Settings{}, addr)
	call := newCall()
	c, err := p.Get(call, false)
	if err == nil {
		err = c.Do(call)
	}
	if err != nil {
		t.Fatal(err)
	}
	eventually(func() bool { return c.BufferedNow() == 3 })
	if _, whole := c.Whole(100); whole {
		t.Error("it is whole without its status")
	}
	if r := read(c); r.err != nil || r.body != "abc" || r.trailers != "Grpc-Status: 0\r\n" {
		t.Errorf("%+v", r)
	}
	c.Release()
}
