package udp_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/l4"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/udp"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// answerer is a UDP server that answers each datagram with itself.
func answerer(t testing.TB) (addr string) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		b := make([]byte, 64<<10)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			pc.WriteTo(b[:n], from)
		}
	})
	t.Cleanup(func() { pc.Close(); done.Wait() })
	return pc.LocalAddr().String()
}

// proxy is a server under test.
type proxy struct {
	*udp.Server
	t testing.TB

	mu       sync.Mutex
	records  []l4.Record
	refused  atomic.Int32
	released atomic.Int32
}

func newUpstream(t testing.TB, s upstream.Settings, addrs ...string) *upstream.Upstream {
	t.Helper()
	s.Name = "up"
	for _, a := range addrs {
		s.Endpoints = append(s.Endpoints, upstream.EndpointSettings{Address: a})
	}
	u, err := upstream.New(s, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close(context.Background()) })
	return u
}

func start(t testing.TB, up *upstream.Upstream, edit func(*udp.Settings, *udp.Job)) *proxy {
	t.Helper()
	p := &proxy{t: t}
	job := udp.Job{Idle: time.Minute, Listener: "dns", Release: func() { p.released.Add(1) }}
	s := udp.Settings{
		Address: "127.0.0.1:0",
		Ended: func(r *l4.Record) {
			p.mu.Lock()
			p.records = append(p.records, *r)
			p.mu.Unlock()
		},
		Refused: func(*reason.Reason, netip.AddrPort) { p.refused.Add(1) },
	}
	if up != nil {
		r, err := l4.NewRoute([]l4.Backend{{Upstream: up, Weight: 1}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		job.Route = r
	}
	if edit != nil {
		edit(&s, &job)
	}
	s.Acquire = func() (udp.Job, bool) { return job, true }
	srv, err := udp.Listen(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	p.Server = srv
	p.Serve()
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if p.Stats().Open != 0 || uint64(p.released.Load()) != p.Stats().Accepted {
			t.Errorf("%+v, %d released", p.Stats(), p.released.Load())
		}
	})
	return p
}

func (p *proxy) dial() net.Conn {
	p.t.Helper()
	_, port, _ := net.SplitHostPort(p.Addr().String())
	nc, err := net.Dial("udp", "127.0.0.1:"+port)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	return nc
}

func ask(t testing.TB, nc net.Conn, text string) string {
	t.Helper()
	if _, err := nc.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64<<10)
	n, err := nc.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func (p *proxy) record(n int) l4.Record {
	p.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		p.mu.Lock()
		if len(p.records) > n {
			defer p.mu.Unlock()
			return p.records[n]
		}
		p.mu.Unlock()
	}
	p.t.Fatalf("no record of session %d", n)
	return l4.Record{}
}

func TestSessions(t *testing.T) {
	addr := answerer(t)
	up := newUpstream(t, upstream.Settings{}, addr)
	p := start(t, up, nil)
	a, b := p.dial(), p.dial()
	for i := range 10 {
		for _, nc := range []net.Conn{a, b} {
			text := fmt.Sprint(nc.LocalAddr(), i)
			if got := ask(t, nc, text); got != text {
				t.Errorf("%q", got)
			}
		}
	}
	// What was sent is counted a moment after it has come.
	eventually(t, "all are counted", func() bool { s := p.Stats(); return s.Received == s.Sent })
	if s := p.Stats(); s.Open != 2 || s.Accepted != 2 {
		t.Errorf("%+v", s)
	}
}

// A session that ends before the answer has come loses it: a machine that is too
// slow for a short idle time gets a longer one.
func TestIdleSessionsEnd(t *testing.T) {
	addr := answerer(t)
	up := newUpstream(t, upstream.Settings{}, addr)
	for idle := 100 * time.Millisecond; !endsIdle(t, up, addr, idle); idle *= 4 {
		if idle > 5*time.Second {
			t.Fatal("answers are lost")
		}
	}
}

