package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// prober checks one address once. nil means healthy.
type prober interface {
	probe(ctx context.Context, address string) error
}

// dialFunc is Settings.Dial.
type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

func newProber(h HealthSettings, dial dialFunc) prober {
	switch h.Type {
	case "tcp":
		return tcpProber{dial}
	case "grpc":
		return &grpcProber{service: h.Service, dial: dial}
	}
	return &httpProber{settings: h, dial: dial}
}

// tcpProber wants a connection, no more.
type tcpProber struct{ dial dialFunc }

func (p tcpProber) probe(ctx context.Context, address string) error {
	c, err := p.dial(ctx, "tcp", address)
	if err != nil {
		return shortError(ctx, err)
	}
	defer c.Close()
	// With TLS 1.3 the endpoint judges our certificate after our handshake.
	if t, ok := c.(interface{ Accepted(context.Context) error }); ok {
		return t.Accepted(ctx)
	}
	return nil
}

// protocolOf is what was agreed on by ALPN, if anything, and whether c is
// a connection of TLS at all.
func protocolOf(c net.Conn) (agreed string, secure bool) {
	if t, ok := c.(interface{ ConnectionState() tls.ConnectionState }); ok {
		return t.ConnectionState().NegotiatedProtocol, true
	}
	return "", false
}

// maxProbeReply is how much of a reply is read to find its final head.
const maxProbeReply = 64 << 10

// httpProber sends one request on a connection of its own and looks at the
// status. It follows no redirect and reads no body.
type httpProber struct {
	settings HealthSettings
	dial     dialFunc
}

func (p *httpProber) probe(ctx context.Context, address string) error {
	c, err := p.dial(ctx, "tcp", address)
	if err != nil {
		return shortError(ctx, err)
	}
	defer c.Close()
	if protocol, _ := protocolOf(c); protocol == "h2" || protocol == "" && p.settings.HTTP2 {
		return p.probeHTTP2(ctx, c, address)
	}
	defer context.AfterFunc(ctx, func() { c.Close() })() // unblocks reads and writes
	host := p.settings.Host
	if host == "" {
		host = address
	}
	_, err = io.WriteString(c, "GET "+p.settings.Path+" HTTP/1.1\r\nHost: "+host+
		"\r\nUser-Agent: gatehouse-health\r\nAccept: */*\r\nConnection: close\r\n\r\n")
	if err != nil {
		return shortError(ctx, err)
	}
	r := bufio.NewReader(io.LimitReader(c, maxProbeReply))
	for {
		reply, err := http.ReadResponse(r, nil)
		if err != nil {
			return shortError(ctx, err)
		}
		if s := reply.StatusCode; s >= 200 || s == http.StatusSwitchingProtocols {
			return p.judge(s)
		}
	}
}

func (p *httpProber) judge(status int) error {
	for _, r := range p.settings.Expect {
		if r.From <= status && status <= r.To {
			return nil
		}
	}
	return fmt.Errorf("status %d", status)
}

// shortError says what an operator wants to read in a table.
func shortError(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return errors.New("timeout")
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return errors.New("connection closed before a reply")
	}
	var op *net.OpError
	if errors.As(err, &op) && !errors.Is(err, reason.UpstreamTLS) { // that is short already
		return fmt.Errorf("%s: %w", op.Op, op.Err)
	}
	return err
}
