package gateway_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/gateway"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/grpc"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/telemetry/accesslog"
)

// TestCallsAreFoundAndTakenDown: dispatch finds out what is a gRPC call, and
// its status gets into the log and the metrics.
func TestCallsAreFoundAndTakenDown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	log, err := accesslog.Open(accesslog.Settings{Path: path, Format: "json", Sample: 1})
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, func(s *gateway.Settings) { s.AccessLog = log })
	route := chain("shop", func(c *fiber.Ctx) error {
		e := exchange.From(c)
		switch string(c.Request().Header.Peek("X-Case")) {
		case "refused":
			return reason.RateLimited
		case "trailers":
			e.Upstream.Status = 200
			e.NoteTrailers([]byte("grpc-status: 5\r\ngrpc-message: not%20here\r\n"))
		case "http":
			e.Upstream.Status = 502
			c.Status(502)
		case "kind":
			return c.SendString(string('0' + byte(e.RPC.Kind)))
		}
		return nil
	})
	route.Recorder = n.metrics.Route("shop")
	n.swap(t, snap(listener(t, "web", at("", "/", route))))
	call := func(kind, what string, fields ...string) (status int, body string) {
		return get(t, "POST", n.url(t, "web")+"/s.S/M", append(fields, "Content-Type: "+kind, "X-Case: "+what)...)
	}
	for kind, want := range map[string]string{"application/grpc": "0", "application/grpc-web": "2", "application/grpc-web-text": "3", "text/plain": "0"} {
		if _, got := call(kind, "kind"); got != want {
			t.Errorf("%s: kind %s, want %s", kind, got, want)
		}
	}
	for _, what := range []string{"refused", "trailers", "http"} {
		call("application/grpc-web+proto", what)
	}
	status, body := call("application/grpc-web", "late", "Grpc-Timeout: soon")
	if status != 200 || !strings.Contains(body, "grpc-status:13\r\n") || !strings.Contains(body, "bad_grpc_timeout") {
		t.Errorf("a bad timeout: %d %q", status, body)
	}
	if err := n.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := log.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"grpc_status":"RESOURCE_EXHAUSTED","grpc_message":"Too many requests. (reason rate_limited)"`,
		`"grpc_status":"NOT_FOUND","grpc_message":"not here"`,
		`"status":502,"bytes_in":0,"bytes_out":0,"grpc_status":"UNAVAILABLE"`,
		`"reason":"bad_grpc_timeout"`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s is missing in\n%s", want, text)
		}
	}
	for name, want := range map[string]string{
		"RESOURCE_EXHAUSTED": "1", "NOT_FOUND": "1", "UNAVAILABLE": "1", "NONE": "2",
	} {
		if got := n.metric(t, "gatehouse_route_grpc_calls_total "+name+" shop"); got != want {
			t.Errorf("%s: %s calls, want %s", name, got, want)
		}
	}
}

// The names in the metric are gRPC's.
func TestCallsHaveTheSameNamesEverywhere(t *testing.T) {
	n := newNode(t)
	r := n.metrics.Route("all")
	r.Record(200, 0, 0, 0)
	for c := range grpc.Code(grpc.Codes) {
		r.RecordCall(uint8(c), true)
	}
	for c := range grpc.Code(grpc.Codes) {
		if got := n.metric(t, "gatehouse_route_grpc_calls_total "+c.String()+" all"); got != "1" {
			t.Errorf("%v: %s", c, got)
		}
	}
	n.swap(t, snap())
}
