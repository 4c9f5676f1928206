package transport_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

// client is one that can go away.
type client struct{ aborter exchange.Aborter }

// OnGone implements transport.Watcher.
func (c *client) OnGone(a exchange.Aborter) { c.aborter = a }

func TestFailureIsItsReasonAndItsCause(t *testing.T) {
	cause := errors.New("broken")
	err := fmt.Errorf("try: %w", transport.Fail(reason.UpstreamReset, cause))
	var f *transport.Failure
	if !errors.As(err, &f) || !f.Unsent || f.Error() != "broken" {
		t.Errorf("got %+v", f)
	}
	if !errors.Is(err, reason.UpstreamReset) || !errors.Is(err, cause) {
		t.Error("reason or cause cannot be found")
	}
	bare := &transport.Failure{Reason: reason.UpstreamReset}
	if bare.Error() != reason.UpstreamReset.Name || !errors.Is(bare, reason.UpstreamReset) {
		t.Errorf("got %v", bare)
	}
}

func TestBodyReason(t *testing.T) {
	if r := transport.BodyReason(fmt.Errorf("read: %w", reason.BodyTooLarge)); r != reason.BodyTooLarge {
		t.Errorf("got %v", r)
	}
	if r := transport.BodyReason(errors.New("reset")); r != reason.ClientGone {
		t.Errorf("got %v", r)
	}
}

func TestWaitEnds(t *testing.T) {
	refused := errors.New("refused")
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			before func(watch *client)
			err    error
			want   *reason.Reason
			blamed bool
		}{
			"dialing fails": {func(*client) {}, refused, reason.UpstreamConnect, true},
			"too many wait": {func(*client) {}, transport.ErrOverflow, reason.UpstreamOverflow, false},
			"late":          {func(*client) { time.Sleep(time.Second) }, context.DeadlineExceeded, reason.UpstreamTimeout, false},
			"gone":          {func(c *client) { c.aborter.Abort() }, context.Canceled, reason.ClientGone, false},
		} {
			watch := &client{}
			w, err := transport.Wait(&transport.Call{Watch: watch, Deadline: time.Now().Add(time.Second)})
			if err != nil {
				t.Fatal(err)
			}
			c.before(watch)
			if over := w.Over(); over != (name == "late" || name == "gone") {
				t.Errorf("%s: over is %v", name, over)
			}
			f, blamed := w.DialFailure(c.err)
			if c.err == transport.ErrOverflow {
				f, blamed = w.Failure(c.err), false
			}
			if f.Reason != c.want || blamed != c.blamed || !f.Unsent {
				t.Errorf("%s: %v, blamed %v, unsent %v", name, f.Reason, blamed, f.Unsent)
			}
			w.End()
			if watch.aborter != nil || w.Err() == nil {
				t.Errorf("%s: it still waits", name)
			}
		}
		_, err := transport.Wait(&transport.Call{Deadline: time.Now()})
		if !errors.Is(err, reason.UpstreamTimeout) {
			t.Errorf("a call whose time was over: %v", err)
		}
	})
}
