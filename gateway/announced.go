package gateway

import (
	"errors"
	"net"

	"github.com/gatehouse-proxy/gatehouse/gateway/clientaddr"
	"github.com/gatehouse-proxy/gatehouse/gateway/listener"
	"github.com/gatehouse-proxy/gatehouse/gateway/proxyproto"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// announced is the listener's filter where proxies name their clients: it
// learns who the client is, then goes on with next, which may be nil.
//
// A header of a peer that is no proxy of ours is left to be found by whoever
// reads the connection: looking for it here would make every other client
// wait until it has said something.
func (d *door) announced(p *proxyproto.Policy, next func(net.Conn) (net.Conn, error)) func(net.Conn) (net.Conn, error) {
	if p == nil {
		return next
	}
	return func(nc net.Conn) (net.Conn, error) {
		if p.Trusts(clientaddr.AddrPort(nc.RemoteAddr()).Addr()) {
			if err := d.announce(p, nc); err != nil {
				return nil, err
			}
		}
		if next == nil {
			return nc, nil
		}
		return next(nc)
	}
}

func (d *door) announce(p *proxyproto.Policy, nc net.Conn) error {
	client, err := p.Read(nc)
	if err != nil {
		if !errors.Is(err, proxyproto.ErrNothingSaid) {
			d.refusedConnection(reason.From(err), clientaddr.AddrPort(nc.RemoteAddr()), proxying)
		}
		return err
	}
	if a, ok := nc.(listener.Announcer); ok && !a.Announce(client) {
		d.refusedConnection(reason.TooManyConnections.Because("for %v", client), clientaddr.AddrPort(nc.RemoteAddr()), proxying)
		return reason.TooManyConnections
	}
	return nil
}
