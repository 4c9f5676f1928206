package waf_test

import (
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/grpc"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

func post(kind, body string) string {
	return "POST /things HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: tests\r\nAccept: */*\r\nContent-Type: " + kind +
		"\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body
}

// chunked is post with the body in chunks of n bytes.
func chunked(kind, body string, n int) string {
	var b strings.Builder
	b.WriteString("POST /things HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: tests\r\nAccept: */*\r\nContent-Type: " + kind +
		"\r\nTransfer-Encoding: chunked\r\n\r\n")
	for body != "" {
		part := body[:min(n, len(body))]
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(part), part)
		body = body[len(part):]
	}
	return b.String() + "0\r\n\r\n"
}

// echo answers with the body that reached the upstream.
func echo(c *fiber.Ctx) error {
	exchange.From(c).Upstream.Status = 200
	return c.Send(c.Body())
}

func multipart(fields ...string) (kind, body string) {
	for i := 0; i < len(fields); i += 2 {
		body += "--XyZ\r\nContent-Disposition: form-data; name=\"" + fields[i] + "\"\r\n\r\n" + fields[i+1] + "\r\n"
	}
	return "multipart/form-data; boundary=XyZ", body + "--XyZ--\r\n"
}

func TestBodiesAreInspectedAndPassedOn(t *testing.T) {
	p := newInstance(t, defaultPolicy())
	kindMP, mpGood := multipart("name", "Anna", "note", "ring the bell")
	_, mpBad := multipart("name", "Anna", "note", attack)
	for _, c := range []struct{ name, kind, good, bad string }{
		{"form", "application/x-www-form-urlencoded", "name=Anna&note=ring+the+bell", "name=Anna&note=" + url.QueryEscape(attack)},
		{"json", "application/json", `{"name":"Anna","n":[1,2]}`, `{"name":{"deep":["` + attack + `"]}}`},
		{"json suffix", "application/merge-patch+json", `{"name":"Anna"}`, `{"name":"` + attack + `"}`},
		{"xml", "application/xml", "<a><b>Anna</b></a>", "<a><b>" + attack + "</b></a>"},
		{"multipart", kindMP, mpGood, mpBad},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, raw := range []string{post(c.kind, c.good), chunked(c.kind, c.good, 7)} {
				r := plugintest.Do(t, plugintest.Request{Raw: raw}, p.Handle, echo)
				passes(t, r)
				if r.Body != c.good {
					t.Fatalf("the upstream got %q, want %q", r.Body, c.good)
				}
			}
			for _, raw := range []string{post(c.kind, c.bad), chunked(c.kind, c.bad, 3)} {
				r := plugintest.Do(t, plugintest.Request{Raw: raw}, p.Handle, echo)
				refused(t, r, reason.WAFBlocked)
			}
		})
	}
}

func TestBodyThatCannotBeParsed(t *testing.T) {
	p := newInstance(t, defaultPolicy())
	for name, raw := range map[string]string{
		"json":      post("application/json", `{"a":`),
		"json end":  post("application/json", `{"a":1}}`),
		"multipart": post("multipart/form-data; boundary=XyZ", "--XyZ\r\nnot a header\r\n\r\nx\r\n--XyZ--\r\n"),
		"arguments": post("application/x-www-form-urlencoded", strings.Repeat("a=1&", 1001)),
	} {
		r, _ := send(t, p, raw)
		refused(t, r, reason.WAFBlocked)
		if r.Status != 400 {
			t.Errorf("%s: status %d", name, r.Status)
		}
	}
}

func TestBodyLimitRejects(t *testing.T) {
	pol := defaultPolicy()
	pol.RequestBodyLimit = 1024
	p := newInstance(t, pol)
	form := "application/x-www-form-urlencoded"
	full := "a=" + strings.Repeat("x", 1022)
	for _, raw := range []string{post(form, full), chunked(form, full, 100)} {
		r := plugintest.Do(t, plugintest.Request{Raw: raw}, p.Handle, echo)
		passes(t, r)
		if r.Body != full {
			t.Fatalf("%d bytes arrived", len(r.Body))
		}
	}
	for _, raw := range []string{post(form, full+"x"), chunked(form, full+"x", 100)} {
		r := plugintest.Do(t, plugintest.Request{Raw: raw}, p.Handle, echo)
		refused(t, r, reason.WAFBodyTooLarge)
	}
}

