package listener

import (
	"net"
	"net/netip"
	"sync"

	"github.com/gatehouse-proxy/gatehouse/gateway/clientaddr"
)

// Announcer is an accepted connection that another proxy has made for a
// client. Every connection of a Listener is one.
type Announcer interface {
	// Announce makes client the connection's remote address, and counts the
	// connection as one of that client's. It returns false where the client has
	// as many as it may; the connection is then to be closed. It is called once,
	// by a Filter, before anybody else has the connection. The zero AddrPort
	// leaves the address as it is.
	Announce(client netip.AddrPort) bool
	// Announced reports that Announce was called and returned true.
	Announced() bool
}

var (
	_ Announcer = (*tcpConn)(nil)
	_ Announcer = (*plainConn)(nil)
)

// conn counts a connection out when it is closed.
type conn struct {
	l      *Listener
	client netip.Prefix // the zero Prefix: not counted as anybody's yet
	remote net.Addr     // nil: the socket's
	told   bool         // Announced
	once   sync.Once
}

func (c *conn) release() { c.once.Do(func() { c.l.left(c.client) }) }

func (c *conn) announce(client, peer netip.AddrPort) bool {
	if client.IsValid() {
		c.remote = net.TCPAddrFromAddrPort(client)
	} else {
		client = peer
	}
	prefix, ok := c.l.recount(c.client, clientOf(client.Addr().Unmap()))
	c.client, c.told = prefix, ok
	return ok
}

// Announced implements Announcer.
func (c *conn) Announced() bool { return c.told }

// tcpConn is an accepted TCP connection.
type tcpConn struct {
	*net.TCPConn
	*conn
}

// Close closes the connection and counts it out.
func (c *tcpConn) Close() error {
	err := c.TCPConn.Close()
	c.release()
	return err
}

// Socket is the TCP connection itself: reading and writing it is reading and
// writing this one. Closing is not.
func (c *tcpConn) Socket() *net.TCPConn { return c.TCPConn }

// RemoteAddr is the client's address.
func (c *tcpConn) RemoteAddr() net.Addr {
	if c.remote != nil {
		return c.remote
	}
	return c.TCPConn.RemoteAddr()
}

// Announce implements Announcer.
func (c *tcpConn) Announce(client netip.AddrPort) bool {
	return c.announce(client, clientaddr.AddrPort(c.TCPConn.RemoteAddr()))
}

// plainConn is any other accepted connection.
type plainConn struct {
	net.Conn
	*conn
}

// Close closes the connection and counts it out.
func (c *plainConn) Close() error {
	err := c.Conn.Close()
	c.release()
	return err
}

// RemoteAddr is the client's address.
func (c *plainConn) RemoteAddr() net.Addr {
	if c.remote != nil {
		return c.remote
	}
	return c.Conn.RemoteAddr()
}

// Announce implements Announcer.
func (c *plainConn) Announce(client netip.AddrPort) bool {
	return c.announce(client, clientaddr.AddrPort(c.Conn.RemoteAddr()))
}
