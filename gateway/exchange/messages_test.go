package exchange_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

func TestMessagesAreFollowed(t *testing.T) {
	const hello, empty = "\x00\x00\x00\x00\x05hello", "\x01\x00\x00\x00\x00"
	for body, want := range map[string]error{
		"":                             nil,
		hello + empty + hello:          nil,
		hello + "\x00\x00\x00\x00\x06": reason.BodyTooLarge,
		hello[:7]:                      reason.BadGRPCMessage,
		`{"a":1}`:                      reason.BadGRPCMessage,
	} {
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"as it comes":    func(r io.Reader) io.Reader { return r },
			"byte by byte":   iotest.OneByteReader,
			"end with data":  iotest.DataErrReader,
			"already in one": nil,
		} {
			ctx := new(fasthttp.RequestCtx)
			if wrap != nil {
				ctx.Request.SetBodyStream(wrap(strings.NewReader(body)), -1)
			} else {
				ctx.Request.SetBodyString(body)
			}
			err := exchange.FollowMessages(ctx, 5)
			got := ""
			if err == nil && wrap != nil {
				var b []byte
				b, err = io.ReadAll(ctx.Request.BodyStream())
				got = string(b)
			} else if err == nil {
				got = string(ctx.Request.Body())
			}
			if !errors.Is(err, want) || want == nil && (err != nil || got != body) {
				t.Errorf("%q %s: %q, %v, want %v", body, name, got, err, want)
			}
		}
	}
}
