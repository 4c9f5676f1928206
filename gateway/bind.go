package gateway

import (
	"context"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/listener"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
)

// BindError is all that a snapshot needs and cannot be bound.
type BindError []Unbound

// Unbound is one address that cannot be bound.
type Unbound struct {
	Path string // of what asks for it in the config, such as listeners.web.address
	Err  error  // names the address
}

// Error implements error: a line for each.
func (e BindError) Error() string {
	lines := make([]string, len(e))
	for i, u := range e {
		lines[i] = u.Path + ": " + u.Err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap is for package errors.
func (e BindError) Unwrap() []error {
	list := make([]error, len(e))
	for i, u := range e {
		list[i] = u.Err
	}
	return list
}

// bind makes what next needs and is not there: doors, and fronts of HTTP/3.
func (g *Gateway) bind(ctx context.Context, next *snapshot.Snapshot, drain time.Duration) (fresh []*door, quic []*http3, err error) {
	var failed BindError
	for address, l := range next.Listeners {
		if l.Protocol == snapshot.UDP {
			continue
		}
		d := g.doors[address]
		if d == nil {
			d = &door{gateway: g, address: address}
			socket, err := listener.Listen(ctx, d.socketSettings(l))
			if err != nil {
				failed = append(failed, Unbound{"listeners." + l.Name + ".address", err})
				continue
			}
			d.socket = socket
			d.build(l)
			fresh = append(fresh, d)
		}
		switch f, err := d.wantHTTP3(l); {
		case err != nil:
			failed = append(failed, Unbound{"listeners." + l.Name + ".http3", err})
		case f != nil:
			quic = append(quic, f)
		}
	}
	if len(failed) == 0 {
		return fresh, quic, nil
	}
	g.unbind(ctx, fresh, quic, drain)
	return nil, nil, failed
}

// unbind takes back what bind made.
func (g *Gateway) unbind(ctx context.Context, fresh []*door, quic []*http3, drain time.Duration) {
	for _, f := range quic {
		g.abandon(context.WithoutCancel(ctx), f, drain)
	}
	for _, d := range fresh {
		d.close()
	}
}
