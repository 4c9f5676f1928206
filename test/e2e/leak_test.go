package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// footprint is what a node holds on to: descriptors, of which those of epoll
// are counted apart, and goroutines.
type footprint struct {
	fds, polls, goroutines int
	stacks                 string
}

// footprint counts descriptors and goroutines of a node that nobody talks to.
func (g *gatehouse) footprint() footprint {
	g.t.Helper()
	g.logHas("gatehouse is ready") // it has started all it is to start, which /readyz does not wait for
	http.DefaultClient.CloseIdleConnections()
	client.CloseIdleConnections()
	_, page := g.adminGet("/debug/pprof/goroutine?debug=1", g.token())
	f := footprint{stacks: page}
	if _, err := fmt.Sscanf(page, "goroutine profile: total %d", &f.goroutines); err != nil {
		g.t.Fatalf("%v in %q", err, page)
	}
	// One goroutine, with a descriptor of epoll, watches the clients of long
	// requests; it is made when first needed.
	f.goroutines -= strings.Count(page, "gateway/h1.(*watcher).run+")
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.cmd.Process.Pid))
	if err != nil {
		g.t.Fatal(err)
	}
	for _, d := range fds {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", g.cmd.Process.Pid, d.Name()))
		switch {
		case err != nil: // closed meanwhile
		case to == "anon_inode:[eventpoll]":
			f.polls++
		default:
			f.fds++
		}
	}
	return f
}

// token is the admin token the node has written.
func (g *gatehouse) token() string {
	g.t.Helper()
	b, err := os.ReadFile(filepath.Join(g.dataDir, "admin.token"))
	if err != nil {
		g.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// adminGet asks the admin address on a connection of its own; token may be empty.
func (g *gatehouse) adminGet(path, token string) (status int, body string) {
	g.t.Helper()
	req, err := http.NewRequest("GET", "http://"+g.admin+path, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	req.Close = true
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// sum adds up all series of a metric.
func (g *gatehouse) sum(name string) float64 {
	g.t.Helper()
	_, page := g.adminGet("/metrics", "")
	total := 0.0
	for line := range strings.Lines(page) {
		if rest, ok := strings.CutPrefix(line, name); ok && (rest[0] == '{' || rest[0] == ' ') {
			var v float64
			if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &v); err != nil {
				g.t.Fatalf("%v in %q", err, line)
			}
			total += v
		}
	}
	return total
}

// leavesNothing waits until the node is back to what it held before, with
// nothing in flight and no connection open on either side. Its upstreams must
// not keep idle connections for long.
func (g *gatehouse) leavesNothing(before footprint) {
	g.t.Helper()
	g.eventually("nothing is left behind", func() error {
		var left []error
		now := g.footprint()
		if now.fds > before.fds {
			left = append(left, fmt.Errorf("%d descriptors, before %d", now.fds, before.fds))
		}
		if now.polls > 2 { // the runtime's and the watcher's
			left = append(left, fmt.Errorf("%d descriptors of epoll", now.polls))
		}
		if now.goroutines > before.goroutines {
			left = append(left, fmt.Errorf("%d goroutines, before %d:\n%s", now.goroutines, before.goroutines, now.stacks))
		}
		for _, m := range []string{
			"gatehouse_route_requests_in_flight", "gatehouse_upstream_requests_in_flight",
			"gatehouse_upstream_connections_open", "gatehouse_listener_connections_open",
		} {
			if n := g.sum(m); n != 0 {
				left = append(left, fmt.Errorf("%s %v", m, n))
			}
		}
		return errors.Join(left...)
	})
}
