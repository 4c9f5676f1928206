package gateway

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/grpc"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/telemetry/accesslog"
	"github.com/gatehouse-proxy/gatehouse/telemetry/trace"
)

var records = sync.Pool{New: func() any { return new(accesslog.Record) }}

// logRequest writes the access log's line of one request.
func (g *Gateway) logRequest(log *accesslog.Log, e *exchange.Exchange, status int, took time.Duration, in, out int64) {
	r := records.Get().(*accesslog.Record)
	h := &e.Ctx.Request.Header
	*r = accesslog.Record{
		Time: e.Start, Duration: took, RequestID: e.RequestID,
		Client: e.Client, Peer: e.Peer, Listener: e.Listener,
		Protocol: e.Front.Protocol(), Method: borrow(h.Method()), Scheme: e.Scheme,
		Host: e.Host, Path: e.Path, Query: e.Query,
		Status: status, BytesIn: in, BytesOut: out,
		Upstream: e.Upstream.Name, Endpoint: e.Upstream.Endpoint, Attempts: e.Upstream.Attempts,
		UpstreamStatus: e.Upstream.Status, UpstreamTook: e.Upstream.Took, Reused: e.Upstream.Reused,
		UpstreamProtocol: e.Upstream.Protocol,
		Subject:          e.Identity.Subject, Auth: e.Identity.Method,
		WAF:       accesslog.WAF{Policy: e.WAF.Policy, Mode: e.WAF.Mode, Blocked: e.WAF.Blocked, Score: e.WAF.Score, Rules: e.WAF.Rules},
		UserAgent: borrow(h.UserAgent()), Referer: borrow(h.Referer()),
		Request: h,
	}
	if e.Route != nil {
		r.Route = e.Route.Name
	}
	if t := e.TLS; t != nil {
		r.TLS = accesslog.TLS{
			Version: t.Version, Cipher: t.Cipher, ServerName: t.ServerName, Resumed: t.Resumed,
			Subject: t.Subject, SPIFFEID: t.SPIFFEID, Fingerprint: t.Fingerprint,
		}
	}
	if e.Trace.Valid() {
		at := len(e.Scratch)
		e.Scratch = hex.AppendEncode(e.Scratch, e.Trace.TraceID[:])
		r.TraceID = borrow(e.Scratch[at:])
	}
	if e.RPC.Kind != grpc.None {
		noteCall(r, e, status)
	}
	if e.Identity.Consumer != nil {
		r.Consumer = e.Identity.Consumer.Name
	}
	if f := e.Refusal; f != nil {
		r.Flags, r.Reason, r.Detail, r.Step = f.Reason.Flag, f.Reason.Name, f.Detail, e.RefusedBy
	}
	log.Write(r)
	*r = accesslog.Record{}
	records.Put(r)
}

// noteCall adds how a gRPC call ended.
func noteCall(r *accesslog.Record, e *exchange.Exchange, status int) {
	if c, known := e.RPC.Status(e.Refusal, status); known {
		r.GRPCStatus = c.String()
	}
	if m := e.RPC.Message; len(m) > 0 {
		at := len(e.Scratch)
		e.Scratch = grpc.AppendText(e.Scratch, m)
		r.GRPCMessage = borrow(e.Scratch[at:])
	}
}

// logProtocolRefusal writes the line of what was no request: as much of its
// first line as can be told.
func (g *Gateway) logProtocolRefusal(protocol string, why *reason.Reason, listener string, peer netip.AddrPort, head []byte) {
	line, _, _ := bytes.Cut(head, []byte("\n"))
	method, rest, _ := bytes.Cut(bytes.TrimRight(line, "\r"), []byte(" "))
	path, _, _ := bytes.Cut(rest, []byte(" "))
	path, query, _ := bytes.Cut(path, []byte("?"))
	g.settings.AccessLog.Write(&accesslog.Record{
		Time: time.Now(), Client: peer.Addr(), Peer: peer, Listener: listener, Protocol: protocol,
		Method: string(clip(method, 32)), Path: string(clip(path, 256)), Query: string(clip(query, 256)),
		Status: why.Status, Flags: why.Flag, Reason: why.Name, Step: "parser",
	})
}

func clip(b []byte, n int) []byte { return b[:min(len(b), n)] }

// endSpan completes the server span with what became of the request.
func endSpan(e *exchange.Exchange, status int, in, out int64) {
	r := trace.Request{
		Method: borrow(e.Ctx.Method()), Scheme: e.Scheme, Host: e.Host, Path: e.Path,
		Route: e.Route.Name, Protocol: e.Front.Protocol(),
		Client: e.Client.String(), Peer: e.Peer.Addr().String(), UserAgent: borrow(e.Ctx.UserAgent()),
		RequestID: e.RequestID, Status: status, BytesIn: in, BytesOut: out,
	}
	if e.RPC.Kind != grpc.None {
		if c, known := e.RPC.Status(e.Refusal, status); known {
			r.RPC, r.RPCStatus = "grpc", int(c)
		}
	}
	if t := e.TLS; t != nil {
		r.TLSVersion, r.TLSCipher, r.ServerName = t.Version, t.Cipher, t.ServerName
		r.ClientSubject, r.ClientFingerprint = t.Subject, t.Fingerprint
	}
	if e.Refusal != nil {
		r.Reason, r.Detail = e.Refusal.Reason.Name, e.Refusal.Detail
	}
	trace.Describe(e.Span, &r)
	e.Span.End()
}
