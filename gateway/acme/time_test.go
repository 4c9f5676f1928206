package acme_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	xacme "golang.org/x/crypto/acme"

	"github.com/gatehouse-proxy/gatehouse/gateway/acme"
)

// sullen is an authority that answers everything alike, and counts. It is asked
// without a network, so that time can be virtual.
type sullen struct {
	mu    sync.Mutex
	times []time.Time
	reply func() (*http.Response, error)
}

func (s *sullen) RoundTrip(*http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times = append(s.times, time.Now())
	return s.reply()
}

func (s *sullen) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.times)
}

func answer(status int, problem, retryAfter string) func() (*http.Response, error) {
	return func() (*http.Response, error) {
		h := http.Header{"Content-Type": {"application/problem+json"}}
		if retryAfter != "" {
			h.Set("Retry-After", retryAfter)
		}
		return &http.Response{
			StatusCode: status, Status: fmt.Sprint(status), Header: h,
			Body: io.NopCloser(strings.NewReader(`{"type":"urn:ietf:params:acme:error:` + problem + `"}`)),
		}, nil
	}
}

var errNobody = errors.New("connection refused")

// An authority is never hammered, whatever it answers: requests in a week of an
// order that always fails.
func TestAWeekOfFailures(t *testing.T) {
	for name, tc := range map[string]struct {
		reply      func() (*http.Response, error)
		most       int // requests in a week
		least      int
		gap        time.Duration // the shortest between two attempts
		kind, logs string
	}{
		"nobody there":             {func() (*http.Response, error) { return nil, errNobody }, 380, 300, 27 * time.Second, "unreachable", ""},
		"failing":                  {answer(500, "serverInternal", ""), 3 * 380, 3 * 300, time.Second, "unreachable", ""},
		"failing, and leave me be": {answer(503, "serverInternal", "86400"), 8, 6, 24 * time.Hour, "unreachable", ""},
		"refusing":                 {answer(403, "unauthorized", ""), 40, 28, 4 * time.Minute, "refused", ""},
		"limiting":                 {answer(429, "rateLimited", "172800"), 4, 3, 48 * time.Hour, "rate_limited", ""},
		"limiting, without a word": {answer(429, "rateLimited", ""), 40, 28, 4 * time.Minute, "rate_limited", ""},
		"for ever and ever":        {answer(429, "rateLimited", "99999999999"), 2, 1, 7 * 24 * time.Hour, "rate_limited", ""},
		"talking nonsense":         {answer(200, "", ""), 40, 28, 4 * time.Minute, "refused", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			synctest.Test(t, func(t *testing.T) {
				ca := &sullen{reply: tc.reply}
				c := b.source(nil)
				defer c.Close(t.Context())
				c.Through(ca)
				c.Live()
				time.Sleep(7 * 24 * time.Hour)
				synctest.Wait()
				if n := ca.asked(); n > tc.most || n < tc.least {
					t.Errorf("asked %d times in a week, want %d to %d", n, tc.least, tc.most)
				}
				for i := 1; i < len(ca.times); i++ {
					if gap := ca.times[i].Sub(ca.times[i-1]); gap < tc.gap {
						t.Fatalf("asked twice within %s", gap)
					}
				}
				s := c.Stats()
				if s.Orders[tc.kind] == 0 || s.Failed != s.Orders[tc.kind] || !s.Next.After(time.Now()) || s.FaultSince.IsZero() || s.Fault == "" {
					t.Errorf("%+v", s)
				}
				b.logged(int(s.Failed), "no certificate could be had from the authority")
			})
		})
	}
}

// A node that crashes and starts again and again does not ask more often.
func TestRestartsDoNotForgetPauses(t *testing.T) {
	b := newBench(t)
	synctest.Test(t, func(t *testing.T) {
		ca := &sullen{reply: answer(403, "unauthorized", "")}
		life := func(edit func(*acme.Settings)) {
			b.restart()
			c := b.source(edit)
			c.Through(ca)
			c.Live()
			time.Sleep(10 * time.Second)
			synctest.Wait()
			c.Close(t.Context())
		}
		for range 6 * 60 {
			life(nil)
		}
		if n := ca.asked(); n > 8 || n < 4 {
			t.Errorf("asked %d times in an hour", n)
		}
		before := ca.asked()
		life(func(s *acme.Settings) { s.Hosts = []string{"other.test"} })
		if ca.asked() == before {
			t.Error("another wish has to wait for the last one's failure")
		}
	})
}

func TestRenewalTime(t *testing.T) {
	from := time.Unix(0, 0)
	for _, life := range []time.Duration{90 * 24 * time.Hour, 6 * 24 * time.Hour, time.Hour} {
		latest, earliest := from.Add(life*2/3), from.Add(life*2/3-life/20)
		seen := map[time.Time]bool{}
		for range 100 {
			at := acme.Renewal(from, from.Add(life))
			if at.After(latest) || at.Before(earliest) {
				t.Fatalf("%s is not between %s and %s", at, earliest, latest)
			}
			seen[at] = true
		}
		if len(seen) < 50 {
			t.Errorf("%d different times: many nodes would order at once", len(seen))
		}
	}
}

func TestSeveralFailuresAreJudgedByTheGravest(t *testing.T) {
	limit := &xacme.Error{StatusCode: 429, ProblemType: "urn:ietf:params:acme:error:rateLimited", Header: http.Header{"Retry-After": {"60"}}}
	kind, wait := acme.Outcome(errors.Join(&xacme.AuthorizationError{Identifier: "a.test"}, limit))
	if kind != "rate_limited" || wait != time.Minute {
		t.Errorf("%s, %s", kind, wait)
	}
}
