package proxy

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

// RetrySettings are for requests that can safely be sent again.
type RetrySettings struct {
	// Attempts after the first; 0: none.
	Attempts int
	On       RetryOn
	// BudgetPercent bounds the retries at once to a share of the upstream's
	// requests at once, those to be retried included, but to no less than 3; 0:
	// the breaker's MaxRetries does. What never reached an endpoint is not counted:
	// trying another one is no more work for the upstream.
	BudgetPercent int
	// Backoff is the first pause; it doubles, with full jitter, up to 10 times
	// itself. 0: none.
	Backoff time.Duration
	// BufferBody is how much of a request body is kept to be sent again.
	BufferBody int
	// NonIdempotent has POST, PATCH and the like sent again too.
	NonIdempotent bool
}

// RetryOn is what is worth another try.
type RetryOn struct {
	ConnectFailure, Reset, Timeout bool

	statuses [600/64 + 1]uint64
	calls    uint32 // bits by gRPC code
}

// ParseRetryOn reads the words of the config: connect_failure, reset, timeout,
// a status ("503"), a class of them ("5xx"), or a status of gRPC
// ("grpc_unavailable"). None at all means
// connect_failure and reset. The error tells all words that are not known.
func ParseRetryOn(words []string) (RetryOn, error) {
	var on RetryOn
	if len(words) == 0 {
		return RetryOn{ConnectFailure: true, Reset: true}, nil
	}
	var errs []error
	for _, w := range words {
		if strings.HasPrefix(w, "grpc_") {
			if err := on.addCall(w); err != nil {
				errs = append(errs, err)
			}
			continue
		}
		switch w {
		case "connect_failure":
			on.ConnectFailure = true
		case "reset":
			on.Reset = true
		case "timeout":
			on.Timeout = true
		default:
			from, to, ok := statusRange(w)
			if !ok {
				errs = append(errs, fmt.Errorf("%q is not known; known: connect_failure, reset, timeout, a status (503), a class (5xx), a status of gRPC (grpc_unavailable)", w))
			}
			for s := from; s <= to && ok; s++ {
				on.statuses[s/64] |= 1 << (s % 64)
			}
		}
	}
	return on, errors.Join(errs...)
}

func statusRange(w string) (from, to int, ok bool) {
	if len(w) != 3 || w[0] < '4' || w[0] > '5' {
		return 0, 0, false
	}
	from = int(w[0]-'0') * 100
	if strings.EqualFold(w[1:], "xx") {
		return from, from + 99, true
	}
	for _, c := range w[1:] {
		if c < '0' || c > '9' {
			return 0, 0, false
		}
	}
	from += int(w[1]-'0')*10 + int(w[2]-'0')
	return from, from, true
}

// Status reports whether a reply with that status is worth another try.
func (on *RetryOn) Status(s int) bool {
	return s >= 0 && s < 600 && on.statuses[s/64]&(1<<(s%64)) != 0
}

// failure reports whether such a failure is worth another try.
func (on *RetryOn) failure(f *transport.Failure) bool {
	switch f.Reason {
	case reason.UpstreamConnect, reason.UpstreamTLS:
		return on.ConnectFailure
	case reason.UpstreamReset:
		return on.Reset
	case reason.UpstreamTimeout:
		return on.Timeout
	}
	return false
}

// idempotent methods are those of RFC 9110 and of the IANA registry: sending
// them twice does what sending them once does.
func idempotent(method []byte) bool {
	switch string(method) {
	case "POST", "PATCH", "LOCK", "CONNECT", "PRI", "PURGE":
		return false
	}
	return true
}

// minRetries may always be under way, so that a quiet route can retry at all.
const minRetries = 3

// takeRetry asks the budget for another try; giveRetry returns it.
func (p *Proxy) takeRetry(up *upstream.Upstream) bool {
	if p.settings.Retries.BudgetPercent == 0 {
		return up.Breaker().TryRetry()
	}
	n := p.retrying.Add(1)
	// Those that wait for their retry are not with any endpoint now.
	allowed := max(minRetries, (up.Breaker().Requests()+n)*int64(p.settings.Retries.BudgetPercent)/100)
	if n > allowed {
		p.retrying.Add(-1)
		return false
	}
	return true
}

func (p *Proxy) giveRetry(up *upstream.Upstream) {
	if p.settings.Retries.BudgetPercent == 0 {
		up.Breaker().ReleaseRetry()
		return
	}
	p.retrying.Add(-1)
}

// backOff waits before the n-th retry: a random time up to a bound that doubles.
func (p *Proxy) backOff(e *exchange.Exchange, n int) error {
	base := p.settings.Retries.Backoff
	if base <= 0 {
		return nil
	}
	bound := min(base<<min(n-1, 10), 10*base)
	return pause(e, time.Duration(rand.Int64N(int64(bound)+1)))
}

// tee keeps what has been read of a request body, up to a limit.
type tee struct {
	kept  []byte
	limit int
	over  bool
}

// Write implements io.Writer.
func (t *tee) Write(p []byte) (int, error) {
	if t.over || len(t.kept)+len(p) > t.limit {
		t.over, t.kept = true, t.kept[:0]
		return len(p), nil
	}
	t.kept = append(t.kept, p...)
	return len(p), nil
}