// endsIdle is false if an answer was lost.
func endsIdle(t *testing.T, up *upstream.Upstream, addr string, idle time.Duration) bool {
	t.Helper()
	p := start(t, up, func(_ *udp.Settings, j *udp.Job) { j.Idle = idle })
	answered := func(nc net.Conn, text string) bool {
		nc.SetDeadline(time.Now().Add(idle + 5*time.Second))
		nc.Write([]byte(text))
		b := make([]byte, 100)
		n, err := nc.Read(b)
		if err == nil && string(b[:n]) != text {
			t.Errorf("%q", b[:n])
		}
		return err == nil
	}
	a, b := p.dial(), p.dial()
	if !answered(a, "once") || !answered(b, "once") {
		return false
	}
	r := p.record(1)
	if r.Refusal != nil || r.Endpoint != addr || r.Protocol != "UDP" || r.Listener != "dns" || r.Received == 0 || r.Received != r.Sent {
		t.Errorf("%+v", r)
	}
	if b := up.Breaker(); b.Connections() != 0 || b.Requests() != 0 {
		t.Errorf("%d connections, %d requests left", b.Connections(), b.Requests())
	}
	return answered(a, "again")
}

func TestSizes(t *testing.T) {
	addr := answerer(t)
	p := start(t, newUpstream(t, upstream.Settings{}, addr), nil)
	nc := p.dial()
	for _, n := range []int{0, 1, 1472, 9000, 65507} {
		text := strings.Repeat("x", n)
		if got := ask(t, nc, text); got != text {
			t.Errorf("%d bytes came back as %d", n, len(got))
		}
	}
}

func TestRepliesEndASession(t *testing.T) {
	addr := answerer(t)
	p := start(t, newUpstream(t, upstream.Settings{}, addr), func(_ *udp.Settings, j *udp.Job) { j.Replies = 1 })
	nc := p.dial()
	for i := range 100 { // at once: a session that is ending swallows nothing
		if got := ask(t, nc, "one"); got != "one" {
			t.Errorf("%d: %q", i, got)
		}
	}
	if r := p.record(0); r.Refusal != nil || r.Sent == 0 || r.Sent != r.Received {
		t.Errorf("%+v", r)
	}
}

func TestLimits(t *testing.T) {
	addr := answerer(t)
	for name, edit := range map[string]func(*udp.Settings, *udp.Job){
		"in all":     func(s *udp.Settings, _ *udp.Job) { s.MaxSessions = 2 },
		"per client": func(s *udp.Settings, _ *udp.Job) { s.MaxPerClient = 2 },
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, newUpstream(t, upstream.Settings{}, addr), edit)
			udp.SetQuiet(p.Server, time.Hour) // none gives way
			a, b, c := p.dial(), p.dial(), p.dial()
			ask(t, a, "a")
			ask(t, b, "b")
			c.Write([]byte("c"))
			eventually(t, "the third is refused", func() bool { return p.refused.Load() > 0 })
			ask(t, a, "a")
			if s := p.Stats(); s.Open != 2 || s.Refused != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// nobody is an address where nobody listens, nor can while the test lasts: what
// is bound to it hears only one other port.
func nobody(t testing.TB) string {
	t.Helper()
	nc, err := net.Dial("udp", "127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return nc.LocalAddr().String()
}

// TestNobodyListens: the system's word that a port is closed counts against
// the endpoint, and the question goes to another one.
func TestNobodyListens(t *testing.T) {
	addr := answerer(t)
	gone := nobody(t)
	up := newUpstream(t, upstream.Settings{Algorithm: upstream.RoundRobin, Outlier: upstream.OutlierSettings{Enabled: true, ConsecutiveErrors: 3}}, addr, gone)
	p := start(t, up, nil)
	for i := range 20 {
		text := fmt.Sprint("question ", i)
		if got := ask(t, p.dial(), text); got != text {
			t.Errorf("%q", got)
		}
	}
	ejected := false
	for _, e := range up.Status().Endpoints {
		ejected = ejected || e.Address == gone && !e.EjectedUntil.IsZero()
	}
	if !ejected {
		t.Errorf("%+v", up.Status().Endpoints)
	}
}

func TestNobodyIsLeft(t *testing.T) {
	p := start(t, newUpstream(t, upstream.Settings{}, nobody(t)), nil)
	p.dial().Write([]byte("x"))
	if r := p.record(0); r.Refusal == nil || r.Refusal.Reason != reason.UpstreamConnect {
		t.Errorf("%+v", r)
	}
	none := start(t, nil, nil)
	none.dial().Write([]byte("x"))
	if r := none.record(0); r.Refusal == nil || r.Refusal.Reason != reason.L4NoRoute {
		t.Errorf("%+v", r)
	}
}

// TestAnswersComeFromTheAddressAsked: also on a listener bound to all, IPv4 by
// itself and in IPv6's clothes.
func TestAnswersComeFromTheAddressAsked(t *testing.T) {
	addr := answerer(t)
	for _, bound := range []string{"0.0.0.0:0", ":0", "[::]:0"} {
		p := start(t, newUpstream(t, upstream.Settings{}, addr), func(s *udp.Settings, _ *udp.Job) { s.Address = bound })
		_, port, _ := net.SplitHostPort(p.Addr().String())
		hosts := []string{"127.0.0.1", "127.0.0.2", "127.9.9.9"}
		if bound != "0.0.0.0:0" {
			hosts = append(hosts, "::1")
		}
		for _, host := range hosts {
			// Connected: what comes from another address never arrives.
			nc, err := net.Dial("udp", net.JoinHostPort(host, port))
			if err != nil {
				t.Fatal(err)
			}
			nc.SetDeadline(time.Now().Add(30 * time.Second))
			if got := ask(t, nc, host); got != host {
				t.Errorf("%q", got)
			}
			nc.Close()
		}
		// One client's socket, two of our addresses: two sessions.
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		pc.SetDeadline(time.Now().Add(30 * time.Second))
		for _, host := range []string{"127.0.0.4", "127.0.0.5", "127.0.0.4"} {
			to, _ := net.ResolveUDPAddr("udp", net.JoinHostPort(host, port))
			pc.WriteTo([]byte("x"), to)
			if _, from, err := pc.ReadFrom(make([]byte, 10)); err != nil || from.String() != to.String() {
				t.Errorf("%s: asked %v, answered by %v, %v", bound, to, from, err)
			}
		}
		pc.Close()
	}
}

func TestManyClientsAtOnce(t *testing.T) {
	addr := answerer(t)
	p := start(t, newUpstream(t, upstream.Settings{}, addr), nil)
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			nc := p.dial()
			for j := range 20 {
				text := fmt.Sprint("client ", i, " question ", j)
				if got := ask(t, nc, text); got != text {
					t.Errorf("%q", got)
				}
			}
		})
	}
	all.Wait()
	if s := p.Stats(); s.Open != 100 || s.Accepted != 100 {
		t.Errorf("%+v", s)
	}
}

