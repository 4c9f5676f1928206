package proxy

import (
	"bytes"
	"net/netip"
	"sync"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// SetForwarded prepares a request's header for the plugins and the upstream;
// the gateway calls it once, at dispatch, before any plugin. What only
// concerned the connection from the client (the fields that Connection names)
// is taken out, so that a client cannot have a plugin's header removed later.
// Forwarded and X-Forwarded-For, -Host and -Proto then say who the peer is:
// a trusted peer's own are kept and added to, anybody else's are replaced.
// Client-Cert carries the certificate that the client proved, or is not there.
// Nobody's are kept that spell the names with '_' for '-': proxies do not remove
// those, and many applications take them for the real ones.
// e.Peer, e.Scheme and e.Front must be set. It does not allocate.
func SetForwarded(ctx *fasthttp.RequestCtx, e *exchange.Exchange, trusted bool) {
	s := scanners.Get().(*scanner)
	s.claims, s.spelled, s.certs, s.named = false, false, false, s.named[:0]
	e.Front.EachField(s.each)
	h := &ctx.Request.Header
	for list := s.named; len(list) > 0; {
		var name []byte
		if name, list = cutToken(list); len(name) > 0 && !managed(name) {
			h.DelBytes(name)
		}
	}
	if s.spelled {
		delSpelled(h, e)
	}
	if s.certs {
		delCertificates(h, e)
	}
	// A plugin's or the front's own copies cannot be there yet, so that without
	// a claim there is nothing to remove.
	if s.claims && !trusted {
		for _, name := range claimNames {
			h.Del(name)
		}
	}
	h.DisableNormalizing() // our names are in their normal form already
	s.add(h, e, s.claims && trusted)
	h.EnableNormalizing()
	scanners.Put(s)
}

// claimNames are the headers by which proxies say whom they speak for.
var claimNames = [...]string{
	"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port",
	"X-Forwarded-Prefix", "X-Forwarded-Server", "X-Forwarded-Ssl", "X-Forwarded-Scheme", "X-Real-Ip",
	"Early-Data", // says that the request may be a replay (RFC 8470): whose word is that?
}

// managed names what Connection may list without meaning a field of its own,
// or what the proxy handles by name.
func managed(name []byte) bool {
	switch len(name) {
	case 2:
		return wire.EqualFold(name, "te")
	case 5:
		return wire.EqualFold(name, "close")
	case 7:
		return wire.EqualFold(name, "upgrade")
	case 10:
		return wire.EqualFold(name, "keep-alive")
	}
	return false
}

// scanner looks once through the fields as received.
type scanner struct {
	claims  bool   // some field of claimNames is there
	spelled bool   // one of them with '_' for '-' may be
	certs   bool   // one of certificateNames, however spelt, is there
	named   []byte // the Connection fields, joined by commas
	text    []byte
	each    func(name, value []byte) bool
}

var scanners = sync.Pool{New: func() any {
	s := &scanner{}
	s.each = s.look
	return s
}}

func (s *scanner) look(name, value []byte) bool {
	switch name[0] | 0x20 {
	case 'c':
		if wire.EqualFold(name, "connection") && !wire.EqualFold(value, "keep-alive") && !wire.EqualFold(value, "close") {
			s.named = append(append(s.named, value...), ',')
		}
		s.certs = s.certs || isCertificateName(name)
	case 'e':
		s.claims = s.claims || wire.EqualFold(name, "early-data")
	case 'f':
		s.claims = s.claims || wire.EqualFold(name, "forwarded")
	case 'x':
		if len(name) > 11 && wire.SameName(name[:11], "x-forwarded") || wire.SameName(name, "x-real-ip") {
			s.claims = true
			s.spelled = s.spelled || bytes.IndexByte(name, '_') >= 0
		}
	}
	return true
}

// delSpelled removes the claims whose names have '_' for '-'.
func delSpelled(h *fasthttp.RequestHeader, e *exchange.Exchange) {
	e.Front.EachField(func(name, _ []byte) bool {
		if bytes.IndexByte(name, '_') >= 0 {
			for _, claim := range claimNames {
				if wire.SameName(name, claim) {
					h.DelBytes(name)
				}
			}
		}
		return true
	})
}

// certificateNames are the headers by which a terminating proxy hands on the
// client's certificate (RFC 9440). Only we write them: nobody's own, not even a
// trusted peer's, gets further.
var certificateNames = [...]string{"Client-Cert", "Client-Cert-Chain"}

func isCertificateName(name []byte) bool {
	for _, n := range certificateNames {
		if wire.SameName(name, n) {
			return true
		}
	}
	return false
}

func delCertificates(h *fasthttp.RequestHeader, e *exchange.Exchange) {
	e.Front.EachField(func(name, _ []byte) bool {
		if isCertificateName(name) {
			h.DelBytes(name)
		}
		return true
	})
}

// add writes what we say. keep says that a trusted peer has spoken before;
// otherwise none of the fields is there, and adding is cheaper than setting.
func (s *scanner) add(h *fasthttp.RequestHeader, e *exchange.Exchange, keep bool) {
	peer := e.Peer.Addr().Unmap()
	host := h.Host()
	s.text = s.text[:0]
	if keep {
		s.text = takeLines(s.text, h, "X-Forwarded-For")
	}
	s.text = peer.AppendTo(s.text)
	h.AddBytesV("X-Forwarded-For", s.text)
	if !keep || len(h.Peek("X-Forwarded-Host")) == 0 {
		h.AddBytesV("X-Forwarded-Host", host)
	}
	if !keep || len(h.Peek("X-Forwarded-Proto")) == 0 {
		h.Add("X-Forwarded-Proto", e.Scheme)
	}
	s.text = s.text[:0]
	if keep {
		s.text = takeLines(s.text, h, "Forwarded")
	}
	s.text = appendElement(s.text, peer, host, e.Scheme)
	h.AddBytesV("Forwarded", s.text)
	if e.TLS != nil && e.TLS.ClientCert != "" {
		h.Add("Client-Cert", e.TLS.ClientCert)
	}
}

// takeLines appends all lines of a list field, each with a comma, and removes
// them: Set would replace one only.
func takeLines(dst []byte, h *fasthttp.RequestHeader, name string) []byte {
	for _, line := range h.PeekAll(name) {
		dst = append(append(dst, line...), ", "...)
	}
	h.Del(name)
	return dst
}

// appendElement appends one element of Forwarded (RFC 7239). The values need
// quotes for their colons and brackets; a valid host has nothing to escape.
func appendElement(dst []byte, peer netip.Addr, host []byte, scheme string) []byte {
	dst = append(dst, "for="...)
	if peer.Is4() {
		dst = peer.AppendTo(dst)
	} else {
		dst = append(peer.AppendTo(append(dst, "\"["...)), "]\""...)
	}
	dst = append(dst, ";host="...)
	if bytes.IndexByte(host, ':') >= 0 {
		dst = append(append(append(dst, '"'), host...), '"')
	} else {
		dst = append(dst, host...)
	}
	return append(append(dst, ";proto="...), scheme...)
}

// cutToken takes the first element off a comma-separated list.
func cutToken(list []byte) (token, rest []byte) {
	if i := bytes.IndexByte(list, ','); i >= 0 {
		return bytes.TrimSpace(list[:i]), list[i+1:]
	}
	return bytes.TrimSpace(list), nil
}
