package http1

import (
	"net"
	"testing"
)

// BenchmarkProbe is what looking at an idle connection before using it costs.
func BenchmarkProbe(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	m := NewManager()
	c := newConn(NewPool(Settings{Address: ln.Addr().String(), Manager: m}), nc)
	b.Cleanup(func() { c.close(); m.Close() })
	b.ReportAllocs()
	for b.Loop() {
		if !c.quiet() {
			b.Fatal("not quiet")
		}
	}
}
