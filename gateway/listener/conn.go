package listener

import (
	"net"
	"net/netip"
	"sync"
)

// conn counts a connection out when it is closed.
type conn struct {
	l      *Listener
	client netip.Prefix
	once   sync.Once
}

func (c *conn) release() { c.once.Do(func() { c.l.left(c.client) }) }

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
