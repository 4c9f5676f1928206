// Package discoverytest runs sources in tests and waits for what they report.
package discoverytest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

// Run is a source that runs until the test ends.
type Run struct {
	t    testing.TB
	stop func()

	mu      sync.Mutex // guards what follows
	last    upstream.Report
	list    string
	reports int
}

// Start runs s.
func Start(t testing.TB, s upstream.Source) *Run {
	t.Helper()
	r := &Run{t: t}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx, r.report)
	}()
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Error("the source does not end")
		}
	})
	t.Cleanup(r.stop)
	return r
}

func (r *Run) report(report upstream.Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = report
	r.reports++
	if report.Err == nil {
		r.list = Text(report)
	}
}

// Stop ends the source and waits for it.
func (r *Run) Stop() { r.stop() }

// Reports is how many there were.
func (r *Run) Reports() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reports
}

// Last is the newest report.
func (r *Run) Last() upstream.Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// List waits until the newest good list is want, as Text writes it.
func (r *Run) List(want string) {
	r.t.Helper()
	r.Until("the list "+want, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.list == want
	})
}

// Fails waits until the newest report is a failure with this in its text.
func (r *Run) Fails(want string) {
	r.t.Helper()
	r.Until("an error with "+want, func() bool {
		err := r.Last().Err
		return err != nil && strings.Contains(err.Error(), want)
	})
}

// Works waits until the newest report is a good one.
func (r *Run) Works() {
	r.t.Helper()
	r.Until("a good answer", func() bool { return r.Last().Err == nil })
}

// Until waits for up to four minutes: a source that has failed a few times takes
// a minute and a half to try again, and may fail once more.
func (r *Run) Until(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(4 * time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.t.Fatalf("waited in vain for %s; the last of %d reports: %s; the last list: %s", what, r.reports, Text(r.last), r.list)
}

// Text is a report as "ADDRESS*WEIGHT@ZONE/PRIORITY … note error", sorted, with
// what is not there left out.
func Text(r upstream.Report) string {
	var parts []string
	for _, e := range r.Endpoints {
		s := e.Address
		if e.Weight != 0 {
			s += fmt.Sprintf("*%d", e.Weight)
		}
		if e.Zone != "" {
			s += "@" + e.Zone
		}
		if e.Priority != 0 {
			s += fmt.Sprintf("/%d", e.Priority)
		}
		parts = append(parts, s)
	}
	slices.Sort(parts)
	if r.Note != "" {
		parts = append(parts, "note: "+r.Note)
	}
	if r.Err != nil {
		parts = append(parts, "error: "+r.Err.Error())
	}
	return strings.Join(parts, " ")
}
