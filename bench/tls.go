package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// certificate writes a self-signed ECDSA P-256 certificate for localhost, as
// cert.pem, key.pem and, for HAProxy, both.pem.
func (r *run) certificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	secret := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	for name, text := range map[string]string{"cert.pem": cert, "key.pem": secret, "both.pem": cert + secret} {
		if _, err := r.file(name, text); err != nil {
			return err
		}
	}
	return nil
}

const gatewayTLS = `certificates: { bench: { cert_file: cert.pem, key_file: key.pem } }
listeners: { web: { address: "LISTEN", tls: { certificates: [bench] } } }
upstreams: { b: { endpoints: ["BACKEND"] } }
routes:
  all: { match: { path: / }, backends: [{ upstream: b }] }
  empty: { match: { path: { exact: /empty } }, respond: { status: 204 } }
`

const nginxTLS = `upstream b { server BACKEND; keepalive 256; keepalive_requests 1000000000; }
server { listen LISTEN ssl http2 backlog=4096; ssl_certificate %[1]s/cert.pem; ssl_certificate_key %[1]s/key.pem;
ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:s:10m; ssl_session_tickets on;
location = /empty { return 204; }
location / { proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection "";
proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; } }`

// besideTLS starts nginx, HAProxy and Gatehouse with the same certificate, all
// with HTTP/1.1 and HTTP/2 by ALPN.
func (r *run) besideTLS(ctx context.Context, do func(nginx, haproxy, gatehouse *process) error) error {
	if err := r.certificate(); err != nil {
		return err
	}
	n, err := r.nginx(ctx, "nginx", fmt.Sprintf(nginxTLS, r.dir))
	if err != nil {
		return err
	}
	defer r.stop(n)
	h, err := r.haproxyWith(ctx, fmt.Sprintf(`frontend f
  bind LISTEN ssl crt %s/both.pem alpn h2,http/1.1
  http-request return status 204 if { path /empty }
  default_backend b
backend b
  server s %s
`, r.dir, r.backend))
	if err != nil {
		return err
	}
	defer r.stop(h)
	g, err := r.gateway(ctx, "gatehouse", gatewayTLS)
	if err != nil {
		return err
	}
	defer r.stop(g)
	return do(n, h, g)
}

func tlsKeepAlive(ctx context.Context, r *run) error {
	return r.besideTLS(ctx, func(n, h, g *process) error {
		load := wrk("https", "/")
		return r.compare(ctx, row{p: n, load: load}, row{p: h, load: load}, row{p: g, load: load})
	})
}

// http2 compares over TLS with nginx and HAProxy, and in clear text with
// net/http's ReverseProxy, which is what the target speaks of.
func http2(ctx context.Context, r *run) error {
	err := r.besideTLS(ctx, func(n, h, g *process) error {
		fmt.Println("over TLS:")
		load := h2load("https", "/")
		return r.compare(ctx, row{p: n, load: load}, row{p: h, load: load}, row{p: g, load: load})
	})
	if err != nil {
		return err
	}
	p, err := r.helper(ctx, "net/http ReverseProxy", "reverse-proxy", r.backend)
	if err != nil {
		return err
	}
	defer r.stop(p)
	g, err := r.gateway(ctx, "gatehouse", gatewayPlain)
	if err != nil {
		return err
	}
	defer r.stop(g)
	fmt.Println("in clear text (h2c):")
	load := h2load("http", "/")
	return r.compare(ctx, row{p: p, load: load}, row{p: g, load: load})
}

// handshakes makes a connection for each request, of which the reply is empty.
func handshakes(ctx context.Context, r *run) error {
	return r.besideTLS(ctx, func(n, h, g *process) error {
		for _, c := range []struct {
			about  string
			resume bool
			curves []tls.CurveID
		}{
			{"full, TLS 1.3, X25519", false, []tls.CurveID{tls.X25519}},
			{"full, TLS 1.3, X25519MLKEM768 where the server has it", false, []tls.CurveID{tls.X25519MLKEM768, tls.X25519}},
			{"resumed, TLS 1.3, X25519", true, []tls.CurveID{tls.X25519}},
		} {
			fmt.Println(c.about + ":")
			load := connect(c.resume, c.curves)
			if err := r.compare(ctx, row{p: n, load: load}, row{p: h, load: load}, row{p: g, load: load}); err != nil {
				return err
			}
		}
		return nil
	})
}

// connect opens a connection for each request, with eight at once.
func connect(resume bool, curves []tls.CurveID) loader {
	return func(ctx context.Context, r *run, p *process) (result, error) {
		var done, failed, resumed atomic.Int64
		var last atomic.Pointer[error]
		before, began := p.cpu(), time.Now()
		end := began.Add(time.Duration(r.seconds) * time.Second)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				config := &tls.Config{InsecureSkipVerify: true, CurvePreferences: curves, ServerName: "localhost"}
				if resume {
					config.ClientSessionCache = tls.NewLRUClientSessionCache(4)
				}
				for ctx.Err() == nil && time.Now().Before(end) {
					again, err := once(ctx, p.address, config)
					if err != nil {
						last.Store(&err)
						failed.Add(1)
						continue
					}
					if again {
						resumed.Add(1)
					}
					done.Add(1)
				}
			})
		}
		wg.Wait()
		x := result{requests: int(done.Load()), failed: int(failed.Load()), cpu: p.cpu() - before}
		x.perSec = float64(x.requests) / time.Since(began).Seconds()
		if x.requests == 0 {
			return x, fmt.Errorf("%s: no handshake worked: %w", p.name, *last.Load())
		}
		if x.failed > 0 {
			fmt.Printf("%s: %v\n", p.name, *last.Load())
		}
		// The first connection of each client cannot be resumed.
		if n := resumed.Load(); resume && n < done.Load()-8 || !resume && n > 0 {
			return x, fmt.Errorf("%s: %d of %d handshakes were resumed", p.name, n, done.Load())
		}
		return x, nil
	}
}

func once(ctx context.Context, address string, config *tls.Config) (resumed bool, err error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return false, err
	}
	defer nc.Close()
	// A port that waits for two minutes would run out of ports within seconds.
	_ = nc.(*net.TCPConn).SetLinger(0)
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second)) // fails with the handshake
	c := tls.Client(nc, config)
	if err := c.HandshakeContext(ctx); err != nil {
		return false, err
	}
	if _, err := io.WriteString(c, "GET /empty HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
		return false, err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return false, err
	}
	if !strings.HasPrefix(line, "HTTP/1.1 204") {
		return false, fmt.Errorf("answered %q", line)
	}
	return c.ConnectionState().DidResume, nil
}
