package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/quic-go/quic-go/http3"
)

const gatewayBulk = `certificates: { bench: { cert_file: cert.pem, key_file: key.pem } }
listeners:
  web: { address: "LISTEN" }
  secure: { address: "SECURE", http3: true, tls: { certificates: [bench] } }
upstreams: { b: { endpoints: ["BACKEND"], protocol: PROTOCOL } }
routes: { all: { match: { path: / }, backends: [{ upstream: b }] } }
`

const gibibyte = 1 << 30

// bulk sends 1 GiB each way over every protocol and looks at the memory.
func bulk(ctx context.Context, r *run) error {
	if err := r.certificate(); err != nil {
		return err
	}
	backend, err := r.helper(ctx, "bulk", "bulk", "")
	if err != nil {
		return err
	}
	defer r.stop(backend)
	insecure := &tls.Config{InsecureSkipVerify: true}
	http1, http2, clear2 := new(http.Protocols), new(http.Protocols), new(http.Protocols)
	http1.SetHTTP1(true)
	http2.SetHTTP2(true)
	clear2.SetUnencryptedHTTP2(true)
	fmt.Println("| in | to the upstream | way | MB/s | CPU ms/GB | RSS before MB | peak MB |\n|---|---|---|---|---|---|---|")
	for _, upstream := range []string{"http1", "h2c"} {
		secure, err := freePort()
		if err != nil {
			return err
		}
		with := *r
		with.backend = backend.address
		g, err := with.gateway(ctx, "gatehouse", strings.NewReplacer("SECURE", secure, "PROTOCOL", upstream).Replace(gatewayBulk))
		if err != nil {
			return err
		}
		for _, c := range []struct {
			name, url string
			transport http.RoundTripper
		}{
			{"HTTP/1.1", "http://" + g.address, &http.Transport{Protocols: http1}},
			{"HTTP/1.1 over TLS", "https://" + secure, &http.Transport{Protocols: http1, TLSClientConfig: insecure.Clone()}},
			{"h2c", "http://" + g.address, &http.Transport{Protocols: clear2}},
			{"HTTP/2 over TLS", "https://" + secure, &http.Transport{Protocols: http2, TLSClientConfig: insecure.Clone()}},
			{"HTTP/3", "https://" + secure, &http3.Transport{TLSClientConfig: insecure.Clone()}},
		} {
			client := &http.Client{Transport: c.transport}
			for _, way := range []string{"download", "upload"} {
				if err := r.gigabyte(ctx, g, client, c.url, c.name, upstream, way); err != nil {
					return fmt.Errorf("%s to %s, %s: %w", c.name, upstream, way, err)
				}
			}
			client.CloseIdleConnections()
		}
		r.stop(g)
	}
	return nil
}

func (r *run) gigabyte(ctx context.Context, g *process, client *http.Client, url, name, upstream, way string) error {
	idle := g.rss()
	g.resetPeak()
	cpu, began := g.cpu(), time.Now()
	n, err := exchange(ctx, client, url, way)
	if err != nil {
		return err
	}
	if n != gibibyte {
		return fmt.Errorf("%d bytes arrived", n)
	}
	took := time.Since(began)
	fmt.Printf("| %s | %s | %s | %.0f | %.0f | %.1f | %.1f |\n", name, upstream, way, gibibyte/1e6/took.Seconds(),
		(g.cpu()-cpu).Seconds()*1000/(gibibyte/1e9), mb(idle), mb(g.peak()))
	return nil
}

func exchange(ctx context.Context, client *http.Client, url, way string) (int64, error) {
	if way == "download" {
		q, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/"+strconv.Itoa(gibibyte), nil)
		if err != nil {
			return 0, err
		}
		reply, err := client.Do(q)
		if err != nil {
			return 0, err
		}
		defer reply.Body.Close()
		return io.Copy(io.Discard, reply.Body)
	}
	body := &counted{left: gibibyte}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/", body)
	if err != nil {
		return 0, err
	}
	q.ContentLength = gibibyte
	reply, err := client.Do(q)
	if err != nil {
		return 0, err
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(text), 10, 64)
}

// counted is a body of zeros.
type counted struct{ left int64 }

func (c *counted) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(int64(len(p)), c.left)], zeros[:])
	c.left -= int64(n)
	return n, nil
}

// resetPeak makes peak count from now on.
func (p *process) resetPeak() {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.cmd.Process.Pid), []byte("5"), 0) // else it counts from the start
}

// peak is the largest resident memory since resetPeak, in bytes.
func (p *process) peak() int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}
