package gateway_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
)

// TestDatagramsArePassedOn: over a reload, beside TCP on the same port.
func TestDatagramsArePassedOn(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 100)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			pc.WriteTo(b[:n], from)
		}
	}()
	defer func() { pc.Close(); <-done }()
	var book lines
	n := newNode(t, logged(t, &book))
	dns := func() *snapshot.Snapshot {
		l := streamListener(t, "dns", snapshot.UDP, pc.LocalAddr().String())
		l.Server.MaxPerClient = 1
		return snap(l)
	}
	n.swap(t, dns())
	addr := n.Addresses()["dns"].String()
	nc, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	ask := func() {
		t.Helper()
		nc.Write([]byte("hello"))
		b := make([]byte, 10)
		if k, err := nc.Read(b); err != nil || string(b[:k]) != "hello" {
			t.Fatalf("%q, %v", b[:k], err)
		}
	}
	ask()
	n.swap(t, dns())
	ask()
	if n.Addresses()["dns"].String() != addr {
		t.Error("the address has moved")
	}
	other, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	other.Write([]byte("x"))
	book.has(t, `"protocol":"UDP"`, `"reason":"too_many_connections"`)
	for metric, want := range map[string]string{
		"gatehouse_listener_connections_open dns": "1", "gatehouse_listener_connections_total dns": "1",
		"gatehouse_listener_connections_refused_total dns": "1", "gatehouse_listener_stream_sent_bytes_total dns": "10",
		"gatehouse_listener_protocol_refusals_total dns too_many_connections": "1",
	} {
		eventually(t, metric+" is "+want, func() bool { return n.metric(t, metric) == want })
	}
	// A busy address changes nothing.
	busy := streamListener(t, "busy", snapshot.UDP, pc.LocalAddr().String())
	busy.Address = addr
	err = n.Swap(t.Context(), snap(busy, streamListener(t, "more", snapshot.TCP)), time.Minute)
	if err == nil || !strings.Contains(err.Error(), "listeners.busy.address") || n.Addresses()["more"] != nil {
		t.Errorf("%v, %v", err, n.Addresses())
	}
	ask()
	// Gone, once its sessions are.
	if err := n.Swap(t.Context(), snap(listener(t, "web")), 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	book.has(t, `"protocol":"UDP"`, `"reason":"draining"`, `"listener":"dns"`)
}
