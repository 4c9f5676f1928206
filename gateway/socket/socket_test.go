package socket

import (
	"context"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

var ctx = context.Background()

func listen(t *testing.T, address string) *net.TCPListener {
	t.Helper()
	var none *Inherited
	l, err := none.Listen(ctx, "", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

func listenUDP(t *testing.T, address string) *net.UDPConn {
	t.Helper()
	var none *Inherited
	c, err := none.ListenUDP(ctx, "", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// pass hands sockets on as to another process.
func pass(t *testing.T, sockets ...Socket) *Inherited {
	t.Helper()
	in := &Inherited{}
	for _, s := range sockets {
		f, err := s.File()
		if err != nil {
			t.Fatal(err)
		}
		if err := in.Add(s.Label, f); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { in.Close() })
	return in
}

func TestConnectionsOutliveTheirFirstListener(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	in := pass(t, Socket{"tcp web", "tcp", l})
	waiting, err := net.Dial("tcp", l.Addr().String()) // in the queue: nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	next, err := in.Listen(ctx, "tcp web", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if next.Addr().String() != l.Addr().String() {
		t.Fatalf("another socket: %v", next.Addr())
	}
	l.Close()
	nc, err := next.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := io.WriteString(nc, "x"); err != nil {
		t.Fatal(err)
	}
	_ = waiting.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadFull(waiting, make([]byte, 1)); err != nil {
		t.Errorf("the connection that waited: %v", err)
	}
	if unused := in.Close(); unused != nil {
		t.Errorf("left over: %v", unused)
	}
}

// TestTheFirstOwnerGoesOn: handing a socket on must not make it block, or its
// owner could not be told to stop accepting.
func TestTheFirstOwnerGoesOn(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	u := listenUDP(t, "127.0.0.1:0")
	in := pass(t, Socket{"a", "tcp", l}, Socket{"b", "udp", u})
	for _, c := range []syscall.Conn{l, u} {
		raw, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var flags uintptr
		err = raw.Control(func(fd uintptr) { flags, _, _ = syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_GETFL, 0) })
		if err != nil || flags&syscall.O_NONBLOCK == 0 {
			t.Errorf("%T blocks (%v)", c, err)
		}
	}
	_ = l.SetDeadline(time.Unix(1, 0))
	if _, err := l.Accept(); !os.IsTimeout(err) {
		t.Errorf("accept: %v", err)
	}
	again, err := in.Listen(ctx, "a", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if got, err := again.Accept(); err != nil {
		t.Errorf("a deadline is the other one's too: %v", err)
	} else {
		got.Close()
	}
}

func TestSocketsAreFoundByAddress(t *testing.T) {
	port := func(a net.Addr) string { _, p, _ := net.SplitHostPort(a.String()); return p }
	for _, c := range []struct {
		bound, asked string
		found        bool
	}{
		{"127.0.0.1:0", "127.0.0.1:PORT", true},
		{"127.0.0.1:0", "localhost:PORT", true},
		{"127.0.0.1:0", "127.0.0.2:PORT", false},
		{"127.0.0.1:0", ":PORT", false},
		{"127.0.0.1:0", "127.0.0.1:0", false},
		{"0.0.0.0:0", ":PORT", true},
		{"0.0.0.0:0", "0.0.0.0:PORT", true},
		{"0.0.0.0:0", "127.0.0.1:PORT", false},
		{"127.0.0.1:0", "no address", false},
	} {
		l := listen(t, c.bound)
		u := listenUDP(t, c.bound)
		for _, k := range []struct {
			s    Socket
			addr net.Addr
		}{{Socket{"", "tcp", l}, l.Addr()}, {Socket{"", "udp", u}, u.LocalAddr()}} {
			in := pass(t, k.s)
			address := strings.Replace(c.asked, "PORT", port(k.addr), 1)
			if other := map[string]string{"tcp": "udp", "udp": "tcp"}[k.s.Network]; has(in, other, "", address) {
				t.Errorf("%s taken for %s", k.s.Network, other)
			}
			if got := has(in, k.s.Network, "", address); got != c.found {
				t.Errorf("%s bound to %s, asked for %s: %v", k.s.Network, k.addr, address, got)
			}
		}
	}
	// Every address of both families, where the machine has both.
	if l, err := net.Listen("tcp", ":0"); err == nil {
		t.Cleanup(func() { l.Close() })
		in := pass(t, Socket{"", "tcp", l.(*net.TCPListener)})
		if !has(in, "tcp", "", ":"+port(l.Addr())) {
			t.Errorf("%s is not found as a port of all addresses", l.Addr())
		}
	}
}

// has takes a socket and closes it.
func has(in *Inherited, network, label, address string) bool {
	got, ok := in.take(network, label, address)
	if got.listener != nil {
		got.listener.Close()
	}
	if got.packets != nil {
		got.packets.Close()
	}
	return ok
}

func TestALabelComesBeforeTheAddress(t *testing.T) {
	a, b := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
	in := pass(t, Socket{"a", "tcp", a}, Socket{"b", "tcp", b})
	l, err := in.Listen(ctx, "b", a.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if l.Addr().String() != b.Addr().String() {
		t.Errorf("got %s", l.Addr())
	}
	if left := in.Close(); len(left) != 1 || left[0] != "tcp "+a.Addr().String() {
		t.Errorf("left: %v", left)
	}
	if left := in.Close(); left != nil {
		t.Errorf("closed twice: %v", left)
	}
}

func TestWhatCannotServeIsNamed(t *testing.T) {
	in := &Inherited{}
	file, err := os.Open("socket.go")
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Add("", file); err == nil || !strings.Contains(err.Error(), "socket.go") {
		t.Errorf("a file: %v", err)
	}
	dir := t.TempDir()
	l, err := net.Listen("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	u, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/d", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	for _, s := range []Socket{{"", "tcp", l.(*net.UnixListener)}, {"", "udp", u}} {
		f, err := s.File()
		if err != nil {
			t.Fatal(err)
		}
		if err := in.Add("", f); err == nil || !strings.Contains(err.Error(), "not of ") {
			t.Errorf("a unix socket: %v", err)
		}
	}
	var none *Inherited
	if none.Close() != nil || in.Close() != nil {
		t.Error("there is something left of nothing")
	}
}
