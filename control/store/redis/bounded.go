package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"

	"github.com/redis/go-redis/v9"
)

// defaultMaxAnswer is as much as the largest value that Redis itself takes, and
// several times what the largest registry has.
const defaultMaxAnswer = 512 << 20

var errTooMuch = errors.New("this is more than a node reads")

// dialer connects as the library does, and bounds what the server may answer:
// what somebody else has put under our keys must not fill this node's memory.
func dialer(o *redis.Options, most int64) func(ctx context.Context, network, address string) (net.Conn, error) {
	dial := redis.NewDialer(o)
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		b := &boundedConn{Conn: c, most: most}
		b.left.Store(most)
		if raw, ok := c.(syscall.Conn); ok {
			return &boundedSocket{b, raw}, nil
		}
		return b, nil
	}
}

// boundedConn fails where more comes between two writes than may: answers to
// what was asked last.
type boundedConn struct {
	net.Conn
	most int64
	left atomic.Int64
}

// boundedSocket lets the library find out whether an idle connection was closed.
type boundedSocket struct {
	*boundedConn
	syscall.Conn
}

// Write implements net.Conn.
func (c *boundedConn) Write(p []byte) (int, error) {
	c.left.Store(c.most)
	return c.Conn.Write(p)
}

// Read implements net.Conn.
func (c *boundedConn) Read(p []byte) (int, error) {
	left := c.left.Load()
	if left <= 0 {
		return 0, fmt.Errorf("%w: the answer has more than %d bytes", errTooMuch, c.most)
	}
	n, err := c.Conn.Read(p[:min(int64(len(p)), left)])
	c.left.Add(-int64(n))
	return n, err
}
