package jwt

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/filewatch"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// firstWait is how long Start waits for keys, so that a reload has no gap
	// when the server is well. Later they are fetched in the background.
	firstWait = 3 * time.Second
	// minBackoff and maxBackoff are between attempts that fail.
	minBackoff = time.Second
	maxBackoff = time.Minute
	// maxWaiting bounds the requests that wait for a key not known yet.
	maxWaiting = 64
)

// remote keeps the keys of a URL up to date. The keys read last stay when the
// server is away, slow or answers with garbage.
type remote struct {
	url     string
	algs    []string
	client  *http.Client
	timeout time.Duration
	refresh time.Duration
	unknown time.Duration // between two fetches for unknown keys
	log     *slog.Logger
	keys    *atomic.Pointer[keySet]

	ok, failed prometheus.Counter

	kick chan struct{} // has room for one
	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup

	mu      sync.Mutex // guards all below
	running chan struct{}
	waiting int
	last    time.Time // when the last fetch for an unknown key was asked for
}

func newRemote(c *Config, caFile string, log *slog.Logger, keys *atomic.Pointer[keySet]) (*remote, error) {
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           1,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
	if caFile != "" {
		pem, err := filewatch.Read(caFile, maxAuthorities)
		if err != nil {
			return nil, fmt.Errorf("ca_file %q: %w", caFile, err)
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file %q has no PEM certificate", caFile)
		}
	}
	return &remote{
		url: c.JWKSURL, algs: c.algorithms(), timeout: c.Timeout.D(), refresh: c.Refresh.D(), unknown: c.RefreshUnknown.D(),
		log: log, keys: keys, kick: make(chan struct{}, 1), stop: make(chan struct{}),
		client: &http.Client{Transport: t, CheckRedirect: checkRedirect},
	}, nil
}

// checkRedirect follows a few redirects, never away from TLS.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > 3 {
		return errors.New("more than 3 redirects")
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("redirected to %s without TLS", req.URL.Redacted())
	}
	return nil
}

// start begins to fetch and waits a little for the first keys.
func (r *remote) start(ctx context.Context) {
	r.mu.Lock()
	first := make(chan struct{})
	r.running = first
	r.mu.Unlock()
	r.wg.Go(r.loop)
	t := time.NewTimer(firstWait)
	defer t.Stop()
	select {
	case <-first:
	case <-t.C:
	case <-ctx.Done():
	}
}

// close ends fetching and waits for it. Safe twice and without start.
func (r *remote) close() {
	r.once.Do(func() { close(r.stop) })
	r.wg.Wait()
	r.client.CloseIdleConnections()
}

func (r *remote) loop() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r.wg.Go(func() {
		<-r.stop
		cancel()
	})
	backoff := minBackoff
	for {
		err := r.fetch(ctx)
		r.finished()
		pause := r.refresh
		if err != nil && ctx.Err() == nil {
			r.failed.Inc()
			r.log.Error("jwks_url: the keys read last stay", "url", r.url, "error", err, "keys", r.keys.Load() != nil)
			pause = min(backoff, r.refresh)
			backoff = min(2*backoff, maxBackoff)
		} else {
			r.ok.Inc()
			backoff = minBackoff
		}
		t := time.NewTimer(pause - rand.N(pause/10+1)) // nodes must not fetch in step
		select {
		case <-r.stop:
			t.Stop()
			return
		case <-t.C:
		case <-r.kick:
			t.Stop()
		}
		r.begin()
	}
}

// begin notes that a fetch is running; finished wakes who waits for it.
func (r *remote) begin() {
	r.mu.Lock()
	if r.running == nil {
		r.running = make(chan struct{})
	}
	r.mu.Unlock()
}

func (r *remote) finished() {
	r.mu.Lock()
	if r.running != nil {
		close(r.running)
		r.running = nil
	}
	r.mu.Unlock()
}

// ask fetches the keys again because a token names one that is not known, and
// waits for them. It is limited: once in a while, and for few requests at
// once, so that made-up key names cost neither us nor the server much. It
// reports whether looking again is worth while.
func (r *remote) ask(ctx context.Context) bool {
	r.mu.Lock()
	if r.running == nil {
		if now := time.Now(); now.Sub(r.last) >= r.unknown {
			r.last = now
			r.running = make(chan struct{})
			select {
			case r.kick <- struct{}{}:
			default: // asked for already
			}
		}
	}
	running := r.running
	if running == nil || r.waiting >= maxWaiting {
		r.mu.Unlock()
		return false
	}
	r.waiting++
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.waiting--
		r.mu.Unlock()
	}()
	t := time.NewTimer(r.timeout)
	defer t.Stop()
	select {
	case <-running:
		return true
	case <-t.C:
	case <-ctx.Done():
	case <-r.stop:
	}
	return false
}

// fetch gets the keys once. A set that is the same byte for byte stays the
// same set, so that remembered tokens stay good.
func (r *remote) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	req.Header.Set("User-Agent", "gatehouse")
	resp, err := r.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // the URL is logged beside it
		}
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // only read from
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("answered with status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxKeySet+1))
	if err != nil {
		return err
	}
	if old := r.keys.Load(); old != nil && old.digest == sha256.Sum256(body) {
		return nil
	}
	set, err := parseKeys(body, r.algs)
	if err != nil {
		return err
	}
	r.keys.Store(set)
	return nil
}
