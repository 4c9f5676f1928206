package e2e

import (
	"encoding/base64"
	endian "encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/proto"
)

// webReply is the reply to a gRPC-Web call as it comes.
type webReply struct {
	t    *testing.T
	resp *http.Response
	text bool
	buf  []byte // decoded and not yet used
}

// webCall makes a gRPC-Web call as a page of https://app.test.
func (g *gatehouse) webCall(t *testing.T, c *http.Client, method string, text bool, in proto.Message, header ...string) *webReply {
	t.Helper()
	payload, err := proto.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	body, kind := string(rpcFrame(payload)), "application/grpc-web+proto"
	if text {
		body, kind = base64.StdEncoding.EncodeToString([]byte(body[:5]))+base64.StdEncoding.EncodeToString([]byte(body[5:])), "application/grpc-web-text"
	}
	req, _ := http.NewRequest("POST", "http://"+g.web+"/grpc.testing.TestService/"+method, strings.NewReader(body))
	req.Header = http.Header{"Content-Type": {kind}, "Accept": {kind}, "X-Grpc-Web": {"1"}, "Origin": {"https://app.test"}}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), strings.TrimSuffix(kind, "+proto")) ||
		resp.Header.Get("Access-Control-Allow-Origin") != "https://app.test" {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	return &webReply{t: t, resp: resp, text: text}
}

// need waits for n decoded bytes and takes them.
func (r *webReply) need(n int) []byte {
	r.t.Helper()
	for len(r.buf) < n {
		if !r.text {
			b := make([]byte, n-len(r.buf))
			if _, err := io.ReadFull(r.resp.Body, b); err != nil {
				r.t.Fatal(err)
			}
			r.buf = append(r.buf, b...)
			continue
		}
		group := make([]byte, 4)
		if _, err := io.ReadFull(r.resp.Body, group); err != nil {
			r.t.Fatal(err)
		}
		b, err := base64.StdEncoding.DecodeString(string(group))
		if err != nil {
			r.t.Fatal(err)
		}
		r.buf = append(r.buf, b...)
	}
	out := r.buf[:n]
	r.buf = r.buf[n:]
	return out
}

// frame reads one frame: a message, or the trailers.
func (r *webReply) frame() (payload []byte, trailers bool) {
	r.t.Helper()
	prefix := r.need(5)
	trailers, n := prefix[0] == 0x80, int(endian.BigEndian.Uint32(prefix[1:]))
	return r.need(n), trailers
}

// end reads the trailers and the end of the body.
func (r *webReply) end() string {
	r.t.Helper()
	payload, trailers := r.frame()
	rest, err := io.ReadAll(r.resp.Body)
	if !trailers || err != nil || len(rest)+len(r.buf) > 0 {
		r.t.Fatalf("%q, then %q %q, %v", payload, r.buf, rest, err)
	}
	return "\r\n" + strings.ReplaceAll(string(payload), ": ", ":")
}

// TestGRPCWeb: a browser's calls, over HTTP/1.1 and HTTP/2, in binary and in
// base64, reach a server that knows only gRPC.
func TestGRPCWeb(t *testing.T) {
	s := newRPCServer(t, "one")
	g := start(t, rpcRoute(`    plugins:
      - cors: { origins: ["https://app.test"], methods: [POST], headers: [Content-Type, X-Grpc-Web, X-Fail, X-Hang, Grpc-Timeout, X-Key] }
      - grpc_web: { max_message: 1KiB }
      - rate_limit: { limit: 1, per: 1h, key: header.X-Key, missing_key: skip }
`, s))
	over11 := &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}
	t.Cleanup(over11.CloseIdleConnections)
	for protocol, c := range map[string]*http.Client{"HTTP/1.1": over11, "HTTP/2.0": bareHTTP2(t)} {
		for _, text := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s text %v", protocol, text), func(t *testing.T) {
				r := g.webCall(t, c, "UnaryCall", text, &pb.SimpleRequest{Payload: sized(100)})
				if r.resp.Proto != protocol {
					t.Fatalf("over %s", r.resp.Proto)
				}
				var out pb.SimpleResponse
				payload, _ := r.frame()
				if err := proto.Unmarshal(payload, &out); err != nil || out.GetUsername() != "one" || len(out.GetPayload().GetBody()) != 100 {
					t.Errorf("got %v, %v", &out, err)
				}
				if end := r.end(); !strings.Contains(end, "\r\ngrpc-status:0\r\n") || !strings.Contains(end, "\r\nx-trail:b\r\n") {
					t.Errorf("trailers %q", end)
				}

				r = g.webCall(t, c, "StreamingOutputCall", text, &pb.StreamingOutputCallRequest{ResponseParameters: []*pb.ResponseParameters{
					{}, {IntervalUs: 1}, {},
				}})
				s.next <- struct{}{}
				for i := range 3 {
					var out pb.StreamingOutputCallResponse
					payload, _ := r.frame()
					if err := proto.Unmarshal(payload, &out); err != nil || string(out.GetPayload().GetBody()) != fmt.Sprintf("message %d", i) {
						t.Errorf("message %d: %v, %v", i, &out, err)
					}
				}
				if end := r.end(); !strings.Contains(end, "\r\ngrpc-status:0\r\n") {
					t.Errorf("trailers %q", end)
				}

				for name, tc := range map[string]struct {
					header []string
					size   int
					want   string
				}{
					"status":   {[]string{"X-Fail", "5"}, 1, "\r\ngrpc-status:5\r\n"},
					"deadline": {[]string{"X-Hang", "1", "Grpc-Timeout", "200m"}, 1, "\r\ngrpc-status:4\r\n"},
					"too long": {nil, 2000, "\r\ngrpc-status:8\r\n"},
				} {
					if end := g.webCall(t, c, "UnaryCall", text, &pb.SimpleRequest{Payload: sized(tc.size)}, tc.header...).end(); !strings.Contains(end, tc.want) {
						t.Errorf("%s: trailers %q", name, end)
					}
				}
				key := []string{"X-Key", protocol + fmt.Sprint(text)}
				r = g.webCall(t, c, "UnaryCall", text, &pb.SimpleRequest{}, key...)
				r.frame()
				r.end()
				if end := g.webCall(t, c, "UnaryCall", text, &pb.SimpleRequest{}, key...).end(); !strings.Contains(end, "\r\ngrpc-status:8\r\n") || !strings.Contains(end, "rate_limited") {
					t.Errorf("refused: %q", end)
				}
			})
		}
	}
	t.Run("messages come one by one", func(t *testing.T) {
		r := g.webCall(t, over11, "StreamingOutputCall", true, &pb.StreamingOutputCallRequest{ResponseParameters: []*pb.ResponseParameters{
			{IntervalUs: 1}, {},
		}})
		r.frame() // or the client gives up
		s.next <- struct{}{}
		r.frame()
		r.end()
	})
	g.accessLine("a call by its status", func(m map[string]any) bool { return m["grpc_status"] == "NOT_FOUND" && m["protocol"] == "HTTP/1.1" })
	g.eventually("the calls are counted", func() error {
		return is(g.metric(`gatehouse_route_grpc_calls_total{grpc_status="DEADLINE_EXCEEDED",route="shop"}`), 4)
	})
}
