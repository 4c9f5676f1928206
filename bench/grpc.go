package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
)

const gatewayGRPC = `listeners: { web: { address: "LISTEN" } }
upstreams: { b: { endpoints: ["BACKEND"], protocol: h2c } }
routes: { all: { match: { path: / }, backends: [{ upstream: b }] } }
`

const nginxGRPC = `upstream b { server BACKEND; keepalive 256; keepalive_requests 1000000000; }
server { listen LISTEN http2 backlog=4096; location / { grpc_pass grpc://b; } }`

// grpcUnary sends calls with a message of 100 bytes, echoed.
func grpcUnary(ctx context.Context, r *run) error {
	backend, err := r.helper(ctx, "grpc-backend", "grpc-backend", "")
	if err != nil {
		return err
	}
	defer r.stop(backend)
	with := *r
	with.backend = backend.address
	hop, err := r.helper(ctx, "grpc-go hop", "grpc-hop", backend.address)
	if err != nil {
		return err
	}
	defer r.stop(hop)
	n, err := with.nginx(ctx, "nginx", nginxGRPC)
	if err != nil {
		return err
	}
	defer r.stop(n)
	g, err := with.gateway(ctx, "gatehouse", gatewayGRPC)
	if err != nil {
		return err
	}
	defer r.stop(g)
	message := make([]byte, 5+100)
	message[4] = 100
	data, err := r.file("message", string(message))
	if err != nil {
		return err
	}
	load := h2load("http", "/bench.Echo/Call", "-d", data, "-H", "Content-Type: application/grpc", "-H", "TE: trailers")
	for _, p := range []*process{hop, n, g} {
		if err := call(ctx, p.address); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return r.compare(ctx, row{p: hop, load: load}, row{p: n, load: load}, row{p: g, load: load})
}

// call makes one call with a real client: h2load does not look at grpc-status.
func call(ctx context.Context, address string) error {
	cc, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})))
	if err != nil {
		return err
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	in := mem.BufferSlice{mem.SliceBuffer("hello")}
	var out mem.BufferSlice
	if err := cc.Invoke(ctx, "/bench.Echo/Call", &in, &out); err != nil {
		return err
	}
	if got := string(out.Materialize()); got != "hello" {
		return fmt.Errorf("the echo is %q", got)
	}
	return nil
}
