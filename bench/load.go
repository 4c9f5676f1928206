package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// result of one round.
type result struct {
	requests int
	failed   int
	cpu      time.Duration
	perSec   float64
}

// micros is the CPU per request in microseconds.
func (x result) micros() float64 {
	return float64(x.cpu.Nanoseconds()) / 1e3 / float64(max(x.requests, 1))
}

var (
	wrkTotal  = regexp.MustCompile(`(\d+) requests in`)
	wrkRate   = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	wrkStatus = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)`)
	wrkSocket = regexp.MustCompile(`Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)`)
)

// loader drives one process for one round and counts its CPU.
type loader func(ctx context.Context, r *run, p *process) (result, error)

// wrk is HTTP/1.1 with wrk: scheme is "http" or "https".
func wrk(scheme, path string, extra ...string) loader {
	return func(ctx context.Context, r *run, p *process) (result, error) {
		return r.wrk(ctx, p, scheme, path, extra...)
	}
}

func (r *run) wrk(ctx context.Context, p *process, scheme, path string, extra ...string) (result, error) {
	args := append([]string{"-t1", "-c64", fmt.Sprintf("-d%ds", r.seconds)}, extra...)
	before := p.cpu()
	out, err := exec.CommandContext(ctx, "wrk", append(args, scheme+"://"+p.address+path)...).CombinedOutput()
	if err != nil {
		return result{}, fmt.Errorf("wrk: %w\n%s", err, out)
	}
	x := result{cpu: p.cpu() - before, requests: number(wrkTotal, out)}
	x.failed = number(wrkStatus, out)
	if m := wrkSocket.FindSubmatch(out); m != nil {
		for _, n := range m[1:] {
			v, _ := strconv.Atoi(string(n))
			x.failed += v
		}
	}
	if m := wrkRate.FindSubmatch(out); m != nil {
		x.perSec, _ = strconv.ParseFloat(string(m[1]), 64)
	}
	return x, nil
}

func number(re *regexp.Regexp, out []byte) int {
	m := re.FindSubmatch(out)
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(string(m[1]))
	return n
}

var (
	h2Total = regexp.MustCompile(`requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout`)
	h2Codes = regexp.MustCompile(`status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx`)
	h2Rate  = regexp.MustCompile(`finished in [^,]+, ([\d.]+) req/s`)
)

// h2load is HTTP/2 with h2load, over TLS or with prior knowledge.
func h2load(scheme, path string, extra ...string) loader {
	return func(ctx context.Context, r *run, p *process) (result, error) {
		// Streams that one connection has opened all at once fill its buffers in
		// the first second of a round; 16 connections of 32 do not.
		args := append([]string{"-t1", "-c16", "-m32", "-D", strconv.Itoa(r.seconds)}, extra...)
		before := p.cpu()
		out, err := exec.CommandContext(ctx, "h2load", append(args, scheme+"://"+p.address+path)...).CombinedOutput()
		if err != nil {
			return result{}, fmt.Errorf("h2load: %w\n%s", err, out)
		}
		x := result{cpu: p.cpu() - before}
		total, codes := h2Total.FindSubmatch(out), h2Codes.FindSubmatch(out)
		if total == nil || codes == nil {
			return result{}, fmt.Errorf("h2load printed no totals:\n%s", out)
		}
		for _, n := range [][]byte{total[2], total[3], total[4], codes[3], codes[4]} {
			v, _ := strconv.Atoi(string(n))
			x.failed += v
		}
		x.requests, _ = strconv.Atoi(string(codes[1]))
		if m := h2Rate.FindSubmatch(out); m != nil {
			x.perSec, _ = strconv.ParseFloat(string(m[1]), 64)
		}
		return x, nil
	}
}

// row is a proxy in a comparison.
type row struct {
	p    *process
	load loader
	name string // empty: the process's
}

// compare runs the rows in turn, round after round, and prints the median of
// each with its ratio to the first.
func (r *run) compare(ctx context.Context, rows ...row) error {
	all := make([][]result, len(rows))
	for range r.rounds {
		for i, w := range rows {
			x, err := w.load(ctx, r, w.p)
			if err != nil {
				return err
			}
			all[i] = append(all[i], x)
		}
	}
	fmt.Printf("| %-28s | CPU µs/req | range | req/s | failed | ratio |\n|---|---|---|---|---|---|\n", "")
	base := 0.0
	for i, w := range rows {
		slices.SortFunc(all[i], func(a, b result) int { return int((a.micros() - b.micros()) * 1000) })
		mid := all[i][len(all[i])/2]
		if i == 0 {
			base = mid.micros()
		}
		failed := 0
		for _, x := range all[i] {
			failed += x.failed
		}
		name := w.name
		if name == "" {
			name = w.p.name
		}
		fmt.Printf("| %-28s | %.2f | %.2f-%.2f | %.0f | %d | %.2f |\n", name, mid.micros(),
			all[i][0].micros(), all[i][len(all[i])-1].micros(), mid.perSec, failed, mid.micros()/base)
	}
	return nil
}

// openLoop sends a fixed rate and returns the sorted latencies.
func (r *run) openLoop(ctx context.Context, p *process, perSecond, connections, seconds int) ([]time.Duration, error) {
	log := filepath.Join(r.dir, "h2load.log")
	_ = os.Remove(log) // h2load appends
	rate := strconv.Itoa(perSecond / connections)
	out, err := exec.CommandContext(ctx, "h2load", "--h1", "-t1", "-c", strconv.Itoa(connections), "-m1", "--rps", rate,
		"-D", strconv.Itoa(seconds), "--warm-up-time", "1", "--log-file", log, "http://"+p.address+"/").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("h2load: %w\n%s", err, out)
	}
	f, err := os.Open(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []time.Duration
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) == 3 && fields[1] == "200" {
			us, _ := strconv.Atoi(fields[2])
			all = append(all, time.Duration(us)*time.Microsecond)
		}
	}
	slices.Sort(all)
	if len(all) == 0 {
		return nil, fmt.Errorf("h2load: no answered request\n%s", out)
	}
	return all, nil
}

func quantile(sorted []time.Duration, q float64) float64 {
	return float64(sorted[min(len(sorted)-1, int(q*float64(len(sorted))))].Microseconds()) / 1000
}
