package listener

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/clientaddr"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/socket/sockettest"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// keeper keeps the connections it is given.
type keeper struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (k *keeper) ServeConn(nc net.Conn) {
	k.mu.Lock()
	k.conns = append(k.conns, nc)
	k.mu.Unlock()
}

func (k *keeper) take(i int) net.Conn {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.conns[i]
}

func (k *keeper) len() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.conns)
}

func (k *keeper) close() {
	for i := range k.len() {
		k.take(i).Close()
	}
}

func serve(t *testing.T, s Settings) (*Listener, *keeper) {
	t.Helper()
	s.Address = sockettest.Reserve(t) // nobody else listens there once it is closed
	l, err := Listen(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	k := &keeper{}
	l.Serve(k)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		k.close()
		if n := l.Stats().Open; n != 0 || len(l.clients) != 0 {
			t.Errorf("%d connections counted as open, clients %v", n, l.clients)
		}
	})
	return l, k
}

func dial(t *testing.T, l *Listener) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(30 * time.Second))
	return nc
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// refused expects the connection to be closed without a word.
func refused(t *testing.T, nc net.Conn) {
	t.Helper()
	if n, err := nc.Read(make([]byte, 1)); n != 0 || err == nil || os.IsTimeout(err) {
		t.Errorf("read %d bytes, %v", n, err)
	}
}

func TestHandsConnectionsOver(t *testing.T) {
	l, k := serve(t, Settings{})
	nc := dial(t, l)
	eventually(t, "handed over", func() bool { return k.len() == 1 })
	got := k.take(0)
	if _, err := io.WriteString(got, "hello"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(nc, b); err != nil || string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	s, ok := got.(interface{ Socket() *net.TCPConn })
	if !ok || s.Socket().RemoteAddr().String() != nc.LocalAddr().String() {
		t.Errorf("%T", got)
	}
	raw, err := s.Socket().SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	option := func(level, name int) (v int) {
		if err := raw.Control(func(fd uintptr) { v, err = syscall.GetsockoptInt(int(fd), level, name) }); err != nil {
			t.Fatal(err)
		}
		return v
	}
	if option(syscall.IPPROTO_TCP, syscall.TCP_NODELAY) == 0 || option(syscall.SOL_SOCKET, syscall.SO_KEEPALIVE) == 0 {
		t.Error("no TCP_NODELAY or no keep-alive")
	}
	if l.Stats() != (Stats{Open: 1, Accepted: 1}) {
		t.Errorf("%+v", l.Stats())
	}
	got.Close()
	got.Close()
	if l.Stats().Open != 0 {
		t.Errorf("closed twice: %+v", l.Stats())
	}
}

func TestLimits(t *testing.T) {
	var told atomic.Int32
	limited := func(total, each int) Settings {
		return Settings{MaxConnections: total, MaxPerClient: each, Refused: func(r *reason.Reason, peer netip.AddrPort) {
			if r == reason.TooManyConnections && peer.Addr() == netip.MustParseAddr("127.0.0.1") {
				told.Add(1)
			}
		}}
	}
	for name, s := range map[string]Settings{"in all": limited(3, 0), "per client": limited(0, 3), "both": limited(3, 100)} {
		t.Run(name, func(t *testing.T) {
			told.Store(0)
			l, k := serve(t, s)
			for range 3 {
				dial(t, l)
			}
			eventually(t, "three", func() bool { return k.len() == 3 })
			// The reset may come before or after connect returns.
			if nc, err := net.Dial("tcp", l.Addr().String()); err == nil {
				refused(t, nc)
				nc.Close()
			} else if !errors.Is(err, syscall.ECONNRESET) {
				t.Error(err)
			}
			eventually(t, "told of it", func() bool { return told.Load() > 0 })
			if st := l.Stats(); st.Open != 3 || st.Refused != 1 || told.Load() != 1 {
				t.Errorf("%+v, told %d times", st, told.Load())
			}
			k.take(0).Close()
			dial(t, l)
			eventually(t, "a place again", func() bool { return k.len() == 4 })
			l.Update(Settings{})
			dial(t, l)
			eventually(t, "no limit any more", func() bool { return k.len() == 5 })
		})
	}
}

func TestClientOf(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "2001:db8:1:2::": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64",
	} {
		if got := clientOf(clientaddr.AddrPort(net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(in), 1))).Addr()).String(); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

