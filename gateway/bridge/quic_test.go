package bridge_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/gatehouse-proxy/gatehouse/gateway/bridge"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

// quicServer serves HTTP/3 until the test ends.
type quicServer struct {
	t      *testing.T
	ca     *tlstest.Authority
	addr   string
	bridge *bridge.Bridge
	ending atomic.Bool
	floods atomic.Int32
}

func startQUIC(t *testing.T, s bridge.Settings) *quicServer {
	t.Helper()
	q := &quicServer{t: t, ca: tlstest.NewAuthority(t), bridge: bridge.New(s)}
	cert := q.ca.Issue(t, tlstest.Request{Names: []string{"a.test"}}).TLS(t)
	ln, err := quic.ListenAddr("127.0.0.1:0", http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{cert}}), patient())
	if err != nil {
		t.Fatal(err)
	}
	q.addr = ln.Addr().String()
	srv := &http3.Server{Handler: q.bridge, MaxHeaderBytes: 1 << 20, ConnContext: func(ctx context.Context, c *quic.Conn) context.Context {
		return bridge.NewContext(ctx, &bridge.Conn{
			Face:    exchange.Face{Local: &net.TCPAddr{Port: 1}, Remote: &net.TCPAddr{Port: 2}},
			Flooded: func() { q.floods.Add(1) }, Ending: q.ending.Load,
		})
	}}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept(context.Background())
			if err != nil {
				return
			}
			serving.Go(func() { _ = srv.ServeQUICConn(c) })
			t.Cleanup(func() { _ = c.CloseWithError(0x100, "") })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		serving.Wait()
		if err := q.bridge.Close(); err != nil {
			t.Error(err)
		}
	})
	return q
}

// patient are settings under which a slow machine gives nothing up.
func patient() *quic.Config {
	return &quic.Config{HandshakeIdleTimeout: 30 * time.Second, MaxIdleTimeout: time.Minute, InitialStreamReceiveWindow: 16 << 10, MaxStreamReceiveWindow: 16 << 10}
}

func (q *quicServer) dial() *quic.Conn {
	q.t.Helper()
	c, err := quic.DialAddr(q.t.Context(), q.addr, &tls.Config{ServerName: "a.test", RootCAs: q.ca.Pool(), NextProtos: []string{"h3"}}, patient())
	if err != nil {
		q.t.Fatal(err)
	}
	q.t.Cleanup(func() { _ = c.CloseWithError(0x100, "") })
	return c
}

func (q *quicServer) client() *http3.ClientConn {
	q.t.Helper()
	c := new(http3.Transport).NewClientConn(q.dial())
	<-c.ReceivedSettings()
	if !c.Settings().EnableExtendedConnect {
		q.t.Fatal("it is not offered")
	}
	return c
}

// connect is an extended CONNECT for a WebSocket.
func connect() *http.Request {
	return &http.Request{
		Method: http.MethodConnect, Proto: "websocket", Host: "a.test",
		URL: &url.URL{Scheme: "https", Host: "a.test", Path: "/chat"}, Header: http.Header{"Sec-Websocket-Version": {"13"}},
	}
}

// send opens a stream with r on it.
func (q *quicServer) send(c *http3.ClientConn, r *http.Request) *http3.RequestStream {
	q.t.Helper()
	s, err := c.OpenRequestStream(q.t.Context())
	if err != nil {
		q.t.Fatal(err)
	}
	_ = s.SetDeadline(time.Now().Add(time.Minute))
	if err := s.SendRequestHeader(r); err != nil {
		q.t.Fatal(err)
	}
	return s
}

// open is send, and the reply's head.
func (q *quicServer) open(c *http3.ClientConn, r *http.Request) (*http3.RequestStream, *http.Response) {
	q.t.Helper()
	s := q.send(c, r)
	resp, err := s.ReadResponse()
	if err != nil {
		q.t.Fatal(err)
	}
	return s, resp
}

// requestHead is a HEADERS frame.
func requestHead(r *http.Request) []byte {
	var block bytes.Buffer
	e := qpack.NewEncoder(&block)
	field := func(name, value string) { _ = e.WriteField(qpack.HeaderField{Name: name, Value: value}) } // to memory
	field(":method", r.Method)
	field(":authority", r.Host)
	if r.URL.Path != "" {
		field(":scheme", r.URL.Scheme)
		field(":path", r.URL.Path)
	}
	if r.Proto != "" {
		field(":protocol", r.Proto)
	}
	for name, values := range r.Header {
		field(strings.ToLower(name), values[0])
	}
	return frame(1, block.Bytes())
}

// frame is an HTTP/3 frame.
func frame(kind uint64, payload []byte) []byte {
	return append(quicvarint.Append(quicvarint.Append(nil, kind), uint64(len(payload))), payload...)
}

// rawStream is a stream on which frames are written by hand.
func (q *quicServer) rawStream(first []byte) *quic.Stream {
	q.t.Helper()
	c := q.dial()
	control, err := c.OpenUniStream()
	if err != nil {
		q.t.Fatal(err)
	}
	_, _ = control.Write([]byte{0, 4, 0}) // SETTINGS, empty; an error shows below
	s, err := c.OpenStreamSync(q.t.Context())
	if err != nil {
		q.t.Fatal(err)
	}
	_ = s.SetDeadline(time.Now().Add(time.Minute))
	if _, err := s.Write(first); err != nil {
		q.t.Fatal(err)
	}
	return s
}

// raw is the status and the body of the reply to a head written by hand.
func (q *quicServer) raw(head []byte) (status, body string) {
	q.t.Helper()
	s := q.rawStream(head)
	r := quicvarint.NewReader(s)
	for {
		kind, err := quicvarint.Read(r)
		if err == io.EOF {
			return status, body
		}
		n, err2 := quicvarint.Read(r)
		payload := make([]byte, n)
		_, err3 := io.ReadFull(r, payload)
		if err := errors.Join(err, err2, err3); err != nil {
			q.t.Fatal(err)
		}
		if kind == 0 {
			body += string(payload)
			continue
		}
		next := qpack.NewDecoder().Decode(payload)
		for f, err := next(); err == nil; f, err = next() {
			if f.Name == ":status" {
				status = f.Value
			}
		}
	}
}
