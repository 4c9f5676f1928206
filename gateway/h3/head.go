package h3

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3/qlog"
	"github.com/quic-go/quic-go/qlogwriter"
	"golang.org/x/net/http/httpguts"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// quic-go resets streams with malformed requests without a word to the handler.
// The heads it reads can be looked at through its trace, so that these refusals
// are named, counted and logged like all others.

// trace is quic.Config.Tracer.
func trace(ctx context.Context, _ bool, _ quic.ConnectionID) qlogwriter.Trace {
	if c := Of(ctx); c != nil {
		return &heads{conn: c}
	}
	return nil
}

// heads is the trace of one connection.
type heads struct {
	conn      *Conn
	producers atomic.Int32
}

// AddProducer implements qlogwriter.Trace. The first producer is the transport,
// whose events, one for every packet, nobody wants: without a recorder it makes
// none.
func (h *heads) AddProducer() qlogwriter.Recorder {
	if h.producers.Add(1) == 1 {
		return nil
	}
	return h
}

// Close implements qlogwriter.Recorder.
func (h *heads) Close() error { return nil }

// RecordEvent implements qlogwriter.Recorder.
func (h *heads) RecordEvent(e qlogwriter.Event) {
	f, ok := e.(qlog.FrameParsed)
	if !ok {
		return
	}
	head, ok := f.Frame.Frame.(qlog.HeadersFrame)
	if !ok || f.StreamID%4 != 0 || h.conn.runs(f.StreamID) { // of a running request: trailers
		return
	}
	r, why := judge(head.HeaderFields, f.Raw.PayloadLength, h.conn.server.settings.Load().maxFieldSection())
	switch {
	case why != nil:
		h.conn.malformed(why, r.method, r.path)
	default:
		if why = r.lax(); why != nil {
			h.conn.condemn(f.StreamID, verdict{why, r.method, r.path})
		}
	}
}

// verdict is why a request is refused that quic-go lets through.
type verdict struct {
	why            *reason.Reason
	method, target string
}

// maxVerdicts is more than there are streams that quic-go has read the head of
// and not yet handed over.
const maxVerdicts = 64

// condemn keeps a verdict for ServeHTTP.
func (c *Conn) condemn(id quic.StreamID, v verdict) {
	c.mu.Lock()
	if c.verdicts == nil || len(c.verdicts) >= maxVerdicts {
		c.verdicts = map[quic.StreamID]verdict{}
	}
	c.verdicts[id] = v
	c.mu.Unlock()
}

// sentence takes the verdict on a request; nil for nearly all.
func (c *Conn) sentence(id quic.StreamID) *reason.Reason {
	c.mu.Lock()
	v, ok := c.verdicts[id]
	delete(c.verdicts, id)
	c.mu.Unlock()
	if ok {
		c.malformed(v.why, v.method, v.target)
	}
	return v.why
}

func (c *Conn) malformed(why *reason.Reason, method, target string) {
	if f := c.server.settings.Load().Malformed; f != nil {
		f(why, c.Peer(), method, target)
	}
}

// judge says why quic-go refuses a request with these fields; nil if it does
// not. It follows RFC 9114 4.2 and 4.3, as quic-go does, no more and no less:
// what is stricter is lax's, or Handler's. block is the compressed length.
func judge(fields []qlog.HeaderField, block, limit int) (r requestFields, why *reason.Reason) {
	if block > limit {
		return r, reason.HeadTooLarge
	}
	size := 0
	for _, f := range fields {
		if size += len(f.Name) + len(f.Value) + 32; size > limit {
			return r, reason.HeadTooLarge
		}
		if why := r.take(f.Name, f.Value); why != nil {
			return r, why
		}
	}
	return r, r.check()
}

// lax says what is wrong with a head that quic-go is content with, and of which
// Handler cannot see it any more.
func (r *requestFields) lax() *reason.Reason {
	switch {
	case r.scheme != "https" && r.scheme != "http" && (r.method != "CONNECT" || r.hasProtocol): // RFC 9114, 4.3.1: it must be there
		return reason.BadPseudoHeader
	case r.lengths > 1, r.lengths == 1 && r.length == "":
		return reason.BadContentLength
	}
	return nil
}

