// Package socket binds the addresses that traffic enters by, or takes over
// sockets that are bound already: those the process was started with, by systemd
// or by the process that it is to replace. A socket is known by what it is for
// (its label) or by its address, so that a config that has changed meanwhile
// takes what it still has a use for.
package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Socket is one in use, to be handed to another process.
type Socket struct {
	// Label says what it is for; empty where only the address counts.
	Label string
	// Network is tcp or udp.
	Network string
	Conn    syscall.Conn
}

// File is a descriptor of the same socket for another process; the caller
// closes it. The one in use goes on being non-blocking, as files of package net
// would not let it.
func (s *Socket) File() (*os.File, error) {
	raw, err := s.Conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var f *os.File
	var failed error
	err = raw.Control(func(fd uintptr) {
		n, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			failed = os.NewSyscallError("fcntl", err)
			return
		}
		f = os.NewFile(uintptr(n), s.Network+" "+s.Label)
	})
	return f, errors.Join(err, failed)
}

// Inherited are sockets that the process was started with, until somebody takes
// them. nil is none. Its methods are safe for concurrent use.
type Inherited struct {
	mu   sync.Mutex
	list []inherited
}

type inherited struct {
	label    string
	network  string
	address  netip.AddrPort
	listener net.Listener // or
	packets  *net.UDPConn
}

// Add takes over a descriptor, which it closes: what it stands for goes on in
// the set. Its error says what it is, if it is no socket to serve on.
func (s *Inherited) Add(label string, f *os.File) error {
	in := inherited{label: label}
	defer f.Close()
	if l, err := net.FileListener(f); err == nil {
		t, ok := l.Addr().(*net.TCPAddr)
		if !ok {
			return errors.Join(fmt.Errorf("%s: a listener of %s, not of TCP", f.Name(), l.Addr().Network()), l.Close())
		}
		in.network, in.listener, in.address = "tcp", l, t.AddrPort()
	} else {
		p, err := net.FilePacketConn(f)
		if err != nil {
			return fmt.Errorf("%s: neither a TCP listener nor a UDP socket: %w", f.Name(), err)
		}
		u, ok := p.(*net.UDPConn)
		if !ok {
			return errors.Join(fmt.Errorf("%s: datagrams of %s, not of UDP", f.Name(), p.LocalAddr().Network()), p.Close())
		}
		in.network, in.packets, in.address = "udp", u, u.LocalAddr().(*net.UDPAddr).AddrPort()
	}
	s.mu.Lock()
	s.list = append(s.list, in)
	s.mu.Unlock()
	return nil
}

// Listen listens on a TCP address, "host:port", or takes over a socket that
// does. Its error names the address.
func (s *Inherited) Listen(ctx context.Context, label, address string) (net.Listener, error) {
	if in, ok := s.take("tcp", label, address); ok {
		return in.listener, nil
	}
	var config net.ListenConfig
	config.SetMultipathTCP(false) // its sockets have neither the options nor the speed
	return config.Listen(ctx, "tcp", address)
}

// ListenUDP is Listen for a UDP address.
func (s *Inherited) ListenUDP(ctx context.Context, label, address string) (*net.UDPConn, error) {
	if in, ok := s.take("udp", label, address); ok {
		return in.packets, nil
	}
	var config net.ListenConfig
	p, err := config.ListenPacket(ctx, "udp", address)
	if err != nil {
		return nil, err
	}
	return p.(*net.UDPConn), nil
}

// take finds a socket by its label, or else by its address.
func (s *Inherited) take(network, label, address string) (inherited, bool) {
	if s == nil {
		return inherited{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.list, func(in inherited) bool {
		return in.network == network && in.label != "" && in.label == label
	})
	if i < 0 {
		i = slices.IndexFunc(s.list, func(in inherited) bool { return in.network == network && is(in.address, address) })
	}
	if i < 0 {
		return inherited{}, false
	}
	in := s.list[i]
	s.list = slices.Delete(s.list, i, i+1)
	return in, true
}

// is reports that a socket that is bound to a is what a config calls address.
// Port 0 is no port in particular: such sockets are known by their labels only.
func is(a netip.AddrPort, address string) bool {
	want, err := net.ResolveTCPAddr("tcp", address) // the ports of TCP and UDP have the same names
	if err != nil || want.Port == 0 || want.Port != int(a.Port()) {
		return false
	}
	if want.IP == nil || want.IP.IsUnspecified() {
		return a.Addr().IsUnspecified() // of both families, as package net binds them
	}
	return want.AddrPort().Addr().Unmap() == a.Addr().Unmap()
}

// Close closes the sockets that nobody has taken and names them.
func (s *Inherited) Close() (unused []string) {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, in := range s.list {
		unused = append(unused, in.network+" "+in.address.String())
		// Another process may serve on it: only our descriptor goes, which cannot fail.
		if in.listener != nil {
			_ = in.listener.Close()
		} else {
			_ = in.packets.Close()
		}
	}
	s.list = nil
	slices.Sort(unused)
	return unused
}
