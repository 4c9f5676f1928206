package exchange_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/grpc"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// spoken is a front that speaks a protocol.
type spoken struct {
	exchange.Front
	protocol string
}

func (s spoken) Protocol() string { return s.protocol }

func began(protocol, contentType string, timeouts ...string) (*exchange.Exchange, *reason.Reason) {
	ctx := new(fasthttp.RequestCtx)
	ctx.Request.Header.SetMethod("POST")
	ctx.Request.Header.SetContentType(contentType)
	for _, v := range timeouts {
		ctx.Request.Header.Add("Grpc-Timeout", v)
	}
	e := exchange.Acquire(ctx, spoken{protocol: protocol}, nil)
	return e, e.BeginRPC()
}

func TestWhatIsACall(t *testing.T) {
	for _, tc := range []struct {
		protocol, contentType string
		want                  grpc.Kind
	}{
		{"HTTP/2.0", "application/grpc", grpc.Native},
		{"HTTP/3.0", "application/grpc+json", grpc.Native},
		{"HTTP/1.1", "application/grpc", grpc.None},
		{"HTTP/1.0", "application/grpc+proto", grpc.None},
		{"HTTP/1.1", "application/grpc-web", grpc.Web},
		{"HTTP/2.0", "application/grpc-web-text", grpc.WebText},
		{"HTTP/2.0", "application/json", grpc.None},
		{"HTTP/2.0", "", grpc.None},
	} {
		if e, why := began(tc.protocol, tc.contentType); e.RPC.Kind != tc.want || why != nil {
			t.Errorf("%s %s: got %v, %v", tc.protocol, tc.contentType, e.RPC.Kind, why)
		}
	}
}

// A refused call has status 200 and no body worth the name: caches must not be
// made to keep that in the place of a page, by a type that a client adds.
func TestOnlyAPostIsACall(t *testing.T) {
	for _, method := range []string{"GET", "HEAD", "PUT", "OPTIONS"} {
		ctx := new(fasthttp.RequestCtx)
		ctx.Request.Header.SetMethod(method)
		ctx.Request.Header.SetContentType("application/grpc-web")
		ctx.Request.Header.Set("Grpc-Timeout", "rubbish")
		e := exchange.Acquire(ctx, spoken{protocol: "HTTP/2.0"}, nil)
		if why := e.BeginRPC(); why != nil || e.RPC.Kind != grpc.None {
			t.Errorf("%s: %v, %v", method, e.RPC.Kind, why)
		}
	}
}

func TestATimeoutIsADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for value, want := range map[string]time.Duration{"250m": 250 * time.Millisecond, "2S": 2 * time.Second, "0n": 0} {
			e, why := began("HTTP/2.0", "application/grpc", value)
			if why != nil || !e.RPC.Deadline.Equal(time.Now().Add(want)) || !e.Deadline.Equal(e.RPC.Deadline) {
				t.Errorf("%s: %v, %v", value, why, e.RPC.Deadline)
			}
		}
		if e, why := began("HTTP/2.0", "application/grpc", "99999999H"); why != nil || !e.Deadline.IsZero() {
			t.Errorf("for ever: %v, %v", why, e.Deadline)
		}
		if e, why := began("HTTP/1.1", "application/grpc", "rubbish"); why != nil || !e.Deadline.IsZero() {
			t.Errorf("no call: %v, %v", why, e.Deadline)
		}
		for _, bad := range [][]string{{"1"}, {"1s"}, {""}, {"1S", "1S"}, {"123456789S"}} {
			if _, why := began("HTTP/2.0", "application/grpc", bad...); why != reason.BadGRPCTimeout {
				t.Errorf("%q: %v", bad, why)
			}
		}
	})
}

func TestFindingOutAllocatesNothing(t *testing.T) {
	for _, contentType := range []string{"application/json", "application/grpc"} {
		e, _ := began("HTTP/2.0", contentType, "1S")
		if n := testing.AllocsPerRun(100, func() {
			if e.BeginRPC() != nil {
				t.Fatal("refused")
			}
		}); n != 0 && !raceEnabled {
			t.Errorf("%s: %v allocations", contentType, n)
		}
	}
}

func TestStatusIsFoundInHeadAndTrailers(t *testing.T) {
	e, _ := began("HTTP/2.0", "application/grpc")
	if _, known := e.RPC.Status(nil, 200); known {
		t.Error("a status out of nothing")
	}
	if c, known := e.RPC.Status(nil, 503); !known || c != grpc.Unavailable {
		t.Errorf("from the HTTP status: %v %v", c, known)
	}
	if c, known := e.RPC.Status(reason.From(reason.ClientGone), 200); !known || c != grpc.Cancelled {
		t.Errorf("from the refusal: %v %v", c, known)
	}
	e.NoteTrailers([]byte("X: y\r\ngrpc-status: 5\r\nGRPC-Message:  not%20here \r\nz: 1\r\n"))
	if c, known := e.RPC.Status(nil, 200); !known || c != grpc.NotFound || string(e.RPC.Message) != "not%20here" {
		t.Errorf("from trailers: %v %v %q", c, known, e.RPC.Message)
	}
	var h fasthttp.ResponseHeader
	h.Set("Grpc-Status", "14")
	h.Set("Grpc-Message", "gone")
	e.NoteHead(&h)
	if e.RPC.Code != grpc.Unavailable || string(e.RPC.Message) != "gone" {
		t.Errorf("from the head: %v %q", e.RPC.Code, e.RPC.Message)
	}
	e.NoteHead(new(fasthttp.ResponseHeader))
	if e.RPC.Known {
		t.Error("another try's status is kept")
	}
	e.NoteTrailers([]byte("grpc-status"))
	e.NoteTrailers([]byte("grpc-status: x\r\n"))
	if e.RPC.Code != grpc.Unknown {
		t.Errorf("malformed: %v", e.RPC.Code)
	}
	other, _ := began("HTTP/2.0", "text/plain")
	other.NoteTrailers([]byte("grpc-status: 5\r\n"))
	if other.RPC.Known {
		t.Error("noted for a request that is no call")
	}
}
