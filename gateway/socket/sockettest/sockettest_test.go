package sockettest

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
)

func listen(t *testing.T, address string) {
	t.Helper()
	for range 3 { // as a server that is started again
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		s.Close() // first: its side waits for what may still come
		c.Close()
		l.Close()
	}
}

func TestReserve(t *testing.T) {
	var port int
	t.Run("held", func(t *testing.T) {
		one := Reserve(t, 10000)
		port = int(netip.MustParseAddrPort(one).Port())
		for _, taken := range [][]int{{port}, {port + 10000}, {port - 1, 1}} {
			if hold(t, taken[0], taken[1:]) {
				t.Errorf("%v is given twice", taken)
			}
		}
	})
	if !hold(t, port, []int{10000}) {
		t.Error("it is still held after the test")
	}
}

func TestServersUseWhatIsReserved(t *testing.T) {
	one := Reserve(t, 10000)
	if _, err := net.Dial("tcp", one); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("somebody is there: %v", err)
	}
	listen(t, one)
	listen(t, netip.AddrPortFrom(loopback, netip.MustParseAddrPort(one).Port()+10000).String())
	listen(t, ":"+one[len("127.0.0.1:"):])
	u, err := net.ListenPacket("udp", one)
	if err != nil {
		t.Fatal(err)
	}
	u.Close()
}

func TestManyAreDifferent(t *testing.T) {
	seen := map[string]bool{}
	for range 200 {
		a := Reserve(t)
		if seen[a] {
			t.Fatalf("%s twice", a)
		}
		seen[a] = true
	}
}
