package proxy

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// FaultSettings make requests wait or fail on purpose, each with its own share
// in percent, 0 to 100.
type FaultSettings struct {
	DelayPercent float64
	Delay        time.Duration
	AbortPercent float64
	// AbortStatus is 400 to 599.
	AbortStatus int
}

func (s *FaultSettings) check() error {
	if s.AbortPercent > 0 && (s.AbortStatus < 400 || s.AbortStatus > 599) {
		return errors.New("abort.status: must be 400 to 599")
	}
	return nil
}

// apply waits, then refuses, as chance will have it.
func (s *FaultSettings) apply(e *exchange.Exchange) error {
	if s.Delay > 0 && hit(s.DelayPercent) {
		if err := pause(e, s.Delay); err != nil {
			return err
		}
	}
	if hit(s.AbortPercent) {
		return &reason.Refusal{Reason: reason.FaultAbort, Status: s.AbortStatus}
	}
	return nil
}

// hit is true for percent of the calls.
func hit(percent float64) bool {
	return percent > 0 && (percent >= 100 || rand.Float64()*100 < percent)
}

// bell is an aborter that can be waited for.
type bell chan struct{}

// Abort implements exchange.Aborter.
func (b bell) Abort() { close(b) }

// pause waits for d, unless the client goes away or the time is up before.
func pause(e *exchange.Exchange, d time.Duration) error {
	late := false
	if !e.Deadline.IsZero() {
		if left := time.Until(e.Deadline); left < d {
			d, late = left, true
		}
	}
	gone := make(bell)
	e.Front.OnGone(gone)
	defer e.Front.OnGone(nil)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-gone:
		return reason.ClientGone
	case <-t.C:
		if late {
			return reason.RequestTimeout
		}
		return nil
	}
}