func TestShutdownServesTheOldAndNotTheNew(t *testing.T) {
	addr := answerer(t)
	p := start(t, newUpstream(t, upstream.Settings{}, addr), nil)
	nc := p.dial()
	ask(t, nc, "x")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if p.Shutdown(ctx) == nil {
		t.Error("a session was forgotten")
	}
	ask(t, nc, "y")
	fresh := p.dial()
	fresh.Write([]byte("x"))
	fresh.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := fresh.Read(make([]byte, 1)); err == nil {
		t.Error("a new session was begun")
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if r := p.record(0); r.Refusal == nil || r.Refusal.Reason != reason.Draining {
		t.Errorf("%+v", r)
	}
}

func TestListenNamesTheAddress(t *testing.T) {
	p := start(t, nil, nil)
	if _, err := udp.Listen(t.Context(), udp.Settings{Address: p.Addr().String()}); err == nil || !strings.Contains(err.Error(), p.Addr().String()) {
		t.Errorf("%v", err)
	}
}

func TestASessionDoesNotAllocatePerDatagram(t *testing.T) {
	if raceEnabled {
		return
	}
	addr := answerer(t)
	p := start(t, newUpstream(t, upstream.Settings{}, addr), nil)
	nc := p.dial()
	q, b := []byte("question"), make([]byte, 100)
	turn := func() {
		nc.Write(q)
		nc.Read(b)
	}
	turn()
	// The test's own server allocates the address that it answers to.
	if n := testing.AllocsPerRun(300, turn); n > 4 {
		t.Errorf("%v allocations", n)
	}
	if !bytes.HasPrefix(b, q) {
		t.Errorf("%q", b)
	}
}

func BenchmarkQuestion(b *testing.B) {
	addr := answerer(b)
	p := start(b, newUpstream(b, upstream.Settings{}, addr), nil)
	nc := p.dial()
	q, a := []byte("question"), make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		nc.Write(q)
		nc.Read(a)
	}
}
