package eureka

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/netutil"

	"github.com/gatehouse-proxy/gatehouse/mesh/registry"
)

// Settings are what a server is made of. Registry and Log are required.
type Settings struct {
	Registry *registry.Registry
	// Users are passwords by name. Without any, everybody is refused unless Open.
	Users map[string]string
	// Open lets in everybody.
	Open bool
	// TLS, if set, is spoken with clients.
	TLS *tls.Config
	// MaxBody bounds a body in bytes, before and after decompression; 0 means
	// 256 KiB. MaxRequests bounds requests at once; 0 means 512.
	MaxBody, MaxRequests int
	// MaxConnections bounds connections: they must not take the descriptors that
	// traffic needs; 0 means half of those of the process, up to 32768. More wait
	// to be accepted.
	MaxConnections int
	Log            *slog.Logger
}

const (
	// queue is how long a request waits for its turn.
	queue = time.Second
	// asking is how long the registry may take for one request.
	asking = 5 * time.Second
)

// Server answers clients of Eureka.
type Server struct {
	s       Settings
	users   map[string][sha256.Size]byte
	http    *http.Server
	turn    chan struct{}
	cache   cache
	serving sync.WaitGroup

	mu     sync.Mutex // guards counts
	counts map[Count]uint64
}

// Count is a kind of request with what became of it.
type Count struct{ Operation, Result string }

// New returns a server that has opened no socket.
func New(s Settings) *Server {
	if s.MaxBody <= 0 {
		s.MaxBody = 256 << 10
	}
	if s.MaxRequests <= 0 {
		s.MaxRequests = 512
	}
	if s.MaxConnections <= 0 {
		s.MaxConnections = half()
	}
	v := &Server{s: s, users: map[string][sha256.Size]byte{}, turn: make(chan struct{}, s.MaxRequests), counts: map[Count]uint64{}}
	for name, password := range s.Users {
		v.users[name] = sha256.Sum256([]byte(password))
	}
	v.http = &http.Server{
		Handler: v.routes(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: 90 * time.Second, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.Log.With("server", "eureka").Handler(), slog.LevelWarn),
	}
	return v
}

// half of the descriptors that this process may have, up to 32768.
func half() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 512
	}
	return int(max(1, min(limit.Cur/2, 1<<15)))
}

// Serve serves what l accepts, until Close.
func (s *Server) Serve(l net.Listener) {
	s.s.Registry.Use()
	l = netutil.LimitListener(l, s.s.MaxConnections)
	if s.s.TLS != nil {
		l = tls.NewListener(l, s.s.TLS)
	}
	s.serving.Go(func() { _ = s.http.Serve(l) }) // it ends with ErrServerClosed, on Close
}

// Handler answers requests without a socket of its own.
func (s *Server) Handler() http.Handler { return s.http.Handler }

// Close ends serving; requests have until ctx is done. Safe without Serve.
func (s *Server) Close(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	s.serving.Wait()
	return err
}

// Requests counts what was asked, and what became of it.
func (s *Server) Requests() map[Count]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.counts)
}

// The results of requests.
const (
	ok           = "ok"
	notFound     = "not_found"
	unauthorized = "unauthorized"
	malformed    = "malformed"
	tooLarge     = "too_large"
	busy         = "busy"
	full         = "full"
	unavailable  = "unavailable"
	forbidden    = "forbidden"
)

// results are the statuses they are answered with.
var results = map[string]int{
	notFound: http.StatusNotFound, unauthorized: http.StatusUnauthorized, malformed: http.StatusBadRequest,
	tooLarge: http.StatusRequestEntityTooLarge, busy: http.StatusServiceUnavailable, full: http.StatusInsufficientStorage,
	unavailable: http.StatusServiceUnavailable, forbidden: http.StatusForbidden,
}

// routes are Eureka's, with and without its version.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for pattern, f := range map[string]struct {
		operation string
		serve     func(http.ResponseWriter, *http.Request) error
	}{
		"GET apps":                       {"query", s.all},
		"GET apps/{$}":                   {"query", s.all},
		"GET apps/delta":                 {"query", s.delta},
		"GET apps/{app}":                 {"query", s.app},
		"POST apps/{app}":                {"register", s.register},
		"GET apps/{app}/{id}":            {"query", s.instance},
		"PUT apps/{app}/{id}":            {"renew", s.renew},
		"DELETE apps/{app}/{id}":         {"cancel", s.cancel},
		"PUT apps/{app}/{id}/status":     {"status", s.override},
		"DELETE apps/{app}/{id}/status":  {"status", s.clear},
		"PUT apps/{app}/{id}/metadata":   {"metadata", s.metadata},
		"GET instances/{id}":             {"query", s.byID},
		"GET vips/{vip}":                 {"query", s.vip},
		"GET svips/{vip}":                {"query", s.secureVIP},
		"POST peerreplication/batch/{$}": {"other", s.peer},
	} {
		method, path, _ := strings.Cut(pattern, " ")
		for _, base := range []string{"/eureka/", "/eureka/v2/"} {
			mux.HandleFunc(method+" "+base+path, s.guarded(f.operation, f.serve))
		}
	}
	mux.HandleFunc("/", s.guarded("other", func(http.ResponseWriter, *http.Request) error { return registry.ErrNotFound }))
	return mux
}

