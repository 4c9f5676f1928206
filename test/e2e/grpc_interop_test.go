package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// interopServer is grpc-go's server of its interoperability tests.
func interopServer(t *testing.T, options ...grpc.ServerOption) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(options...)
	testgrpc.RegisterTestServiceServer(s, interop.NewTestServer())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// interopCase is the environment variable that makes the test binary one client:
// grpc-go's cases end the process when they fail.
const interopCase = "GATEHOUSE_E2E_INTEROP"

// interopCases are those that need no credentials of a cloud and are not about
// how a client balances.
var interopCases = []struct {
	name string
	run  func(ctx context.Context, cc *grpc.ClientConn, tc testgrpc.TestServiceClient)
}{
	{"empty_unary", func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoEmptyUnaryCall(ctx, tc)
	}},
	{"large_unary", func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoLargeUnaryCall(ctx, tc)
	}},
	{"client_streaming", func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoClientStreaming(ctx, tc)
	}},
	{"server_streaming", func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoServerStreaming(ctx, tc)
	}},
	{"ping_pong", func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoPingPong(ctx, tc)
	}},
	{"empty_stream", func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoEmptyStream(ctx, tc)
	}},
	{"timeout_on_sleeping_server", func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoTimeoutOnSleepingServer(ctx, tc)
	}},
	{"cancel_after_begin", func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoCancelAfterBegin(ctx, tc)
	}},
	{"cancel_after_first_response", func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoCancelAfterFirstResponse(ctx, tc)
	}},
	{"custom_metadata", func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoCustomMetadata(ctx, tc)
	}},
	{"status_code_and_message", func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoStatusCodeAndMessage(ctx, tc)
	}},
	{"special_status_message", func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoSpecialStatusMessage(ctx, tc)
	}},
	{"unimplemented_method", func(ctx context.Context, cc *grpc.ClientConn, _ testgrpc.TestServiceClient) {
		interop.DoUnimplementedMethod(ctx, cc)
	}},
	{"unimplemented_service", func(ctx context.Context, cc *grpc.ClientConn, _ testgrpc.TestServiceClient) {
		interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(cc))
	}},
}

// interopClient runs one case: "ADDRESS CAFILE CASE", where "-" is no file.
func interopClient(what string) error {
	words := strings.Fields(what)
	security := insecure.NewCredentials()
	if words[1] != "-" {
		var err error
		if security, err = credentials.NewClientTLSFromFile(words[1], "api.test"); err != nil {
			return err
		}
	}
	cc, err := grpc.NewClient("passthrough:///"+words[0], grpc.WithTransportCredentials(security))
	if err != nil {
		return err
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, c := range interopCases {
		if c.name == words[2] {
			c.run(ctx, cc, testgrpc.NewTestServiceClient(cc))
			fmt.Println("passed " + c.name)
			return nil
		}
	}
	return fmt.Errorf("no case %q", words[2])
}

func TestGRPCInterop(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	clear := interopServer(t)
	for _, k := range []struct{ name, client, upstream string }{
		{"h2c to h2c", "", "h2c"},
		{"TLS to h2c", "certificates: [api]", "h2c"},
		{"TLS to TLS", "certificates: [api]", "h2"},
		{"h2c to TLS chosen by ALPN", "", "auto"},
	} {
		t.Run(k.name, func(t *testing.T) {
			n := prepareTLS(t)
			upstream := fmt.Sprintf("{ protocol: h2c, endpoints: [%q] }", clear)
			if k.upstream != "h2c" {
				pair, err := tls.LoadX509KeyPair(n.path("api.crt"), n.path("api.key"))
				if err != nil {
					t.Fatal(err)
				}
				upstream = fmt.Sprintf("{ protocol: %s, tls: { ca_file: clients.pem, server_name: api.test }, endpoints: [%q] }",
					k.upstream, interopServer(t, grpc.Creds(credentials.NewServerTLSFromCert(&pair))))
			}
			text := n.secureText(k.client, clear)
			text = strings.Replace(text, fmt.Sprintf("{ endpoints: [%q] }", clear), upstream, 1)
			n.writeRaw(text)
			n.run()
			n.waitReady()
			ca := "-"
			if k.client != "" {
				ca = n.path("clients.pem")
			}
			for _, c := range interopCases {
				t.Run(c.name, func(t *testing.T) {
					client := exec.Command(exe)
					client.Env = append(os.Environ(), interopCase+"="+n.web+" "+ca+" "+c.name)
					out, err := client.CombinedOutput()
					if err != nil || !bytes.Contains(out, []byte("passed "+c.name)) {
						t.Errorf("%v: %s", err, out)
					}
				})
			}
		})
	}
}
