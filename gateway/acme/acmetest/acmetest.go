// Package acmetest runs a certificate authority, Let's Encrypt's own Pebble,
// inside a test, together with the piece of the world that it needs: names that
// all lead to this machine, and the ports 80 and 443 by which it sees a node.
package acmetest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
)

// Leak is what Pebble never ends; goleak is to ignore it.
const Leak = "github.com/letsencrypt/pebble/v2/va.VAImpl.processTasks"

// Settings of an authority.
type Settings struct {
	// Seconds that certificates live; 0: 90 days.
	Seconds uint64
	// RejectNonces is how many percent of good nonces are refused.
	RejectNonces int
	// Binding is a key in base64url by its id; new accounts need one then.
	Binding map[string]string
	// Blocked are names that it issues nothing for.
	Blocked []string
}

// Authority is a running authority.
type Authority struct {
	// Directory is its URL.
	Directory string
	// PEM is whom to trust for Directory.
	PEM []byte

	ca       *ca.CAImpl
	server   *httptest.Server
	web, tls *entrance
	filter   atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]

	mu       sync.Mutex // guards requests
	requests map[string]int
}

// environment is set for one authority at a time.
var environment sync.Mutex

// New starts an authority; it ends with the test.
func New(t testing.TB, s Settings) *Authority {
	t.Helper()
	a := &Authority{web: newEntrance(t), tls: newEntrance(t), requests: map[string]int{}}
	quiet := log.New(io.Discard, "", 0)
	environment.Lock()
	defer environment.Unlock()
	for name, value := range map[string]string{
		"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": strconv.Itoa(s.RejectNonces), "PEBBLE_AUTHZREUSE": "0",
	} {
		must(t, os.Setenv(name, value)) // Pebble has no other way to be told; it reads this now
	}
	store := db.NewMemoryStore()
	for id, key := range s.Binding {
		must(t, store.AddExternalAccountKeyByID(id, key))
	}
	for _, name := range s.Blocked {
		must(t, store.AddBlockedDomain(name))
	}
	a.ca = ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {ValidityPeriod: s.Seconds}})
	validator := va.New(quiet, a.web.port(), a.tls.port(), false, resolver(t), store)
	patient(validator)
	front := wfe.New(quiet, store, validator, a.ca, []string{"ca.test"}, false, len(s.Binding) > 0, 1, 1)
	handler := front.Handler()
	a.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.requests[what(r.URL.Path)]++
		a.mu.Unlock()
		if f := a.filter.Load(); f != nil && (*f)(w, r) {
			return
		}
		handler.ServeHTTP(w, r)
	}))
	a.server.Config.ErrorLog = quiet
	a.server.StartTLS()
	t.Cleanup(a.server.Close)
	a.Directory = a.server.URL + wfe.DirectoryPath
	a.PEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.server.Certificate().Raw})
	return a
}

// patient has validations wait for the resolver for as long as for a node, not
// for two seconds: a machine that stands still for a moment has not failed.
// Pebble has no other way to be told this either.
func patient(v *va.VAImpl) {
	client := (*dns.Client)(reflect.ValueOf(v).Elem().FieldByName("dnsClient").UnsafePointer())
	client.Timeout = time.Minute
}

// what is the first part of a path: "order-plz", "sign-me-up".
func what(path string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return first
}

// Orders and Accounts are how many it was asked for, granted or not.
func (a *Authority) Orders() int { return a.count("order-plz") }

// Requests counts all of them.
func (a *Authority) Requests() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, c := range a.requests {
		n += c
	}
	return n
}

func (a *Authority) count(what string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.requests[what]
}

// Filter has f see every request first; true: it has answered. nil: none.
func (a *Authority) Filter(f func(w http.ResponseWriter, r *http.Request) bool) {
	if f == nil {
		a.filter.Store(nil)
		return
	}
	a.filter.Store(&f)
}

// Down is a Filter of an authority that cannot be reached.
func Down(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }

// Fail is a Filter that answers every request like this.
func Fail(status int, problem, detail, retryAfter string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", "application/problem+json")
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"type":"urn:ietf:params:acme:error:`+problem+`","detail":"`+detail+`"}`)
		return true
	}
}

// Roots are what its certificates are checked against.
func (a *Authority) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.ca.GetRootCert(0).Cert)
	return pool
}

// Reach has the authority find a node: web is the address that stands for port
// 80, secure that for port 443. Empty: nobody answers there.
func (a *Authority) Reach(web, secure string) {
	a.web.to.Store(&web)
	a.tls.to.Store(&secure)
}

// Visit makes a handshake on the way of the authority's own, over port 443.
func (a *Authority) Visit(c *tls.Config) (tls.ConnectionState, error) {
	conn, err := tls.Dial("tcp", a.tls.l.Addr().String(), c)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close() //nolint:errcheck // nothing was written
	return conn.ConnectionState(), nil
}

// entrance is a port that passes connections on.
type entrance struct {
	l  net.Listener
	to atomic.Pointer[string]
	wg sync.WaitGroup
}

func newEntrance(t testing.TB) *entrance {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	e := &entrance{l: l}
	e.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			e.wg.Go(func() { e.pass(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		e.wg.Wait()
	})
	return e
}

func (e *entrance) port() int { return e.l.Addr().(*net.TCPAddr).Port }

func (e *entrance) pass(c net.Conn) {
	defer c.Close() //nolint:errcheck // the other end tells
	to := e.to.Load()
	if to == nil || *to == "" {
		return
	}
	d, err := net.Dial("tcp", *to)
	if err != nil {
		return
	}
	defer d.Close() //nolint:errcheck // see above
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(d, c)
		_ = d.(*net.TCPConn).CloseWrite()
	})
	_, _ = io.Copy(c, d)
	_ = c.(*net.TCPConn).CloseWrite()
	_ = c.SetReadDeadline(time.Unix(1, 0)) // ends the other direction
	wg.Wait()
}

// resolver answers that every name is this machine's, and returns its address.
func resolver(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := &dns.Server{Listener: l, ReadTimeout: time.Minute, WriteTimeout: time.Minute, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg)
		r.SetReply(q)
		for _, x := range q.Question {
			if x.Qtype == dns.TypeA {
				r.Answer = append(r.Answer, &dns.A{
					Hdr: dns.RR_Header{Name: x.Name, Rrtype: dns.TypeA, Class: dns.ClassINET},
					A:   net.IPv4(127, 0, 0, 1),
				})
			}
		}
		_ = w.WriteMsg(r)
	})}
	ready := make(chan struct{})
	s.NotifyStartedFunc = func() { close(ready) }
	done := make(chan error, 1)
	go func() { done <- s.ActivateAndServe() }()
	<-ready
	t.Cleanup(func() {
		if err := errors.Join(s.ShutdownContext(context.Background()), <-done); err != nil {
			t.Errorf("the resolver: %v", err)
		}
	})
	return l.Addr().String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