func TestFilter(t *testing.T) {
	bad := errors.New("bad header")
	l, k := serve(t, Settings{Filter: func(nc net.Conn) (net.Conn, error) {
		b := make([]byte, 4)
		if _, err := io.ReadFull(nc, b); err != nil {
			return nil, err
		}
		if string(b) != "good" {
			return nil, bad
		}
		return nc, nil
	}})
	if _, err := io.WriteString(dial(t, l), "good"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "handed over", func() bool { return k.len() == 1 })
	nc := dial(t, l)
	if _, err := io.WriteString(nc, "evil"); err != nil {
		t.Fatal(err)
	}
	refused(t, nc)
	dial(t, l) // stays in the filter until Close interrupts it
	eventually(t, "all are counted", func() bool { return l.Stats() == Stats{Open: 2, Accepted: 3, FilterFail: 1} })
}

// TestAnnouncedClients: connections of a proxy count as its clients'.
func TestAnnouncedClients(t *testing.T) {
	var who atomic.Pointer[netip.AddrPort]
	refusals := make(chan bool, 10)
	l, k := serve(t, Settings{
		MaxPerClient: 2,
		Announces:    func(netip.Addr) bool { return true },
		Filter: func(nc net.Conn) (net.Conn, error) {
			if !nc.(Announcer).Announce(*who.Load()) {
				refusals <- true
				return nil, errors.New("too many")
			}
			return nc, nil
		},
	})
	n := 0
	connect := func(client string) net.Conn {
		t.Helper()
		var a netip.AddrPort
		if client != "" {
			a = netip.MustParseAddrPort(client)
		}
		who.Store(&a)
		nc := dial(t, l)
		n++
		eventually(t, "handed over", func() bool { return k.len() == n })
		return nc
	}
	for _, client := range []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.2:1", "[2001:db8::1]:1", "[2001:db8::2]:2"} {
		connect(client)
		if got := k.take(n - 1).RemoteAddr().String(); got != client {
			t.Errorf("the remote address is %s", got)
		}
		if _, ok := k.take(n - 1).(interface{ Socket() *net.TCPConn }); !ok {
			t.Error("the socket cannot be used any more")
		}
	}
	nc := connect("") // the proxy itself
	if got := k.take(n - 1).RemoteAddr().String(); got != nc.LocalAddr().String() {
		t.Errorf("the remote address is %s", got)
	}
	for _, client := range []string{"192.0.2.1:3", "[2001:db8::3]:1"} {
		a := netip.MustParseAddrPort(client)
		who.Store(&a)
		refused(t, dial(t, l))
		<-refusals
	}
	k.take(0).Close()
	connect("192.0.2.1:4")
	eventually(t, "all are counted", func() bool { s := l.Stats(); return s.FilterFail == 2 && s.Open == 6 })
}

func TestListenNamesTheAddress(t *testing.T) {
	l, _ := serve(t, Settings{})
	_, err := Listen(context.Background(), Settings{Address: l.Addr().String()})
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("%v", err)
	}
}

func TestCloseStopsAccepting(t *testing.T) {
	l, k := serve(t, Settings{})
	nc := dial(t, l)
	eventually(t, "handed over", func() bool { return k.len() == 1 })
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("still accepts")
	}
	if _, err := io.WriteString(k.take(0), "x"); err != nil {
		t.Errorf("what was handed over ended too: %v", err)
	}
	if _, err := nc.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

