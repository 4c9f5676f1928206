package systemd

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// manager plays systemd: what it was told comes out of the function. It reads on
// when nobody asks it, since who tells it waits where it does not.
func manager(t *testing.T, path string) (hear func() string) {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	told, ended := make(chan string, 10), make(chan bool)
	go func() {
		defer close(ended)
		b := make([]byte, 1000)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			select {
			case told <- string(b[:n]):
			default: // there is enough of it
			}
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-ended
	})
	return func() string {
		t.Helper()
		select {
		case text := <-told:
			return text
		case <-time.After(time.Minute):
			t.Fatal("nothing was said")
			return ""
		}
	}
}

func TestNotifications(t *testing.T) {
	for _, path := range []string{filepath.Join(t.TempDir(), "notify"), "@gatehouse-test-" + strconv.Itoa(os.Getpid())} {
		hear := manager(t, path)
		t.Setenv("NOTIFY_SOCKET", path)
		n := New()
		for want, tell := range map[string]func() error{
			"READY=1": n.Ready, "STOPPING=1": n.Stopping, "MAINPID=42": func() error { return n.Main(42) },
			"RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]*": n.Reloading,
		} {
			if err := tell(); err != nil {
				t.Fatal(err)
			}
			if got := hear(); !regexp.MustCompile("^" + want + "$").MatchString(got) {
				t.Errorf("%q, want %q", got, want)
			}
		}
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	if err := New().Ready(); err == nil || !strings.HasPrefix(err.Error(), "telling systemd: ") {
		t.Errorf("%v", err)
	}
	t.Setenv("NOTIFY_SOCKET", "")
	if n := New(); n != nil || n.Ready() != nil {
		t.Error("there is no systemd")
	}
}

// A node ends also where systemd has stopped to listen.
func TestNobodyReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	n := New()
	n.patience = 10 * time.Millisecond
	for err == nil { // until the socket is full
		err = n.Stopping()
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

func TestWatchdog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	hear := manager(t, path)
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "2000")
	ctx, cancel := context.WithCancel(t.Context())
	looked, ended := make(chan bool, 1000), make(chan bool)
	go func() {
		defer close(ended)
		New().Watch(ctx, func() {
			select {
			case looked <- true:
			default:
			}
		})
	}()
	for range 3 {
		<-looked
		if got := hear(); got != "WATCHDOG=1" {
			t.Errorf("%q", got)
		}
	}
	cancel()
	<-ended
	for _, µs := range []string{"", "0", "-1", "soon"} {
		t.Setenv("WATCHDOG_USEC", µs)
		New().Watch(t.Context(), func() { t.Error("nobody watches") })
	}
	var none *Notifier
	none.Watch(t.Context(), nil)
}

func TestSocketsOfOthersAreNotOurs(t *testing.T) {
	for _, pid := range []string{"", "1", "x"} {
		t.Setenv("LISTEN_PID", pid)
		t.Setenv("LISTEN_FDS", "2")
		t.Setenv("LISTEN_FDNAMES", "a:b")
		if s, err := Sockets(); s != nil || err != nil {
			t.Errorf("LISTEN_PID=%q: %v, %v", pid, s, err)
		}
		for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
			if _, ok := os.LookupEnv(name); ok {
				t.Errorf("%s is still there, for a process that we start", name)
			}
		}
	}
	for _, count := range []string{"", "-1", "x", "99999999"} {
		t.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
		t.Setenv("LISTEN_FDS", count)
		if _, err := Sockets(); err == nil || !strings.Contains(err.Error(), "LISTEN_FDS=") {
			t.Errorf("LISTEN_FDS=%q: %v", count, err)
		}
	}
}

// duplicate is a descriptor of a socket at a number of its own, where collect
// looks for one.
func duplicate(t *testing.T, c syscall.Conn) int {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var fd int
	if e := raw.Control(func(have uintptr) { fd, err = syscall.Dup(int(have)) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	return fd
}

func TestSocketsAreTakenOver(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := collect(duplicate(t, l.(*net.TCPListener)), 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	again, err := s.Listen(t.Context(), "any label", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	unix, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	if _, err := collect(duplicate(t, unix.(*net.UnixListener)), 1, []string{"web"}); err == nil || !strings.Contains(err.Error(), "LISTEN_FDS: web: a listener of unix") {
		t.Errorf("%v", err)
	}
}
