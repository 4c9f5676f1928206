package acme

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
)

// Outcomes of an order, for counting.
const (
	succeeded   = "success"
	unreachable = "unreachable"      // no answer, or an error of the authority's own
	limited     = "rate_limited"     // it wants to be left alone
	unproved    = "challenge_failed" // it could not see the challenge answered
	refused     = "refused"          // it does not want to, whatever the reason
	unusable    = "unusable"         // something on this side: storage, the file of authorities
	storeAway   = "store_away"       // what the nodes share cannot be had; nothing was ordered, or finished
)

var outcomes = []string{succeeded, unreachable, limited, unproved, refused, unusable, storeAway}

// failure is what an order ended with.
type failure struct {
	kind string
	text string
	// wait is for how long the authority asks to be left alone.
	wait time.Duration
}

// classify tells kinds of failure apart: they are counted and waited for
// differently. Of several, what the authority said most plainly counts.
func classify(err error) failure {
	f := failure{kind: refused, text: oneLine(err.Error())}
	var problem *acme.Error
	var proof *acme.AuthorizationError
	var asked *url.Error
	var network net.Error
	var ours *storeError
	var file *fs.PathError
	switch {
	case isAway(err):
		f.kind = storeAway
	case errors.As(err, &problem):
		f.wait = retryAfter(problem.Header)
		if _, ok := acme.RateLimit(problem); ok || problem.StatusCode == http.StatusTooManyRequests {
			f.kind = limited
		} else if problem.StatusCode >= 500 || problem.StatusCode < 400 {
			f.kind = unreachable
		}
	case errors.As(err, &proof):
		f.kind = unproved
	case errors.As(err, &ours), errors.As(err, &file), errors.Is(err, errNotOpen):
		f.kind = unusable
	case errors.As(err, &asked), errors.As(err, &network), errors.Is(err, context.DeadlineExceeded):
		f.kind = unreachable
	}
	return f
}

// maxFault bounds what an authority may have us log and show.
const maxFault = 1 << 10

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	return strings.ToValidUTF8(s[:min(len(s), maxFault)], "")
}

// maxWait is the longest that an authority is believed.
const maxWait = 7 * 24 * time.Hour

func retryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	var d time.Duration
	if n, err := strconv.Atoi(v); err == nil {
		d = time.Duration(min(n, int(maxWait/time.Second))) * time.Second
	} else if at, err := http.ParseTime(v); err == nil {
		d = time.Until(at)
	}
	return min(max(d, 0), maxWait)
}

// pauses between attempts: they double from first to longest.
type pauses struct{ first, longest time.Duration }

var (
	// whileUnreachable: asking costs an authority that is down nothing.
	whileUnreachable = pauses{30 * time.Second, 30 * time.Minute}
	// whileRefused keeps below the limit of Let's Encrypt, five failed
	// authorizations of a host in an hour.
	whileRefused = pauses{5 * time.Minute, 6 * time.Hour}
)

// restartPause is how long after a failure a restarted node waits at most, if
// the authority has not asked for more: a node that crashes and starts again and
// again must not use up the authority's limits, and whoever has mended
// something and restarts should not wait for long.
const restartPause = 15 * time.Minute

// pause is the time to wait after the n-th failure in a row, from 1.
func (p pauses) pause(n int, wait time.Duration) time.Duration {
	d := p.longest
	if shift := n - 1; shift < 16 {
		d = min(p.first<<shift, p.longest)
	}
	return max(jitter(d), wait)
}

// jitter spreads what many nodes would do at the same time.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()-0.5)*0.2*float64(d))
}

// renewal is when to replace a certificate: after two thirds of its life, and
// up to a twentieth earlier.
func renewal(from, to time.Time) time.Time {
	life := to.Sub(from)
	return from.Add(life*2/3 - time.Duration(rand.Float64()*float64(life)/20))
}

// lastResort is when a certificate is replaced although what the nodes share
// cannot be had: in the last tenth of its life, at a time that every node draws
// for itself from the first half of that. Each node that gets so far orders one.
func lastResort(from, to time.Time) time.Time {
	life := to.Sub(from)
	return to.Add(-life/10 + time.Duration(rand.Float64()*float64(life)/20))
}
