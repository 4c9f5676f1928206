package reason_test

import (
	"errors"
	"io"
	"regexp"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

func TestEveryReasonIsUsable(t *testing.T) {
	name := regexp.MustCompile(`^[a-z][a-z_]{2,39}$`)
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
