package h3

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"github.com/quic-go/quic-go"

	"github.com/gatehouse-proxy/gatehouse/gateway/clientaddr"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

var errTooMany = errors.New("too many connections")

// manyHandshakes is how many handshakes at once are no longer usual. They cost
// a signature each, and whoever asks for one may have forged its address.
const manyHandshakes = 128

// mustProve decides, before anything is spent on a new connection, whether its
// client must first show that it receives what is sent to its address (Retry,
// RFC 9000 8.1). That costs honest clients a round trip, so it is asked only
// under load: when many handshakes are open, when connections are nearly used
// up, and when refusing would hit an address that may have been forged.
func (s *Server) mustProve(a net.Addr) bool {
	settings := s.settings.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.clients[clientaddr.Network(clientaddr.AddrPort(a).Addr())]
	return s.handshaking >= manyHandshakes ||
		settings.MaxConnections > 0 && len(s.conns) >= settings.MaxConnections-settings.MaxConnections/4 ||
		settings.MaxPerClient > 0 && n >= settings.MaxPerClient/2 ||
		settings.TLS.Pressed(a)
}

// admit is quic.Transport.ConnContext: it counts a connection in, or refuses it.
// The context it returns ends with the connection.
func (s *Server) admit(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	settings := s.settings.Load()
	peer := clientaddr.AddrPort(info.RemoteAddr)
	c := &Conn{server: s, first: peer, client: clientaddr.Network(peer.Addr())}
	s.mu.Lock()
	if settings.MaxConnections > 0 && len(s.conns) >= settings.MaxConnections ||
		settings.MaxPerClient > 0 && s.clients[c.client] >= settings.MaxPerClient {
		again := s.lastRefused == peer // a ClientHello may take several packets, each refused
		s.lastRefused = peer
		s.mu.Unlock()
		if again {
			return nil, errTooMany
		}
		s.refused.Add(1)
		settings.refuse(reason.TooManyConnections.Wrap(errTooMany), peer)
		return nil, errTooMany
	}
	s.conns[c] = struct{}{}
	s.clients[c.client]++
	s.handshaking++
	s.mu.Unlock()
	s.accepted.Add(1)
	ctx = context.WithValue(ctx, connKey{}, c)
	context.AfterFunc(ctx, func() { c.over(context.Cause(ctx)) })
	return ctx, nil
}

// shook notes that a handshake is over, one way or the other.
func (s *Server) shook() {
	s.mu.Lock()
	s.handshaking--
	s.mu.Unlock()
}

// left counts a connection out.
func (s *Server) left(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if n := s.clients[c.client] - 1; n > 0 {
		s.clients[c.client] = n
	} else {
		delete(s.clients, c.client)
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Settings) refuse(why *reason.Refusal, peer netip.AddrPort) {
	if s.Refused != nil {
		s.Refused(why, peer)
	}
}
