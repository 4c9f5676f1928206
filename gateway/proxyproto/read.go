package proxyproto

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	lib "github.com/pires/go-proxyproto"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// ErrNothingSaid is the end of a connection whose peer, a health check most
// likely, went away without a word, or which we closed ourselves: nothing was
// refused.
var ErrNothingSaid = errors.New("the connection ended before a PROXY header began")

const (
	// longest1 is the longest header of version 1, by its specification.
	longest1 = 107
	// longest2 is the longest block behind the 16 bytes that every header of
	// version 2 has: addresses and extensions. HAProxy's own headers stay far
	// below it; with a client's certificate they come to some 2 KiB.
	longest2 = 4096
	fixed2   = 16
)

// Read reads a header from nc, whose peer has to send one. The client it names
// is the zero AddrPort where the peer speaks for itself (LOCAL, UNKNOWN, and
// addresses that are not TCP's). Its error is ErrNothingSaid or a
// *reason.Refusal; nc is then to be closed, which interrupts Read too.
// Extensions (TLVs) are skipped.
func (p *Policy) Read(nc net.Conn) (client netip.AddrPort, err error) {
	if err := nc.SetReadDeadline(time.Now().Add(p.timeout)); err != nil {
		return client, ErrNothingSaid // closed already
	}
	var first [longest1]byte
	b := first[:0]
	for {
		n, r := missing(b)
		if r != nil {
			return client, r
		}
		if n == 0 {
			break
		}
		if need := len(b) + n; need > cap(b) {
			b = append(make([]byte, 0, need), b...)
		}
		m, err := nc.Read(b[len(b) : len(b)+n])
		b = b[:len(b)+m]
		if m == 0 && err != nil {
			return client, why(err, len(b))
		}
	}
	_ = nc.SetReadDeadline(time.Time{}) // closed already: whoever reads next will see
	return parse(b)
}

// why says what it means that no more bytes come after n.
func why(err error, n int) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return reason.ProxyHeaderTimeout.Because("%d bytes of it had come", n)
	case errors.Is(err, net.ErrClosed),
		n == 0 && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)):
		return ErrNothingSaid
	}
	return reason.ProxyHeaderMalformed.Because("the connection ended after %d bytes of it", n)
}

// missing is the number of bytes that a header beginning with b surely has
// still; 0 when it is complete. It is never too large, so that reading them
// takes nothing that is behind the header.
func missing(b []byte) (n int, err error) {
	if len(b) == 0 {
		return len("PROXY UNKNOWN\r\n"), nil
	}
	two := bytes.HasPrefix(signature2, b[:min(len(b), len(signature2))])
	if !two && !bytes.HasPrefix(signature1, b[:min(len(b), len(signature1))]) {
		return 0, reason.ProxyHeaderMissing.Because("the connection begins with %q", b[:min(len(b), len(signature2))])
	}
	if two {
		if len(b) < fixed2 {
			return fixed2 - len(b), nil
		}
		block := int(binary.BigEndian.Uint16(b[fixed2-2:]))
		if block > longest2 {
			return 0, reason.ProxyHeaderMalformed.Because("version 2 with %d bytes of addresses and extensions; at most %d are read", block, longest2)
		}
		return fixed2 + block - len(b), nil
	}
	return missing1(b)
}

// missing1 is missing for version 1, a line of "PROXY" and five more words, or
// of any words after UNKNOWN. At first it is as long as the shortest line.
func missing1(b []byte) (n int, err error) {
	if least := len("PROXY UNKNOWN\r\n"); len(b) < least {
		if bytes.IndexByte(b, '\n') >= 0 {
			return 0, malformed1(b)
		}
		return least - len(b), nil
	}
	if b[len(b)-1] == '\n' {
		return 0, nil // whether it is well-formed is for parse
	}
	if len(b) >= longest1 || bytes.IndexByte(b, '\n') >= 0 {
		return 0, malformed1(b)
	}
	switch b[len(b)-1] {
	case '\r':
		return 1, nil
	case ' ':
		n = 1
	}
	n += len("\r\n")
	if !bytes.HasPrefix(b, []byte("PROXY UNKNOWN")) {
		n += 2 * max(0, 5-bytes.Count(b, []byte(" "))) // a space and a character for each word
	}
	return min(n, longest1-len(b)), nil
}

func malformed1(b []byte) error {
	return reason.ProxyHeaderMalformed.Because("version 1: %q", b)
}

// parse reads a header that is complete, and nothing else.
func parse(b []byte) (client netip.AddrPort, err error) {
	h, err := lib.Read(bufio.NewReaderSize(bytes.NewReader(b), max(len(b), longest1)))
	if err != nil {
		return client, reason.ProxyHeaderMalformed.Wrap(err)
	}
	if h.Command == lib.LOCAL {
		return client, nil
	}
	switch h.TransportProtocol {
	case lib.TCPv4, lib.TCPv6:
	case lib.UnixStream:
		return client, nil
	default:
		return client, reason.ProxyHeaderMalformed.Because("it announces datagrams (%#x)", byte(h.TransportProtocol))
	}
	a, ok := h.SourceAddr.(*net.TCPAddr)
	if !ok {
		return client, reason.ProxyHeaderMalformed.Because("its source is %v", h.SourceAddr)
	}
	from := a.AddrPort()
	return netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), nil
}
