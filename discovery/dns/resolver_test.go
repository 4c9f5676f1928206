package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// nameServer answers on loopback, by UDP and TCP, until the test ends.
func nameServer(t *testing.T, handle dns.HandlerFunc) string {
	t.Helper()
	var udp net.PacketConn
	var tcp net.Listener
	for try := 0; tcp == nil; try++ { // a port that is free for both
		var err error
		if udp, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if tcp, err = net.Listen("tcp", udp.LocalAddr().String()); err != nil {
			udp.Close()
			if try == 20 {
				t.Fatal(err)
			}
		}
	}
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: handle}, {Listener: tcp, Handler: handle}} {
		up := make(chan struct{})
		done := make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		go func() { s.ActivateAndServe(); close(done) }()
		<-up
		t.Cleanup(func() { s.Shutdown(); <-done })
	}
	return udp.LocalAddr().String()
}

func records(t *testing.T, lines ...string) []dns.RR {
	t.Helper()
	var rrs []dns.RR
	for _, l := range lines {
		rr, err := dns.NewRR(l)
		if err != nil {
			t.Fatal(err)
		}
		rrs = append(rrs, rr)
	}
	return rrs
}

func lookup(server, name string) (string, time.Duration, error) {
	found, err := newResolver(server).addresses(context.Background(), name)
	return strings.Trim(fmt.Sprint(found.list), "[]"), found.ttl, err
}

func TestServerResolver(t *testing.T) {
	v4 := records(t, "both.test. 60 A 10.0.0.2", "both.test. 20 A 10.0.0.1", "both.test. 60 A 10.0.0.2")
	v6 := records(t, "six.test. 40 AAAA 2001:db8::1")
	alias := records(t, "alias.test. 5 CNAME both.test.", "both.test. 60 A 10.0.0.1")
	var lost atomic.Int32
	server := nameServer(t, func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		_, byTCP := w.RemoteAddr().(*net.TCPAddr)
		switch kind, name := q.Question[0].Qtype, q.Question[0].Name; {
		case name == "both.test." && kind == dns.TypeA:
			m.Answer = v4
		case name == "six.test." && kind == dns.TypeAAAA, name == "both.test.":
			m.Answer = v6
		case name == "alias.test.":
			m.Answer = alias
		case name == "big.test." && byTCP:
			m.Answer = v4
		case name == "big.test.":
			m.Truncated = true
		case name == "garbage.test.":
			w.Write([]byte("not a DNS message"))
			return
		case name == "other.test.": // an answer to something else
			m.Question[0].Name = "evil.test."
			m.Id++
		case name == "refused.test.":
			m.Rcode = dns.RcodeRefused
		case name == "lost.test." && lost.Add(1) == 1:
			return
		case name == "lost.test.":
			m.Answer = v4
		case name == "empty.test.", name == "six.test.":
		default:
			m.Rcode = dns.RcodeNameError
		}
		w.WriteMsg(m)
	})
	f := func(name, want string, wantTTL time.Duration) {
		t.Helper()
		got, ttl, err := lookup(server, name)
		if err != nil || got != want || ttl != wantTTL {
			t.Errorf("%s: got %q, TTL %v, %v; want %q, %v", name, got, ttl, err, want, wantTTL)
		}
	}
	f("both.test", "10.0.0.1 10.0.0.2", 20*time.Second)
	f("both.test.", "10.0.0.1 10.0.0.2", 20*time.Second)
	f("six.test", "2001:db8::1", 40*time.Second)
	f("alias.test", "10.0.0.1", 5*time.Second)
	f("big.test", "10.0.0.1 10.0.0.2", 20*time.Second)
	f("lost.test", "10.0.0.1 10.0.0.2", 20*time.Second)
	f("10.9.8.7", "10.9.8.7", 0)
	f("::ffff:10.9.8.7", "10.9.8.7", 0)
	bad := func(name, want string) {
		t.Helper()
		got, _, err := lookup(server, name)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, want)
		}
	}
	bad("gone.test", "answered NXDOMAIN for gone.test")
	bad("refused.test", "answered REFUSED")
	bad("empty.test", "neither A nor AAAA records for empty.test")
	bad("garbage.test", "asking 127.0.0.1")
}

func TestServerResolverServices(t *testing.T) {
	srv := records(t, "_http._tcp.test. 30 SRV 10 5 80 a.test.", "_http._tcp.test. 60 SRV 20 0 81 B.test.")
	extra := records(t, "a.test. 9 AAAA 2001:db8::1", "a.test. 8 A 10.0.0.1", "b.test. 7 AAAA 2001:db8::2")
	server := nameServer(t, func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		if q.Question[0].Name == "_http._tcp.test." && q.Question[0].Qtype == dns.TypeSRV {
			m.Answer, m.Extra = srv, extra
		}
		w.WriteMsg(m)
	})
	found, err := newResolver(server).services(context.Background(), "_http._tcp.test")
	if err != nil || found.ttl != 30*time.Second || len(found.list) != 2 || found.list[1] != (service{"B.test.", 81, 20, 0}) {
		t.Errorf("got %+v, %v", found, err)
	}
	if a, b := found.known["a.test"], found.known["b.test"]; fmt.Sprint(a.list, b.list) != "[10.0.0.1] [2001:db8::2]" || a.ttl != 8*time.Second {
		t.Errorf("addresses that came along: %v, %v", a, b)
	}
	s := New(Settings{Name: "_http._tcp.test", SRV: true, Server: server})
	if a, err := s.ask(context.Background()); err != nil || a.ttl != 7*time.Second || len(a.endpoints) != 2 || a.endpoints[1].Address != "[2001:db8::2]:81" || a.endpoints[1].Priority != 1 {
		t.Errorf("got %+v, %v", a, err)
	}
	if _, err := newResolver(server).services(context.Background(), "none.test"); !isAbsent(err) || !strings.Contains(err.Error(), "no SRV records for none.test") {
		t.Errorf("got %v", err)
	}
}

// A server that never answers does not hold a lookup beyond its context: Retire
// waits for it.
func TestServerResolverIsCancelled(t *testing.T) {
	once := func() (asks int32, err error) {
		ctx, cancel := context.WithCancel(context.Background())
		var asked atomic.Int32
		server := nameServer(t, func(dns.ResponseWriter, *dns.Msg) {
			asked.Add(1)
			cancel()
		})
		_, err = newResolver(server).addresses(ctx, "silent.test")
		if err == nil {
			t.Error("a server that never answers has answered")
		}
		return asked.Load(), err
	}
	var asks int32
	var err error
	for range 5 { // on a busy machine its own timeout, of 2 s, may be over before it is told
		if asks, err = once(); asks == 1 && !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
	t.Errorf("it waits for its own timeout: asked %d times, %v", asks, err)
}

func TestSystemResolver(t *testing.T) {
	f := func(name, want string) {
		t.Helper()
		got, _, err := lookup("", name)
		if err != nil || got != want {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	f("localhost", "127.0.0.1")
	f("127.0.0.9", "127.0.0.9")
	f("::1", "::1")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := newResolver("").addresses(ctx, "name.invalid"); err == nil {
		t.Error("an address of a name that cannot exist")
	}
}