func TestBodyLimitInspectsPrefix(t *testing.T) {
	pol := defaultPolicy()
	pol.RequestBodyLimit, pol.BodyOverLimit = 1024, "inspect_prefix"
	p := newInstance(t, pol)
	tail := strings.Repeat("x", 5000)
	kindMP, mp := multipart("note", "ring the bell", "more", tail)
	_, mpBad := multipart("note", attack, "more", tail)
	for _, c := range []struct{ name, kind, good, bad string }{
		{"form", "application/x-www-form-urlencoded", "a=b&t=" + tail, "a=" + url.QueryEscape(attack) + "&t=" + tail},
		{"json", "application/json", `{"a":"b","t":"` + tail + `"}`, `{"a":"` + attack + `","t":"` + tail + `"}`},
		{"xml", "application/xml", "<a><b>c</b><t>" + tail + "</t></a>", "<a><b>" + attack + "</b><t>" + tail + "</t></a>"},
		{"multipart", kindMP, mp, mpBad},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, raw := range []string{post(c.kind, c.good), chunked(c.kind, c.good, 100)} {
				r := plugintest.Do(t, plugintest.Request{Raw: raw}, p.Handle, echo)
				passes(t, r)
				if r.Body != c.good {
					t.Fatalf("the upstream got %d bytes, want %d", len(r.Body), len(c.good))
				}
			}
			r := plugintest.Do(t, plugintest.Request{Raw: post(c.kind, c.bad)}, p.Handle, echo)
			refused(t, r, reason.WAFBlocked)
		})
	}
}

func TestBinaryBodies(t *testing.T) {
	pol := defaultPolicy()
	pol.AllowedContentTypes = []string{"application/octet-stream", "image/png", "application/protobuf"}
	p := newInstance(t, pol)
	blob := "\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + strings.Repeat("\x00&\xff=\x01' or 1=1 --", 400)
	for _, kind := range []string{"application/octet-stream", "image/png"} {
		r := plugintest.Do(t, plugintest.Request{Raw: post(kind, blob)}, p.Handle, echo)
		passes(t, r)
		if r.Body != blob {
			t.Fatal("the body has changed")
		}
	}
	// Naming a binary type is no way around the inspection of text.
	const script = "<script>alert(1)</script>"
	for _, body := range []string{
		`{"q":"` + script + `"}`, " \n[\"" + script + "\"]\x00\x00", "q=" + url.QueryEscape(attack), script,
	} {
		r := plugintest.Do(t, plugintest.Request{Raw: post("application/protobuf", body)}, p.Handle, echo)
		refused(t, r, reason.WAFBlocked)
	}
}

// A call's body is neither held nor read by the rules; what is no stream of
// messages is no call.
func TestMessagesOfACall(t *testing.T) {
	p := newInstance(t, inspecting())
	messages := strings.Repeat("\x00\x00\x00\x00\x20"+attack+strings.Repeat(" ", 32-len(attack)), 3)
	native := func(e *exchange.Exchange) { e.RPC.Kind = grpc.Native }
	held := false
	r := plugintest.Do(t, plugintest.Request{Raw: post("application/grpc", messages), Edit: native}, p.Handle, func(c *fiber.Ctx) error {
		held = exchange.From(c).Front.RequestBytes() > 0
		return echo(c)
	})
	if passes(t, r); r.Body != messages || held {
		t.Errorf("%d bytes arrived; held %v", len(r.Body), held)
	}
	r = plugintest.Do(t, plugintest.Request{Raw: post("application/grpc", `{"q":"`+attack+`"}`), Edit: native}, p.Handle, func(c *fiber.Ctx) error {
		_, err := io.ReadAll(c.Context().RequestBodyStream())
		return err
	})
	if got := string(r.Header.Peek("Grpc-Status")); got != "13" || r.Refusal.Reason != reason.BadGRPCMessage {
		t.Errorf("no messages: status %q, %v", got, r.Refusal)
	}
	head := strings.Replace(post("application/grpc", messages), "/things", "/?q="+url.QueryEscape(attack), 1)
	r = plugintest.Do(t, plugintest.Request{Raw: head, Edit: native}, p.Handle, echo)
	if got := string(r.Header.Peek("Grpc-Status")); got != "7" || r.Refusal.Reason != reason.WAFBlocked {
		t.Errorf("an attack in the head: status %q, %v", got, r.Refusal)
	}
}

// Where an upstream may be spoken to in HTTP/1 there is no gRPC: a body that has
// its type, and the five bytes before each message, is read like any other.
func TestATypeOfGRPCIsNoWayToAnUpstreamOfHTTP1(t *testing.T) {
	p := newInstance(t, inspecting())
	form := "z=1&q=" + url.QueryEscape(attack) + strings.Repeat("+", 100)
	for name, body := range map[string]string{
		"framed text": "\x00\x00\x00\x00" + string(rune(len(form))) + form,
		"text":        form,
	} {
		r := plugintest.Do(t, plugintest.Request{Raw: post("application/grpc", body), Edit: func(e *exchange.Exchange) {
			e.RPC.Kind, e.Route.HTTP1 = grpc.Native, true
		}}, p.Handle, echo)
		if r.Refusal == nil || r.Refusal.Reason != reason.WAFBlocked {
			t.Errorf("%s: passed, %v", name, r.Refusal)
		}
	}
}

func TestBodyThatBreaksOffIsNotTheWAFsRefusal(t *testing.T) {
	p := newInstance(t, defaultPolicy())
	r, _ := send(t, p, strings.TrimSuffix(post("application/json", `{"a":"b"}`), `"}`))
	if r.Refusal == nil || r.Refusal.Reason == reason.WAFFailed || r.Refusal.Reason == reason.WAFBlocked {
		t.Fatalf("refusal %v", r.Refusal)
	}
}