// requestFields is what a head has been seen to have.
type requestFields struct {
	method, scheme, authority, path    string
	protocol                           string
	hasMethod, hasScheme, hasAuthority bool
	hasPath, hasProtocol, regular      bool
	host                               string
	hosts                              int
	length                             string
	lengths                            int
}

func (r *requestFields) take(name, value string) *reason.Reason {
	plain := strings.TrimPrefix(name, ":")
	switch {
	case strings.ToLower(name) != name:
		return reason.BadHeaderName
	case !httpguts.ValidHeaderFieldValue(value):
		return reason.BadHeaderValue
	case !httpguts.ValidHeaderFieldName(plain):
		return reason.BadHeaderName
	case plain != name:
		return r.pseudo(name, value)
	}
	r.regular = true
	switch name {
	case "connection", "keep-alive", "proxy-connection", "upgrade":
		return reason.ConnectionHeader
	case "transfer-encoding":
		return reason.ConnectionHeader
	case "te":
		if value != "trailers" {
			return reason.ConnectionHeader
		}
	case "host":
		r.hosts++
		r.host = value
	case "content-length":
		if r.lengths > 0 && r.length != value {
			return reason.BadContentLength
		}
		r.length = value
		r.lengths++
	}
	return nil
}

func (r *requestFields) pseudo(name, value string) *reason.Reason {
	if r.regular {
		return reason.BadPseudoHeader
	}
	var seen *bool
	switch name {
	case ":method":
		r.method, seen = value, &r.hasMethod
	case ":scheme":
		r.scheme, seen = strings.ToLower(value), &r.hasScheme
	case ":authority":
		r.authority, seen = value, &r.hasAuthority
	case ":path":
		r.path, seen = value, &r.hasPath
	case ":protocol":
		r.protocol, seen = value, &r.hasProtocol
	default:
		return reason.BadPseudoHeader
	}
	if *seen {
		return reason.BadPseudoHeader
	}
	*seen = true
	return nil
}

// check holds the fields against each other.
func (r *requestFields) check() *reason.Reason {
	web := r.scheme == "http" || r.scheme == "https"
	authority := r.authority
	connect := r.method == "CONNECT"
	if !connect && !r.hasAuthority && web {
		authority = r.host
	}
	switch {
	case !isLength(r.length):
		return reason.BadContentLength
	case !r.hasMethod:
		return reason.BadPseudoHeader
	case !httpguts.ValidHeaderFieldName(r.method):
		return reason.BadMethod
	case r.hosts > 1:
		return reason.BadHost
	case r.hasAuthority && r.hosts > 0 && r.authority != r.host:
		return reason.AuthorityDiffers
	case web && strings.Contains(authority, "@"):
		return reason.BadHost
	case connect && r.hasProtocol:
		return r.checkExtended()
	case connect && (r.hasScheme || r.hasPath):
		return reason.BadPseudoHeader
	case connect:
		if authority == "" {
			return reason.MethodRefused
		}
		return nil
	case r.hasProtocol, r.path == "":
		return reason.BadPseudoHeader
	case authority == "":
		return reason.BadHost
	case !strings.HasPrefix(r.path, "/") && (r.method != "OPTIONS" || r.path != "*"), !parses(r.path):
		return reason.BadTarget
	}
	return nil
}

// checkExtended is check for a CONNECT that names a protocol (RFC 9220).
func (r *requestFields) checkExtended() *reason.Reason {
	switch {
	case r.scheme == "", r.path == "":
		return reason.BadPseudoHeader
	case !httpguts.ValidHeaderFieldName(r.protocol):
		return reason.ProtocolRefused
	case r.authority == "":
		return reason.BadHost
	case !strings.HasPrefix(r.path, "/"), !parses(r.path):
		return reason.BadTarget
	}
	return nil
}

// isLength and parses say what quic-go takes for a length and a path.
func isLength(s string) bool {
	_, err := strconv.ParseUint(s, 10, 63)
	return s == "" || err == nil
}

func parses(path string) bool {
	_, err := url.ParseRequestURI(path)
	return err == nil
}
