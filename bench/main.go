// Command bench measures Gatehouse beside nginx and HAProxy in one run on
// loopback: CPU per request from /proc, latency at a fixed rate, memory, and
// reloads under load. Ratios inside a run are what counts; absolute figures of
// a shared machine are not. See docs/performance.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// run is one run of the program.
type run struct {
	gatehouse string
	dir       string
	rounds    int
	seconds   int
	started   []*process
	backend   string // HOST:PORT
}

type scenario struct {
	name, about string
	do          func(ctx context.Context, r *run) error
}

var scenarios = []scenario{
	{"plain", "GET through the proxy, 256-byte reply, 64 keep-alive connections", plain},
	{"post", "POST of 512 bytes, otherwise the same", post},
	{"latency", "4 000 requests a second over 32 connections, open loop", latency},
	{"routes", "the last of 10 000 routes against a single route", routes},
	{"guarded", "API key, rate limit, request ID, metrics and access log to a file", guarded},
	{"limits", "a limit of the fleet in Redis, exact and leased, against none", fleetLimits},
	{"waf", "OWASP CRS at paranoia level 1, benign requests", firewall},
	{"tls", "GET over TLS 1.3 with HTTP/1.1, otherwise as plain", tlsKeepAlive},
	{"http2", "GET over HTTP/2, 16 connections of 32 streams, to an HTTP/1.1 upstream", http2},
	{"handshakes", "a new TLS connection for each request, ECDSA P-256", handshakes},
	{"grpc", "unary calls with 100 bytes, 16 connections of 32 streams, to an h2c upstream", grpcUnary},
	{"tcp", "bulk transfer through a TCP listener, 4 connections", tcp},
	{"bulk", "1 GiB each way over every protocol, and the memory that takes", bulk},
	{"memory", "resident memory: idle, with CRS, per idle connection, over 100 reloads", memory},
	{"fleet", "a revision of 5 000 routes, from being published to being live on every one of 50 nodes and acknowledged, in one process with one Redis", fleets},
	{"registry", "10 000 instances in a real Redis: how soon all know, and what an idle node pays", services},
	{"reload", "five reloads in eight seconds under 32 busy connections", reloads},
}

func main() {
	gatehouse := flag.String("gatehouse", "bin/gatehouse", "the binary to measure")
	rounds := flag.Int("rounds", 4, "rounds, alternating between the proxies; the median counts")
	seconds := flag.Int("seconds", 3, "length of one round")
	only := flag.String("only", "", "comma-separated scenarios; empty: all")
	server := flag.String("serve", "", "be one of the bench's own servers instead")
	listen := flag.String("listen", "", "its address")
	backend := flag.String("backend", "", "what it forwards to")
	flag.Parse()
	if *server != "" {
		if err := serve(*server, *listen, *backend); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, *gatehouse, *only, *rounds, *seconds); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:gocritic // stop only restores signal handling
	}
}

func bench(ctx context.Context, gatehouse, only string, rounds, seconds int) error {
	dir, err := os.MkdirTemp("", "gatehouse-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	abs, err := filepath.Abs(gatehouse)
	if err != nil {
		return err
	}
	r := &run{gatehouse: abs, dir: dir, rounds: rounds, seconds: seconds}
	defer r.stopAll()
	fmt.Printf("%s, %d cores, %s, %d rounds of %d s\n", time.Now().UTC().Format("2006-01-02 15:04 MST"), runtime.NumCPU(), runtime.Version(), rounds, seconds)
	if err := r.startBackend(ctx); err != nil {
		return err
	}
	for _, s := range scenarios {
		if only != "" && !strings.Contains(","+only+",", ","+s.name+",") {
			continue
		}
		fmt.Printf("\n## %s: %s\n", s.name, s.about)
		if err := s.do(ctx, r); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return ctx.Err()
}
