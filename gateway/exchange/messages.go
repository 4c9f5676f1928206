package exchange

import (
	"errors"
	"io"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/grpc"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// FollowMessages lets a gRPC call's body pass, as it comes, as long as it is a
// stream of messages of at most longest bytes each; 0: of any length. It is
// what a plugin does that would hold the body of another request: a call may
// go on for hours, and its next message may be the answer to the server's last.
//
// The error, and that of reading the body, is a *reason.Refusal.
func FollowMessages(ctx *fasthttp.RequestCtx, longest int64) error {
	req := &ctx.Request
	m := &messages{scan: grpc.Scanner{Max: longest}}
	if req.IsBodyStream() {
		m.from = req.BodyStream()
		req.SetBodyStream(m, req.Header.ContentLength())
		return nil
	}
	if err := m.scan.Scan(req.Body()); err != nil {
		return m.refusal(err)
	}
	if err := m.scan.End(); err != nil {
		return m.refusal(err)
	}
	return nil
}

// messages is a request body whose frames are followed.
type messages struct {
	from io.Reader
	scan grpc.Scanner
}

// Read implements io.Reader.
func (m *messages) Read(p []byte) (int, error) {
	n, err := m.from.Read(p)
	if bad := m.scan.Scan(p[:n]); bad != nil {
		return 0, m.refusal(bad)
	}
	if err == io.EOF {
		if bad := m.scan.End(); bad != nil {
			return 0, m.refusal(bad)
		}
	}
	return n, err
}

func (m *messages) refusal(err error) error {
	if errors.Is(err, grpc.ErrTooLong) {
		return reason.BodyTooLarge.Because("a gRPC message of more than %d bytes", m.scan.Max)
	}
	return reason.BadGRPCMessage.Wrap(err)
}
