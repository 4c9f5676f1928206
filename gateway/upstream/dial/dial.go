// Package dial makes connections to the endpoints of an upstream: TCP, and the
// TLS handshake where the upstream speaks TLS. It decides whom to trust, shows
// our own certificate, and says in a few words what went wrong. It knows
// nothing of what is spoken on a connection afterwards.
package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Settings of a Dialer. The zero value is plain TCP.
type Settings struct {
	// Timeout is for connecting and the handshake together; 0 means 5 s.
	Timeout time.Duration
	// KeepAlive is how often the kernel looks after a silent connection; 0 means
	// 30 s, below 0 never.
	KeepAlive time.Duration
	// TLS makes connections speak TLS; nil: plain.
	TLS *TLSSettings
	// Protocols are what is to be spoken inside of TLS, the best first, by their
	// names in ALPN ("h2", "http/1.1"). None: the endpoint is not asked.
	Protocols []string
}

// Dialer makes connections. Its methods are safe for concurrent use.
type Dialer struct {
	s     Settings
	net   net.Dialer
	trust *trust // nil: plain
}

// New returns a dialer. It reads no files yet: with a CA file it refuses to
// connect until Load, or the following of the file, has read it. An error
// names the setting.
func New(s Settings) (*Dialer, error) {
	if s.Timeout <= 0 {
		s.Timeout = 5 * time.Second
	}
	if s.KeepAlive == 0 {
		s.KeepAlive = 30 * time.Second
	}
	d := &Dialer{s: s, net: net.Dialer{Timeout: s.Timeout, KeepAlive: s.KeepAlive}}
	if s.TLS == nil {
		return d, nil
	}
	var err error
	d.trust, err = newTrust(*s.TLS)
	return d, err
}

// Load reads the CA file for the first time, before Start. Its error names the
// file.
func (d *Dialer) Load() error {
	if d.trust == nil || d.trust.cas == nil {
		return nil
	}
	return d.trust.cas.Load()
}

// Start begins to follow the CA file; it never fails.
func (d *Dialer) Start(context.Context) error {
	if d.trust != nil && d.trust.cas != nil {
		d.trust.cas.Start()
	}
	return nil
}

// Close ends what Start began. The dialer still works, with what was read last.
func (d *Dialer) Close(context.Context) error {
	if d.trust != nil && d.trust.cas != nil {
		d.trust.cas.Close()
	}
	return nil
}

// TLS reports whether connections speak TLS.
func (d *Dialer) TLS() bool { return d.trust != nil }

// ServerName is what an endpoint is asked for and verified as; empty for plain
// connections.
func (d *Dialer) ServerName(address string) string {
	if d.trust == nil {
		return ""
	}
	return d.trust.serverName(address)
}

// Offering is a dialer that differs in Protocols only. It shares everything
// else with d, which is to be started and closed.
func (d *Dialer) Offering(protocols ...string) *Dialer {
	o := *d
	o.s.Protocols = protocols
	return &o
}

// Dial connects to HOST:PORT and, with TLS, makes the handshake: the result is
// then a *Conn. An endpoint that can be reached but not be spoken to securely
// gives an error that is reason.UpstreamTLS and whose text is for people.
func (d *Dialer) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return d.DialAfter(ctx, network, address, nil)
}

// DialAfter is Dial with something to be said first: begin, if it is not nil,
// gets the connection before the handshake. Its error ends the attempt.
func (d *Dialer) DialAfter(ctx context.Context, network, address string, begin func(net.Conn) error) (net.Conn, error) {
	if d.trust == nil {
		return d.begun(ctx, network, address, begin)
	}
	config, err := d.trust.config(address, d.s.Protocols)
	if err != nil {
		return nil, &Error{Detail: err.Error(), Cause: err}
	}
	ctx, cancel := context.WithTimeout(ctx, d.s.Timeout)
	defer cancel()
	nc, err := d.begun(ctx, network, address, begin)
	if err != nil {
		return nil, err
	}
	c := newConn(nc, config)
	if err = c.HandshakeContext(ctx); err == nil {
		err = d.agreed(c)
	} else {
		err = c.explain(ctx, err)
	}
	if err != nil {
		_ = nc.Close() // without a word: there is nobody we trust
		return nil, err
	}
	return c, nil
}

func (d *Dialer) begun(ctx context.Context, network, address string, begin func(net.Conn) error) (net.Conn, error) {
	nc, err := d.net.DialContext(ctx, network, address)
	if err != nil || begin == nil {
		return nc, err
	}
	if err := begin(nc); err != nil {
		_ = nc.Close() // it is of no use
		return nil, err
	}
	return nc, nil
}

// agreed checks that something can be spoken. Who does not know ALPN speaks
// HTTP/1.1; HTTP/2 needs it (RFC 9113, 3.2).
func (d *Dialer) agreed(c *Conn) error {
	p := c.ConnectionState().NegotiatedProtocol
	if p != "" || len(d.s.Protocols) == 0 || slices.Contains(d.s.Protocols, "http/1.1") {
		return nil
	}
	return &Error{Detail: fmt.Sprintf("the endpoint did not agree to speak %s", list(d.s.Protocols))}
}

// hostOf is the host of HOST:PORT, fit for being verified.
func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.WithZone("").Unmap().String() // a zone is ours, and in no certificate
	}
	return host
}

var errNoAuthorities = errors.New("the authorities to verify the endpoint by could not be loaded")