// failing is a net.Listener that is out of descriptors for a while.
type failing struct {
	err    error
	times  int
	calls  []time.Time
	closed chan struct{}
}

func (f *failing) Accept() (net.Conn, error) {
	f.calls = append(f.calls, time.Now())
	if len(f.calls) <= f.times {
		return nil, &net.OpError{Op: "accept", Err: f.err}
	}
	<-f.closed
	return nil, net.ErrClosed
}

func (f *failing) Close() error   { close(f.closed); return nil }
func (f *failing) Addr() net.Addr { return &net.TCPAddr{} }

func TestOutOfDescriptorsDoesNotSpin(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		synctest.Test(t, func(t *testing.T) {
			f := &failing{err: errno, times: 20, closed: make(chan struct{})}
			told := 0
			l := newListener(f, Settings{AcceptFailed: func(err error) {
				if errors.Is(err, errno) {
					told++
				}
			}})
			from := time.Now()
			l.Serve(&keeper{})
			time.Sleep(time.Minute)
			synctest.Wait()
			if len(f.calls) != 21 {
				t.Fatalf("%v: %d calls in a minute", errno, len(f.calls))
			}
			if last := f.calls[20].Sub(from); last < 10*time.Second || last > 20*time.Second {
				t.Errorf("%v: 20 failures took %v", errno, last)
			}
			if err := l.Close(); err != nil || l.Stats().AcceptErrors != 20 || told != 20 {
				t.Errorf("%v, %+v, told %d times", err, l.Stats(), told)
			}
		})
	}
}

func TestAbortedConnectionsAreNoReasonToPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &failing{err: syscall.ECONNABORTED, times: 100, closed: make(chan struct{})}
		l := newListener(f, Settings{})
		from := time.Now()
		l.Serve(&keeper{})
		synctest.Wait()
		if len(f.calls) != 101 || time.Since(from) != 0 {
			t.Errorf("%d calls, %v", len(f.calls), time.Since(from))
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

// With real descriptors: those that are open go on, and new ones are served
// once there is room again.
func TestSurvivesRealExhaustion(t *testing.T) {
	l, k := serve(t, Settings{})
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	first := dial(t, l)
	eventually(t, "handed over", func() bool { return k.len() == 1 })
	second := dial(t, l) // its two ends need the room that is about to go
	eventually(t, "handed over", func() bool { return k.len() == 2 })
	probe, err := syscall.Dup(0)
	if err != nil {
		t.Fatal(err)
	}
	// Room for exactly one more descriptor: the client's end of the next connection.
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(probe) + 1, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	syscall.Close(probe)
	third, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	eventually(t, "accept errors", func() bool { return l.Stats().AcceptErrors >= 2 })
	if _, err := io.WriteString(k.take(0), "x"); err != nil {
		t.Error(err)
	}
	if _, err := first.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	second.Close()
	k.take(1).Close()
	eventually(t, "the waiting connection is served", func() bool { return k.len() == 3 })
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
}

// TestStopLetsFiltersFinish: what was accepted before is handed over, unless it
// takes too long.
func TestStopLetsFiltersFinish(t *testing.T) {
	l, k := serve(t, Settings{Filter: func(nc net.Conn) (net.Conn, error) {
		_, err := io.ReadFull(nc, make([]byte, 1))
		return nc, err
	}})
	quick, slow := dial(t, l), dial(t, l)
	eventually(t, "both are accepted", func() bool { return l.Stats().Accepted == 2 })
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("it still listens")
	}
	if _, err := io.WriteString(quick, "x"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "handed over", func() bool { return k.len() == 1 })
	ctx, cancel := context.WithCancel(context.Background())
	settled := make(chan error)
	go func() { settled <- l.Settle(ctx) }()
	cancel()
	if err := <-settled; err != nil {
		t.Error(err)
	}
	refused(t, slow)
	if k.len() != 1 || l.Stats().Open != 1 {
		t.Errorf("%d handed over, %+v", k.len(), l.Stats())
	}
}
