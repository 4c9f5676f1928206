package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// gatewayLimited answers by itself, so that the limit is what is measured. Its
// first line goes on with the node section.
const gatewayLimited = `  store: { redis: { addresses: ["REDIS"] } }
listeners: { web: { address: "LISTEN" } }
routes:
  all:
    match: { path: / }
    plugins: [PLUGIN]
    respond: { body: hello }
`

// fleetLimits measures what a limit costs the node that asks, by how it is
// counted: the difference to the first row.
func fleetLimits(ctx context.Context, r *run) error {
	address, err := freePort()
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	redis, err := r.start(ctx, "redis", address, "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", r.dir)
	if err != nil {
		return fmt.Errorf("%w (make setup installs Redis)", err)
	}
	defer r.stop(redis)
	const limit = "limit: 100000000, per: 1s, burst: 1000000, headers: false"
	var rows []row
	for _, c := range []struct{ name, plugin string }{
		{"no limit", ""},
		{"rate_limit local", "rate_limit: { " + limit + " }"},
		{"rate_limit global exact", "rate_limit: { " + limit + ", scope: global, mode: exact }"},
		{"rate_limit global leased", "rate_limit: { " + limit + ", scope: global, mode: leased }"},
		{"concurrency_limit global", "concurrency_limit: { limit: 10000, scope: global }"},
	} {
		plugin := ""
		if c.plugin != "" {
			plugin = "{ " + c.plugin + " }"
		}
		g, err := r.gateway(ctx, c.name, strings.NewReplacer("REDIS", address, "PLUGIN", plugin).Replace(gatewayLimited))
		if err != nil {
			return err
		}
		defer r.stop(g)
		rows = append(rows, row{p: g, load: wrk("http", "/", "-c8", "-t1")}) // few enough that 2 ms are enough
	}
	if err := r.compare(ctx, rows...); err != nil {
		return err
	}
	for _, w := range rows {
		if err := r.printSources(ctx, w.p); err != nil {
			return err
		}
	}
	return nil
}

var (
	adminLine  = regexp.MustCompile(`admin: \{ address: "([^"]+)"`)
	sourceLine = regexp.MustCompile(`_decisions_total\{.*source="(\w+)"\} (\S+)`)
)

// printSources tells who made a node's decisions: on a machine that is too busy
// to answer in 2 ms nodes go on by themselves, and that is what was measured.
func (r *run) printSources(ctx context.Context, p *process) error {
	text, err := os.ReadFile(filepath.Join(r.dir, p.name+".yaml"))
	if err != nil {
		return err
	}
	m := adminLine.FindSubmatch(text)
	if m == nil {
		return fmt.Errorf("%s.yaml has no admin address", p.name)
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+string(m[1])+"/metrics", http.NoBody)
	if err != nil {
		return err
	}
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	body, err := io.ReadAll(a.Body)
	if err != nil {
		return err
	}
	for _, m := range sourceLine.FindAllSubmatch(body, -1) {
		if n, err := strconv.ParseFloat(string(m[2]), 64); err == nil && n > 0 {
			fmt.Printf("%s: %.0f decided by %s\n", p.name, n, m[1])
		}
	}
	return nil
}
