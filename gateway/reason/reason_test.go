package reason_test

import (
	"errors"
	"io"
	"regexp"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/grpc"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

func TestEveryReasonIsUsable(t *testing.T) {
	name := regexp.MustCompile(`^[a-z][a-z0-9_]{2,39}$`)
	seen := map[string]bool{}
	for _, r := range reason.All() {
		if !name.MatchString(r.Name) || seen[r.Name] {
			t.Errorf("%q: malformed or repeated name", r.Name)
		}
		seen[r.Name] = true
		if r.Status < 400 || r.Status > 599 || r.Flag == "" || r.Title == "" {
			t.Errorf("%s: status %d, flag %q, title %q", r.Name, r.Status, r.Flag, r.Title)
		}
	}
}

func TestFromKeepsReasonDetailAndCause(t *testing.T) {
	f := reason.From(reason.UpstreamReset.Wrap(io.ErrUnexpectedEOF))
	if !errors.Is(f, reason.UpstreamReset) || !errors.Is(f, io.ErrUnexpectedEOF) || f.Code() != 502 {
		t.Fatalf("got %v, code %d", f, f.Code())
	}
	if f := reason.From(reason.NoRoute); f.Reason != reason.NoRoute || f.Detail != "" {
		t.Fatalf("bare reason: %+v", f)
	}
	if f := reason.From(io.EOF); f.Reason != reason.Internal || f.Detail != "EOF" {
		t.Fatalf("foreign error: %+v", f)
	}
}

func TestRefusingWithoutDetailAllocatesNothing(t *testing.T) {
	f := reason.NoRoute.Because("x")
	if n := testing.AllocsPerRun(100, func() {
		if reason.From(reason.NoRoute).Code() != 404 || reason.From(f) != f {
			t.Fatal("another refusal")
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// What a gRPC client gets. A reason that is not here has the code its status
// stands for (grpc.ForRefusal).
func TestGRPCCodes(t *testing.T) {
	for code, reasons := range map[grpc.Code][]*reason.Reason{
		grpc.Unauthenticated:   {reason.Unauthenticated},
		grpc.PermissionDenied:  {reason.Forbidden, reason.WAFBlocked, reason.IPDenied, reason.CSRF, reason.CORSDenied, reason.ExternalDenied, reason.PluginRefused},
		grpc.ResourceExhausted: {reason.RateLimited, reason.ConcurrencyLimited, reason.BodyTooLarge, reason.WAFBodyTooLarge, reason.HeadTooLarge, reason.TooManyConnections},
		grpc.Unavailable: {
			reason.NoEndpoint, reason.UpstreamConnect, reason.UpstreamReset, reason.UpstreamOverflow, reason.Overloaded,
			reason.Draining, reason.RouteBroken, reason.Maintenance, reason.FaultAbort, reason.AuthUnavailable, reason.WAFFailed,
		},
		grpc.DeadlineExceeded: {reason.UpstreamTimeout, reason.RequestTimeout, reason.HeadTimeout, reason.BodyTimeout},
		grpc.Cancelled:        {reason.ClientGone, reason.BodyCut},
		grpc.Unimplemented:    {reason.NoRoute, reason.MethodRefused},
		grpc.Internal: {
			reason.Internal, reason.PluginPanic, reason.BadGRPCTimeout, reason.BadGRPCMessage, reason.BadHost,
			reason.AmbiguousPath, reason.UpstreamProtocol, reason.UpstreamHeadLarge,
		},
	} {
		for _, r := range reasons {
			if r.GRPC != code {
				t.Errorf("%s: got %v, want %v", r.Name, r.GRPC, code)
			}
		}
	}
	for _, r := range reason.All() {
		if r.GRPC == grpc.OK || r.GRPC == grpc.Unknown {
			t.Errorf("%s: %v", r.Name, r.GRPC)
		}
	}
	if got := reason.From(&reason.Refusal{Reason: reason.FaultAbort, Status: 429}).GRPC(); got != grpc.ResourceExhausted {
		t.Errorf("a status of the config: got %v", got)
	}
	if got := reason.From(&reason.Refusal{Reason: reason.ExternalDenied, Status: 302}).GRPC(); got != grpc.PermissionDenied {
		t.Errorf("a redirect: got %v", got)
	}
}
