package dial

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// Conn is a connection after the handshake. As with every net.Conn, one
// goroutine may read while another one writes.
type Conn struct {
	*tls.Conn
	socket *socket
	config *tls.Config // what the handshake was made with
	asked  bool        // for our certificate
	shown  bool        // it was
	heard  bool        // the endpoint has said something; the reader's own
	spoilt bool        // Quiet has been false once
	probe  [1]byte
}

func newConn(nc net.Conn, config *tls.Config) *Conn {
	s := &socket{Conn: nc}
	if sc, ok := nc.(syscall.Conn); ok {
		if rc, err := sc.SyscallConn(); err == nil {
			s.open(rc)
		}
	}
	c := &Conn{socket: s, config: config}
	// config is this connection's own.
	show := config.GetClientCertificate
	config.GetClientCertificate = func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		c.asked = true
		if show == nil {
			return &tls.Certificate{}, nil // which says that there is none
		}
		c.shown = true
		return show(r)
	}
	c.Conn = tls.Client(s, config)
	return c
}

// Read implements net.Conn. It differs from tls.Conn's in three ways. An error
// never comes together with bytes. An end that the endpoint did not announce is
// io.ErrUnexpectedEOF: anybody on the way could have caused it, so that what
// ends with the connection is not complete (RFC 9112, 9.8). And an endpoint of
// TLS 1.3 that refuses our certificate can say so only after our handshake:
// that is reason.UpstreamTLS as well.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.heard = true
		return n, nil // the next Read says err again
	}
	switch {
	case err == nil:
	case err == io.EOF:
		if c.socket.ended {
			err = io.ErrUnexpectedEOF
		}
	case !c.heard && isAlert(err):
		err = c.alert(err)
	}
	return n, err
}

// Accepted waits, at most until ctx ends, for the endpoint's word on our
// certificate, if it asked for one: with TLS 1.3 that comes after the
// handshake. Its error is reason.UpstreamTLS. Nothing can be sent afterwards.
func (c *Conn) Accepted(ctx context.Context) error {
	if !c.asked || c.ConnectionState().Version < tls.VersionTLS13 {
		return nil
	}
	defer context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })()
	if err := c.CloseWrite(); err != nil {
		return nil //nolint:nilerr // the connection is going, and we asked for no more than it
	}
	if _, err := c.Read(c.probe[:]); errors.Is(err, reason.UpstreamTLS) {
		return err
	}
	return nil
}

// Quiet reports, without waiting, that an idle connection is still open and
// that nothing has come on it but what TLS itself says now and then: tickets,
// new keys. Where that cannot be told it is taken to be so. Nobody may read or
// write meanwhile.
func (c *Conn) Quiet() bool {
	if !c.socket.direct() {
		return true
	}
	c.socket.impatient = true
	n, err := c.Conn.Read(c.probe[:])
	c.socket.impatient = false
	c.spoilt = c.spoilt || n > 0 || !errors.Is(err, errNothingYet) || c.socket.stuck
	return !c.spoilt
}

// Close implements net.Conn. It says goodbye if that can be done at once, and
// never waits for it.
func (c *Conn) Close() error {
	c.socket.closing.Store(true)
	err := c.Conn.Close()
	if errors.Is(err, errNothingYet) {
		return nil // closed, without a goodbye
	}
	return err
}

// errNothingYet is what an operation that must not wait would wait for. For
// tls.Conn it is an error that passes.
var errNothingYet net.Error = nothingYet{}

type nothingYet struct{}

func (nothingYet) Error() string   { return "nothing can be read or written without waiting" }
func (nothingYet) Timeout() bool   { return true }
func (nothingYet) Temporary() bool { return true }

// socket is what is below TLS.
type socket struct {
	net.Conn
	raw rawSocket

	impatient bool        // neither reads nor writes may wait; see Quiet
	stuck     bool        // TLS could not answer while impatient
	ended     bool        // the connection has been closed by the other side; the reader's own
	closing   atomic.Bool // writes must not wait
}

// NetConn is what is underneath, for options of the socket.
func (s *socket) NetConn() net.Conn { return s.Conn }

// Read implements net.Conn.
func (s *socket) Read(p []byte) (n int, err error) {
	if s.impatient {
		n, err = s.raw.tryRead(p)
	} else {
		n, err = s.Conn.Read(p)
	}
	s.ended = s.ended || err == io.EOF
	return n, err
}

// Write implements net.Conn.
func (s *socket) Write(p []byte) (int, error) {
	if !s.impatient && !s.closing.Load() || !s.direct() {
		return s.Conn.Write(p)
	}
	n, err := s.raw.tryWrite(p)
	s.stuck = s.stuck || err != nil
	return n, err
}

// Socket is the TCP connection below, for who must reset it; nil: it is none.
func (s *socket) Socket() *net.TCPConn {
	t, _ := s.Conn.(*net.TCPConn)
	return t
}
