package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
)

// servers are what this program can be besides the bench: backends, and the
// proxies that people write in Go in a dozen lines.
var servers = map[string]func(l net.Listener, backend string) error{
	"reverse-proxy": serveReverseProxy,
	"grpc-backend":  serveGRPCBackend,
	"grpc-hop":      serveGRPCHop,
	"bulk":          serveBulk,
	"stream":        serveStream,
}

func serve(name, address, backend string) error {
	do := servers[name]
	if do == nil {
		return fmt.Errorf("no server is called %q", name)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	return do(l, backend)
}

// helper starts this program as one of the servers.
func (r *run) helper(ctx context.Context, name, server, backend string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	address, err := freePort()
	if err != nil {
		return nil, err
	}
	return r.start(ctx, name, address, self, "-serve", server, "-listen", address, "-backend", backend)
}

func cleartext() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	return p
}

// serveReverseProxy is net/http with httputil.ReverseProxy, HTTP/2 in clear
// text in front and HTTP/1.1 behind, with enough idle connections.
func serveReverseProxy(l net.Listener, backend string) error {
	to := &url.URL{Scheme: "http", Host: backend}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 2048, 2048
	return (&http.Server{
		Handler: &httputil.ReverseProxy{Transport: t, Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(to)
			p.SetXForwarded()
		}},
		Protocols: cleartext(),
	}).Serve(l)
}

// rawCodec passes messages as they are.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	b := v.(*mem.BufferSlice)
	b.Ref()
	return *b, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	data.Ref()
	*v.(*mem.BufferSlice) = data
	return nil
}

var _ encoding.CodecV2 = rawCodec{}

// serveGRPCBackend answers every message with itself.
func serveGRPCBackend(l net.Listener, _ string) error {
	echo := func(_ any, s grpc.ServerStream) error {
		for {
			var m mem.BufferSlice
			if err := s.RecvMsg(&m); err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
			err := s.SendMsg(&m)
			m.Free()
			if err != nil {
				return err
			}
		}
	}
	return grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(echo)).Serve(l)
}

// serveGRPCHop is the least that a proxy in grpc-go does: every call goes to the
// backend with its metadata, message by message.
func serveGRPCHop(l net.Listener, backend string) error {
	cc, err := grpc.NewClient(backend, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})))
	if err != nil {
		return err
	}
	desc := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	hop := func(_ any, s grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(s)
		ctx := s.Context()
		if md, ok := metadata.FromIncomingContext(ctx); ok {
			ctx = metadata.NewOutgoingContext(ctx, md)
		}
		out, err := grpc.NewClientStream(ctx, desc, cc, method)
		if err != nil {
			return err
		}
		up := make(chan error, 1)
		go func() { up <- relay(s.RecvMsg, out.SendMsg, out.CloseSend) }()
		head, err := out.Header()
		if err == nil {
			err = s.SendHeader(head)
		}
		if err == nil {
			err = relay(out.RecvMsg, s.SendMsg, nil)
		}
		s.SetTrailer(out.Trailer())
		return errors.Join(err, <-up)
	}
	return grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(hop)).Serve(l)
}

func relay(receive, send func(any) error, end func() error) error {
	for {
		var m mem.BufferSlice
		if err := receive(&m); err != nil {
			if !errors.Is(err, io.EOF) {
				return err
			}
			if end != nil {
				return end()
			}
			return nil
		}
		err := send(&m)
		m.Free()
		if err != nil {
			return err
		}
	}
}

// zeros is what bulk bodies consist of.
var zeros [256 << 10]byte

// serveBulk sends /N bytes, and counts what is posted.
func serveBulk(l net.Listener, _ string) error {
	return (&http.Server{Protocols: cleartext(), Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Method == http.MethodPost {
			n, err := io.Copy(io.Discard, q.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			_, _ = fmt.Fprint(w, n) // the client counts
			return
		}
		n, _ := strconv.ParseInt(q.URL.Path[1:], 10, 64)
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		for n > 0 {
			m, err := w.Write(zeros[:min(n, int64(len(zeros)))])
			if err != nil {
				return
			}
			n -= int64(m)
		}
	})}).Serve(l)
}

// serveStream is a TCP server: after a 'd' it sends without end, else it reads.
func serveStream(l net.Listener, _ string) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			var b [1]byte
			if _, err := io.ReadFull(c, b[:]); err != nil {
				return
			}
			if b[0] != 'd' {
				_, _ = io.Copy(io.Discard, c) // until the client ends it
				return
			}
			for {
				_ = c.SetWriteDeadline(time.Now().Add(time.Minute)) // fails with the write
				if _, err := c.Write(zeros[:]); err != nil {
					return
				}
			}
		}()
	}
}
