package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// rpcServer is a real gRPC server. Metadata of a call tells it what to do:
// x-fail: CODE ends it with that status, details and metadata; x-hang: 1 waits
// until the call is cancelled.
type rpcServer struct {
	pb.UnimplementedTestServiceServer
	addr  string
	name  string
	calls atomic.Int64

	mu    sync.Mutex
	left  []time.Duration // what was left of the caller's time, for each call; 0: it set none
	ended chan error      // how hanging calls ended
	next  chan struct{}   // the test wants one more message
}

func newRPCServer(t *testing.T, name string) *rpcServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &rpcServer{addr: l.Addr().String(), name: name, ended: make(chan error, 100), next: make(chan struct{}, 1)}
	srv := grpc.NewServer()
	pb.RegisterTestServiceServer(srv, s)
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() {
		srv.Stop()
		serving.Wait()
	})
	return s
}

// begin does what a call's metadata says.
func (s *rpcServer) begin(ctx context.Context) error {
	s.calls.Add(1)
	left := time.Duration(0)
	if d, ok := ctx.Deadline(); ok {
		left = time.Until(d)
	}
	s.mu.Lock()
	s.left = append(s.left, left)
	s.mu.Unlock()
	md, _ := metadata.FromIncomingContext(ctx)
	if len(md["x-hang"]) > 0 {
		<-ctx.Done()
		s.ended <- ctx.Err()
		return status.FromContextError(ctx.Err()).Err()
	}
	if v := md["x-fail"]; len(v) > 0 {
		n, err := strconv.Atoi(v[0])
		if err != nil {
			return err
		}
		st, err := status.New(codes.Code(n), "f\u00e4iled \u20ac 100 %\n").WithDetails(&pb.SimpleResponse{Username: s.name}, &pb.SimpleResponse{})
		if err != nil {
			return err
		}
		return st.Err()
	}
	return nil
}

// UnaryCall answers with the server's name and the request's payload.
func (s *rpcServer) UnaryCall(ctx context.Context, in *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trail", "a", "x-trail", "b", "x-trail-bin", "\x01\xfe"))
	if err := s.begin(ctx); err != nil {
		return nil, err // in the head, since there is nothing else to send
	}
	_ = grpc.SetHeader(ctx, metadata.Pairs("x-head", "1", "x-head-bin", "\x00\xff"))
	return &pb.SimpleResponse{Username: s.name, Payload: in.GetPayload()}, nil
}

// StreamingOutputCall sends as many messages as are asked for. After one with an
// interval it waits until the test wants the next.
func (s *rpcServer) StreamingOutputCall(in *pb.StreamingOutputCallRequest, out pb.TestService_StreamingOutputCallServer) error {
	for i, p := range in.GetResponseParameters() {
		if err := out.Send(&pb.StreamingOutputCallResponse{Payload: &pb.Payload{Body: fmt.Appendf(nil, "message %d", i)}}); err != nil {
			return err
		}
		if p.GetIntervalUs() == 0 {
			continue
		}
		select {
		case <-s.next:
		case <-out.Context().Done():
			return out.Context().Err()
		}
	}
	return s.begin(out.Context())
}

// StreamingInputCall counts what it gets.
func (s *rpcServer) StreamingInputCall(in pb.TestService_StreamingInputCallServer) error {
	sum := 0
	for {
		m, err := in.Recv()
		if err == io.EOF {
			return in.SendAndClose(&pb.StreamingInputCallResponse{AggregatedPayloadSize: int32(sum)})
		}
		if err != nil {
			s.ended <- err
			return err
		}
		sum += len(m.GetPayload().GetBody())
	}
}

// FullDuplexCall answers each message with the same.
func (s *rpcServer) FullDuplexCall(both pb.TestService_FullDuplexCallServer) error {
	s.calls.Add(1)
	for {
		m, err := both.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			s.ended <- both.Context().Err()
			return err
		}
		if err := both.Send(&pb.StreamingOutputCallResponse{Payload: m.GetPayload()}); err != nil {
			return err
		}
	}
}

// rpcClient is a real gRPC client of the listener "web".
func (g *gatehouse) rpcClient() pb.TestServiceClient {
	g.t.Helper()
	conn, err := grpc.NewClient(g.web, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { conn.Close() })
	return pb.NewTestServiceClient(conn)
}

// with is a context with metadata that ends long after the test should have.
func with(t *testing.T, pairs ...string) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, pairs...)
}

// rpcRoute is a config with one route to servers.
func rpcRoute(more string, servers ...*rpcServer) string {
	var addresses []string
	for _, s := range servers {
		addresses = append(addresses, strconv.Quote(s.addr))
	}
	return fmt.Sprintf(`upstreams:
  app: { protocol: h2c, endpoints: [%s], load_balancer: { algorithm: round_robin } }
routes:
  shop:
    match: { path: / }
    backends: [{ upstream: app }]
%s`, strings.Join(addresses, ", "), more)
}

// sized is a payload of n bytes.
func sized(n int) *pb.Payload { return &pb.Payload{Body: make([]byte, n)} }
