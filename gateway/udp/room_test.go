package udp_test

import (
	"net"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/udp"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

// silent takes datagrams and says nothing, but to "hello".
func silent(t testing.TB) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 64<<10)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			if string(b[:n]) == "hello" {
				pc.WriteTo([]byte("welcome"), from)
			}
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	return pc.LocalAddr().String()
}

// TestFloodLeavesRoom: one datagram each from many addresses keeps nobody away,
// neither by the listener's limit nor by the upstream's.
func TestFloodLeavesRoom(t *testing.T) {
	const most = 8
	for what, tc := range map[string]struct {
		upstream upstream.Settings
		listener int
	}{
		"listener":    {upstream.Settings{}, most},
		"connections": {upstream.Settings{Breaker: upstream.BreakerSettings{MaxConnections: most, MaxRequests: 100}}, 0},
		"requests":    {upstream.Settings{Breaker: upstream.BreakerSettings{MaxConnections: 100, MaxRequests: most}}, 0},
	} {
		t.Run(what, func(t *testing.T) {
			up := newUpstream(t, tc.upstream, silent(t))
			p := start(t, up, func(s *udp.Settings, _ *udp.Job) { s.MaxSessions = tc.listener })
			refused := func() int {
				p.mu.Lock()
				defer p.mu.Unlock()
				n := int(p.refused.Load())
				for _, r := range p.records {
					if r.Refusal != nil && r.Refusal.Reason == reason.UpstreamOverflow {
						n++
					}
				}
				return n
			}
			udp.SetQuiet(p.Server, time.Hour)
			old := p.dial()
			for range 2 { // assured: it has written again after a reply
				if got := ask(t, old, "hello"); got != "welcome" {
					t.Fatal(got)
				}
			}
			for range most - 1 {
				p.dial().Write([]byte("flood"))
			}
			eventually(t, "the table is full", func() bool { return p.Stats().Open == most && up.Breaker().Requests() == most })
			late := p.dial()
			late.Write([]byte("hello"))
			eventually(t, "sessions that have just begun do not give way", func() bool { return refused() == 1 })
			udp.SetQuiet(p.Server, time.Nanosecond)
			for i := range most - 1 {
				nc := p.dial()
				for range 2 {
					if got := ask(t, nc, "hello"); got != "welcome" {
						t.Fatalf("client %d: %q", i, got)
					}
				}
			}
			if got := ask(t, old, "hello"); got != "welcome" {
				t.Fatal(got)
			}
			eventually(t, "those that gave way are gone", func() bool { return p.Stats().Open == most })
			eventually(t, "those that gave way are on record", func() bool {
				p.mu.Lock()
				defer p.mu.Unlock()
				n := 0
				for _, r := range p.records {
					if r.Refusal != nil && r.Refusal.Detail == "the session gave way to a newer one" {
						n++
					}
				}
				return n == most-1
			})
			late.Write([]byte("hello"))
			eventually(t, "established sessions do not give way", func() bool { return refused() == 2 })
		})
	}
}

// TestKeptIsBounded: what is kept for a second try has a bound over all
// sessions, and what is over it is passed on all the same.
func TestKeptIsBounded(t *testing.T) {
	p := start(t, newUpstream(t, upstream.Settings{}, silent(t)), nil)
	big := make([]byte, 60<<10)
	for i := range 600 {
		p.dial().Write(big)
		eventually(t, "it has come", func() bool { return p.Stats().Open > i }) // the kernel holds few
		if kept := udp.Kept(p.Server); kept > 32<<20 {
			t.Fatalf("%d bytes are kept for %d sessions", kept, i)
		}
	}
	eventually(t, "much is kept", func() bool { return udp.Kept(p.Server) > 31<<20 })
	if got := ask(t, p.dial(), "hello"); got != "welcome" {
		t.Fatal(got)
	}
	if err := p.Close(); err != nil || udp.Kept(p.Server) != 0 {
		t.Fatalf("%v, %d bytes are kept", err, udp.Kept(p.Server))
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain: %s", what)
		}
	}
}
