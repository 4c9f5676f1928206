package upstream

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// overheard is a connection that remembers what was said first and how it
// ended: of that the HTTP/2 client tells only that something went wrong.
type overheard struct {
	net.Conn
	turn sync.Mutex // held while reading: by the client, then by explain

	mu    sync.Mutex // guards what follows
	begin []byte     // at most len(http1Reply)
	err   error      // how reading ended; a deadline is no end
}

const http1Reply = "HTTP/1."

// Read implements net.Conn.
func (o *overheard) Read(p []byte) (int, error) {
	o.turn.Lock()
	defer o.turn.Unlock()
	n, err := o.Conn.Read(p)
	o.mu.Lock()
	defer o.mu.Unlock()
	if missing := len(http1Reply) - len(o.begin); missing > 0 {
		o.begin = append(o.begin, p[:min(n, missing)]...)
	}
	if err != nil && o.err == nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		o.err = err
	}
	return n, err
}

// said is what is known.
func (o *overheard) said() (begin string, end error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.begin), o.err
}

// Close implements net.Conn for the client, which has given up. Whoever has
// dialed closes the connection.
func (*overheard) Close() error { return nil }

// lastWords is how long an endpoint that has broken off may take to say why.
const lastWords = 50 * time.Millisecond

// hearOut reads what the endpoint has still said. It begins twice with an
// endpoint that has said nothing, since on a machine that stalls the time may be
// over before anything is read.
func (o *overheard) hearOut() (begin string, end error) {
	var b [512]byte
	for range 2 {
		_ = o.SetReadDeadline(time.Now().Add(lastWords)) // fails only where reading does
		for err := error(nil); err == nil; {
			if begin, end = o.said(); end != nil {
				return begin, end
			}
			_, err = o.Read(b[:])
		}
		if begin, end = o.said(); begin != "" {
			break
		}
	}
	return begin, end
}

// explain finds out why the client failed with err.
func (o *overheard) explain(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) { // nobody wants to know
		return shortError(ctx, err)
	}
	begin, cause := o.hearOut()
	switch {
	case errors.Is(cause, reason.UpstreamTLS):
		return cause
	case begin == http1Reply:
		return errors.New("the endpoint speaks HTTP/1.1, not HTTP/2")
	case errors.Is(cause, io.EOF):
		err = cause
	}
	return shortError(ctx, err)
}

// interrupt ends all reading and writing on c when ctx does, but leaves it open:
// what has come by then can still be read. The function it returns takes that
// back; when it has returned, nothing is interrupted any more.
func interrupt(ctx context.Context, c net.Conn) (stop func()) {
	done := make(chan struct{})
	off := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = c.SetDeadline(time.Unix(1, 0)) // fails only where there is nothing to interrupt
	})
	return func() {
		if !off() {
			<-done
		}
	}
}

// roundTrip sends one request by HTTP/2. The reply's body must be closed; it ends
// with ctx.
func roundTrip(ctx context.Context, c net.Conn, r *http.Request) (*http.Response, error) {
	r.URL.Scheme = "http"
	if _, secure := protocolOf(c); secure {
		r.URL.Scheme = "https"
	}
	r.Header.Set("User-Agent", "gatehouse-health")
	o := &overheard{Conn: c}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true) // encrypted or not is settled by now
	t := &http.Transport{
		Protocols: protocols, DisableCompression: true, MaxResponseHeaderBytes: maxProbeReply,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return o, nil },
	}
	stop := interrupt(ctx, c)
	var reply *http.Response
	cc, err := t.NewClientConn(ctx, "http", r.URL.Host)
	if err == nil {
		reply, err = cc.RoundTrip(r.WithContext(ctx))
	}
	stop()
	if err != nil {
		return nil, o.explain(ctx, err)
	}
	return reply, nil
}

