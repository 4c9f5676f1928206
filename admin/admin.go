// Package admin is the address for operators: health, readiness, metrics, the
// revisions of a fleet's config, the service registry and, when switched on,
// profiles. It never serves the data plane's traffic.
package admin

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/fleet"
	"github.com/gatehouse-proxy/gatehouse/control/nodes"
	"github.com/gatehouse-proxy/gatehouse/gateway/filewatch"
	"github.com/gatehouse-proxy/gatehouse/gateway/socket"
	"github.com/gatehouse-proxy/gatehouse/mesh/registry"
)

// Settings are what an admin server shows.
type Settings struct {
	// Address is HOST:PORT.
	Address string
	// Sockets are those the process was started with, which the one for Address
	// may be among. May be nil.
	Sockets *socket.Inherited
	// DataDir is where the token file is kept.
	DataDir string
	// Pprof serves profiles under /debug/pprof/, for holders of the token.
	Pprof bool
	// Log gets what the server itself complains about; nil: the standard log.
	Log *slog.Logger
	// Metrics answers /metrics.
	Metrics http.Handler
	// Ready is nil when the node may get traffic.
	Ready func() error
	// Detail is shown by /readyz and, with the token, by /api/v1/status.
	Detail func() any
	// Fleet publishes revisions and tells about them; nil: the node's config is a
	// file.
	Fleet *fleet.Publisher
	// Members lists the nodes that share a store; nil: this one shares nothing.
	Members func(context.Context) ([]nodes.Member, error)
	// Quotas are those of the live config; nil: they cannot be told.
	Quotas Quotas
	// Registry is the service registry; nil: there is none.
	Registry *registry.Registry
}

// Server is the admin server of one node.
type Server struct {
	settings Settings
	token    [sha256.Size]byte
	draining atomic.Bool
	leaving  atomic.Bool // replies end their connection
	listener net.Listener
	http     *http.Server
	serving  sync.WaitGroup
}

// New makes a server and its token file DATA_DIR/admin.token, which is written
// with mode 0600 on first use. It opens no socket.
func New(s Settings) (*Server, error) {
	token, err := loadToken(filepath.Join(s.DataDir, "admin.token"))
	if err != nil {
		return nil, err
	}
	a := &Server{settings: s, token: sha256.Sum256([]byte(token))}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", a.readyz)
	mux.Handle("GET /metrics", s.Metrics)
	mux.Handle("GET /api/v1/status", a.guarded(http.HandlerFunc(a.status)))
	a.fleetRoutes(mux)
	a.serviceRoutes(mux)
	a.quotaRoutes(mux)
	if s.Pprof {
		mux.Handle("GET /debug/pprof/", a.guarded(http.HandlerFunc(pprof.Index)))
		mux.Handle("GET /debug/pprof/cmdline", a.guarded(http.HandlerFunc(pprof.Cmdline)))
		mux.Handle("GET /debug/pprof/profile", a.guarded(http.HandlerFunc(pprof.Profile)))
		mux.Handle("GET /debug/pprof/symbol", a.guarded(http.HandlerFunc(pprof.Symbol)))
		mux.Handle("GET /debug/pprof/trace", a.guarded(http.HandlerFunc(pprof.Trace)))
	}
	a.http = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if a.leaving.Load() {
				w.Header().Set("Connection", "close")
			}
			mux.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	if s.Log != nil {
		a.http.ErrorLog = slog.NewLogLogger(s.Log.With("server", "admin").Handler(), slog.LevelWarn)
	}
	return a, nil
}

// maxTokenFile bounds the file of the token.
const maxTokenFile = 64 << 10

// loadToken reads the token, making one first if there is none.
func loadToken(path string) (string, error) {
	b, err := filewatch.Read(path, maxTokenFile)
	if err == nil {
		if token := strings.TrimSpace(string(b)); len(token) >= 32 {
			return token, nil
		}
		return "", fmt.Errorf("node.data_dir: %s: the admin token must have at least 32 characters; delete the file to get a new one", path)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("node.data_dir: reading the admin token %s: %w", path, err)
	}
	var raw [24]byte
	rand.Read(raw[:])
	token := hex.EncodeToString(raw[:])
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("node.data_dir: %w", err)
	}
	// Another node of the same folder may be doing the same: the first one wins.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return loadToken(path)
	}
	if err == nil {
		_, err = f.WriteString(token + "\n")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return "", fmt.Errorf("node.data_dir: writing the admin token: %w", err)
	}
	return token, nil
}

// label is what the socket is called among others.
const label = "admin"

// Bind binds the address, or takes over a socket that is. Connections wait until
// Serve.
func (a *Server) Bind(ctx context.Context) error {
	l, err := a.settings.Sockets.Listen(ctx, label, a.settings.Address)
	if err != nil {
		return err // which names the address
	}
	a.listener = l
	return nil
}

// Start is Bind and Serve.
func (a *Server) Start(ctx context.Context) error {
	if err := a.Bind(ctx); err != nil {
		return err
	}
	a.Serve()
	return nil
}

// Serve serves, after Bind, until Close or Leave.
func (a *Server) Serve() {
	a.serving.Go(func() { _ = a.http.Serve(a.listener) }) // it ends with ErrServerClosed
}

// Socket is for a process that is to replace this one.
func (a *Server) Socket() socket.Socket {
	return socket.Socket{Label: label, Network: "tcp", Conn: a.listener.(syscall.Conn)}
}

// restTime is how long clients have to hear, by their next request, that their
// connection ends.
const restTime = 250 * time.Millisecond

// Leave stops accepting, since another process does, and returns when requests in
// flight have finished, or ctx is done. Close is to follow.
func (a *Server) Leave(ctx context.Context) {
	a.leaving.Store(true)
	_ = a.listener.Close() // nothing to lose: another process has it
	a.serving.Wait()       // or Shutdown would miss what was accepted just now
	select {
	case <-ctx.Done():
	case <-time.After(restTime):
	}
	_ = a.http.Shutdown(ctx) // Close ends the rest
}

// Addr is the bound address, after Bind.
func (a *Server) Addr() net.Addr { return a.listener.Addr() }

// Drain makes the node unready, before listeners close.
func (a *Server) Drain() { a.draining.Store(true) }

// Close stops serving at once; safe without Bind and Serve.
func (a *Server) Close() error {
	err := a.http.Close()
	a.serving.Wait()
	if a.listener != nil {
		_ = a.listener.Close() // Serve has closed it, if it was called
	}
	return err
}

func (a *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	body := map[string]any{"ready": true, "detail": a.settings.Detail()}
	code := http.StatusOK
	switch err := a.settings.Ready(); {
	case a.draining.Load():
		body["ready"], body["reason"], code = false, "draining", http.StatusServiceUnavailable
	case err != nil:
		body["ready"], body["reason"], code = false, err.Error(), http.StatusServiceUnavailable
	}
	reply(w, code, body)
}

func (a *Server) status(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, a.settings.Detail())
}

func reply(w http.ResponseWriter, code int, body any) { replyAs(w, code, "application/json", body) }

func replyAs(w http.ResponseWriter, code int, mediaType string, body any) {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(body) // the client has gone: nobody is left to tell
}

// guarded asks for "Authorization: Bearer TOKEN".
func (a *Server) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		sum := sha256.Sum256([]byte(token))
		if !ok || subtle.ConstantTimeCompare(sum[:], a.token[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="gatehouse admin"`)
			reply(w, http.StatusUnauthorized, map[string]string{
				"error": "send the token from DATA_DIR/admin.token as Authorization: Bearer TOKEN",
			})
			return
		}
		next.ServeHTTP(w, r)
	})
}
