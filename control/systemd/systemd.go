// Package systemd is what a service tells systemd and gets from it: readiness,
// reloads and the change of the main process (sd_notify(3)), signs of life for
// the watchdog, and sockets that systemd listens on (sd_listen_fds(3)). Without
// systemd all of it does nothing.
package systemd

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatehouse-proxy/gatehouse/gateway/socket"
)

// Notifier tells systemd how the service is; a nil one tells nobody. Its methods
// are safe for concurrent use. An error says that systemd could not be told.
type Notifier struct {
	path     string
	watchdog time.Duration
	patience time.Duration // with a full socket: a node must stop, told or not
}

// New reads from the environment whether, and where, systemd wants to be told;
// nil: it does not.
func New() *Notifier {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	n := &Notifier{path: path, patience: 5 * time.Second}
	// WATCHDOG_PID may be a predecessor's, whose place we take.
	if µs, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && µs > 0 {
		n.watchdog = time.Duration(µs) * time.Microsecond
	}
	return n
}

// Ready says that the service serves, also again after Reloading.
func (n *Notifier) Ready() error { return n.send("READY=1") }

// Reloading says that the config is read anew; Ready is to follow.
func (n *Notifier) Reloading() error {
	return n.send(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", monotonic().Microseconds()))
}

// Stopping says that the service drains and ends.
func (n *Notifier) Stopping() error { return n.send("STOPPING=1") }

// Main says that from now on another process is the service: its main one,
// whose end is the service's.
func (n *Notifier) Main(pid int) error { return n.send(fmt.Sprintf("MAINPID=%d", pid)) }

func (n *Notifier) send(state string) error {
	if n == nil {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("telling systemd: %w", err)
	}
	defer c.Close()
	err = c.SetWriteDeadline(time.Now().Add(n.patience))
	if err == nil {
		_, err = c.Write([]byte(state))
	}
	if err != nil {
		return fmt.Errorf("telling systemd: %w", err)
	}
	return nil
}

// Watch shows systemd, twice in the time it waits for that, that the service
// lives, as long as alive returns; until ctx is done. It returns at once where
// systemd does not watch.
func (n *Notifier) Watch(ctx context.Context, alive func()) {
	if n == nil || n.watchdog == 0 {
		return
	}
	tick := time.NewTicker(n.watchdog / 2)
	defer tick.Stop()
	for {
		alive()
		_ = n.send("WATCHDOG=1") // systemd acts on its own when it hears nothing
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// monotonic is the time that systemd goes by.
func monotonic() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // it fails for unknown clocks only
	return time.Duration(t.Nano())
}

// firstFD is the first descriptor that systemd passes.
const firstFD = 3

// Sockets are those that systemd has started this process with; nil: none. They
// are taken out of the environment.
func Sockets() (*socket.Inherited, error) {
	pid, count, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if err := os.Unsetenv(name); err != nil {
			return nil, err
		}
	}
	if pid != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > 1<<16 {
		return nil, fmt.Errorf("LISTEN_FDS=%q is no number of sockets", count)
	}
	return collect(firstFD, n, strings.Split(names, ":"))
}

func collect(first, n int, names []string) (*socket.Inherited, error) {
	s := &socket.Inherited{}
	for i := range n {
		name := ""
		if i < len(names) {
			name = names[i]
		}
		syscall.CloseOnExec(first + i)
		if err := s.Add("", os.NewFile(uintptr(first+i), "LISTEN_FDS: "+name)); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}