func (p *httpProber) probeHTTP2(ctx context.Context, c net.Conn, address string) error {
	u, err := url.ParseRequestURI(p.settings.Path)
	if err != nil {
		return err
	}
	u.Host = address
	reply, err := roundTrip(ctx, c, &http.Request{Method: http.MethodGet, URL: u, Host: p.settings.Host, Header: http.Header{"Accept": {"*/*"}}})
	if err != nil {
		return err
	}
	_ = reply.Body.Close() // the connection goes with it
	return p.judge(reply.StatusCode)
}

// grpcProber asks the health service of gRPC
// (github.com/grpc/grpc/blob/master/doc/health-checking.md).
type grpcProber struct {
	service string
	dial    dialFunc
}

func (p *grpcProber) probe(ctx context.Context, address string) error {
	c, err := p.dial(ctx, "tcp", address)
	if err != nil {
		return shortError(ctx, err)
	}
	defer c.Close()
	message := appendHealthRequest(nil, p.service)
	reply, err := roundTrip(ctx, c, &http.Request{
		Method: http.MethodPost, URL: &url.URL{Host: address, Path: "/grpc.health.v1.Health/Check"},
		Header: http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}},
		Body:   io.NopCloser(bytes.NewReader(message)), ContentLength: int64(len(message)),
	})
	if err != nil {
		return err
	}
	defer reply.Body.Close() //nolint:errcheck // nothing was written
	body, err := io.ReadAll(io.LimitReader(reply.Body, maxProbeReply))
	if err != nil {
		return shortError(ctx, err)
	}
	return p.judge(reply, body)
}

// judge tells what is wrong in the words of gRPC.
func (p *grpcProber) judge(reply *http.Response, body []byte) error {
	if reply.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", reply.StatusCode)
	}
	if t := reply.Header.Get("Content-Type"); !strings.HasPrefix(t, "application/grpc") {
		return fmt.Errorf("the reply is not gRPC but %q", t)
	}
	status := reply.Trailer.Get("Grpc-Status")
	message := reply.Trailer.Get("Grpc-Message")
	if status == "" { // a reply without a message has everything in its head
		status, message = reply.Header.Get("Grpc-Status"), reply.Header.Get("Grpc-Message")
	}
	switch status {
	case "0":
		return judgeHealth(body)
	case "":
		return errors.New("the reply has no grpc-status")
	case "5": // NOT_FOUND
		return fmt.Errorf("the endpoint's health service does not know the service %q", p.service)
	case "12": // UNIMPLEMENTED
		return errors.New("the endpoint does not implement grpc.health.v1.Health")
	}
	if text, err := url.PathUnescape(message); err == nil {
		message = text
	}
	return fmt.Errorf("grpc-status %s: %s", status, strconv.Quote(message))
}

// appendHealthRequest is a grpc.health.v1.HealthCheckRequest in its frame.
func appendHealthRequest(b []byte, service string) []byte {
	b = append(b, 0, 0, 0, 0, 0)
	if service != "" {
		b = protowire.AppendTag(b, 1, protowire.BytesType)
		b = protowire.AppendString(b, service)
	}
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-5))
	return b
}

var errHealthReply = errors.New("the reply is not a grpc.health.v1.HealthCheckResponse")

// judgeHealth reads a grpc.health.v1.HealthCheckResponse in its frame.
func judgeHealth(b []byte) error {
	if len(b) < 5 || b[0] != 0 || uint64(binary.BigEndian.Uint32(b[1:])) != uint64(len(b)-5) {
		return errHealthReply
	}
	status := uint64(0) // proto3 leaves zero out
	for b = b[5:]; len(b) > 0; {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errHealthReply
		}
		b = b[n:]
		if number == 1 && kind == protowire.VarintType {
			status, n = protowire.ConsumeVarint(b)
		} else {
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return errHealthReply
		}
		b = b[n:]
	}
	switch status {
	case 0:
		return errors.New("UNKNOWN")
	case 1: // SERVING
		return nil
	case 2:
		return errors.New("NOT_SERVING")
	case 3:
		return errors.New("SERVICE_UNKNOWN")
	}
	return errHealthReply
}