// guarded serves who may ask, in turn, and counts the result.
func (s *Server) guarded(operation string, serve func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := s.admit(r)
		if err == nil {
			defer func() { <-s.turn }()
			ctx, cancel := context.WithTimeout(r.Context(), asking)
			defer cancel()
			err = serve(w, r.WithContext(ctx))
		}
		result := s.result(err)
		s.mu.Lock()
		s.counts[Count{operation, result}]++
		s.mu.Unlock()
		if err != nil {
			s.refuse(w, r, operation, result, err)
		}
	}
}

var (
	errUnauthorized = errors.New("the user or the password is wrong")
	errBusy         = errors.New("too many requests at once")
	errTooLarge     = errors.New("the body is too large")
	errForbidden    = errors.New("web pages may not change the registry")
)

// admit lets a request in, with a turn that has to be given back.
func (s *Server) admit(r *http.Request) error {
	if !s.known(r) {
		return errUnauthorized
	}
	// Browsers send the password they know, and reach where others do not, for
	// whatever page asks them to; they say so with all that is no GET.
	if r.Method != http.MethodGet && r.Header.Get("Origin") != "" {
		return errForbidden
	}
	select {
	case s.turn <- struct{}{}:
		return nil
	default:
	}
	t := time.NewTimer(queue)
	defer t.Stop()
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-t.C:
		return errBusy
	case <-r.Context().Done():
		return errBusy
	}
}

// known asks for HTTP Basic (RFC 7617), which is what Spring sends for
// http://USER:PASSWORD@HOST.
func (s *Server) known(r *http.Request) bool {
	if s.s.Open {
		return true
	}
	name, password, given := r.BasicAuth()
	want, there := s.users[name]
	sum := sha256.Sum256([]byte(password))
	return subtle.ConstantTimeCompare(sum[:], want[:]) == 1 && there && given
}

// result names what became of a request.
func (s *Server) result(err error) string {
	var bad *wrongError
	var invalid *registry.InvalidError
	switch {
	case err == nil:
		return ok
	case errors.Is(err, registry.ErrNotFound):
		return notFound
	case errors.Is(err, errUnauthorized):
		return unauthorized
	case errors.Is(err, errForbidden):
		return forbidden
	case errors.As(err, &bad), errors.As(err, &invalid), errors.Is(err, registry.ErrExists):
		return malformed
	case errors.Is(err, errTooLarge):
		return tooLarge
	case errors.Is(err, errBusy), errors.Is(err, registry.ErrBusy):
		return busy
	case errors.Is(err, registry.ErrFull):
		return full
	}
	return unavailable
}

func (s *Server) refuse(w http.ResponseWriter, r *http.Request, operation, result string, err error) {
	if operation != "renew" || result != notFound { // who gets that registers again
		s.s.Log.Warn("a client of Eureka was refused", "operation", operation, "result", result, "client", r.RemoteAddr, "path", r.URL.Path, "error", err)
	}
	switch result {
	case unauthorized:
		w.Header().Set("Connection", "close") // who is nobody is not to hold one
		w.Header().Set("WWW-Authenticate", `Basic realm="gatehouse registry", charset="UTF-8"`)
	case busy, unavailable:
		w.Header().Set("Retry-After", "5")
		if result == unavailable {
			err = errors.New("the registry cannot be asked now") // the cause is in the log
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(results[result])
	_, _ = fmt.Fprintln(w, err) // the client has gone: nobody is left to tell
}

// body reads what a client sends, decompressed, within bounds.
func (s *Server) body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	var in io.Reader = http.MaxBytesReader(w, r.Body, int64(s.s.MaxBody))
	switch encoding := strings.ToLower(r.Header.Get("Content-Encoding")); encoding {
	case "", "identity":
	case "gzip":
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, readError(err)
		}
		in = z
	default:
		return nil, wrong("Content-Encoding must be gzip, got %.40q", encoding)
	}
	b, err := io.ReadAll(io.LimitReader(in, int64(s.s.MaxBody)+1))
	if err != nil {
		return nil, readError(err)
	}
	if len(b) > s.s.MaxBody {
		return nil, errTooLarge
	}
	return b, nil
}

func readError(err error) error {
	if large := new(http.MaxBytesError); errors.As(err, &large) {
		return errTooLarge
	}
	return wrong("the body could not be read: %v", err)
}

// wantsJSON is as in Eureka's server: whoever does not ask for JSON gets XML.
func wantsJSON(r *http.Request) bool { return strings.Contains(r.Header.Get("Accept"), "json") }

func gzipped(r *http.Request) bool { return strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") }

// reply answers with a body that is compressed or not.
func reply(w http.ResponseWriter, asJSON, compressed bool, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/xml")
	if asJSON {
		h.Set("Content-Type", "application/json")
	}
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept, Accept-Encoding")
	if compressed {
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("Content-Length", fmt.Sprint(len(body)))
	_, _ = w.Write(body) // the client has gone: nobody is left to tell
}
