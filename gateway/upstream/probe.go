package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

// prober checks one address once. nil means healthy.
type prober interface {
	probe(ctx context.Context, address string) error
}

func newProber(h HealthSettings) prober {
	if h.Type == "tcp" {
		return tcpProber{}
	}
	return &httpProber{settings: h}
}

// tcpProber wants a connection, no more.
type tcpProber struct{}

func (tcpProber) probe(ctx context.Context, address string) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return shortError(ctx, err)
	}
	return c.Close()
}

// maxProbeReply is how much of a reply is read to find its final head.
const maxProbeReply = 64 << 10

// httpProber sends one request on a connection of its own and looks at the
// status. It follows no redirect and reads no body.
type httpProber struct{ settings HealthSettings }

func (p *httpProber) probe(ctx context.Context, address string) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return shortError(ctx, err)
	}
	defer c.Close()
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
	if errors.As(err, &op) {
		return fmt.Errorf("%s: %w", op.Op, op.Err)
	}
	return err
}
