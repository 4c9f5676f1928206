package cmd

import (
	"errors"
	"io/fs"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/waf"
)

// eventLog is the event log that the live config asks for, which may be none.
type eventLog struct {
	log *slog.Logger

	mu      sync.RWMutex // guards the following
	now     *waf.EventLog
	made    config.WAFEventLog // what now was made from
	dropped uint64             // by those that were closed
}

var _ waf.Sink = (*eventLog)(nil)

func newEventLog(r prometheus.Registerer, log *slog.Logger) *eventLog {
	e := &eventLog{log: log, made: config.WAFEventLog{Path: "off"}}
	r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "gatehouse_waf_events_dropped_total", Help: "Events that the event log could not take.",
	}, func() float64 {
		e.mu.RLock()
		defer e.mu.RUnlock()
		sum := e.dropped
		if e.now != nil {
			sum += e.now.Dropped()
		}
		return float64(sum)
	}))
	return e
}

// Send implements waf.Sink.
func (e *eventLog) Send(ev *waf.Event) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.now != nil {
		e.now.Send(ev)
	}
}

// prepare opens the log that a config asks for; see control.Settings.
func (e *eventLog) prepare(cfg *config.Config) (commit, undo func(), problems []problem.Problem) {
	want := cfg.WAF.EventLog
	e.mu.RLock()
	same := want == e.made
	e.mu.RUnlock()
	if same {
		return func() {}, func() {}, nil
	}
	var next *waf.EventLog
	if want.Path != "off" {
		format := waf.JSON
		if want.Format == "modsecurity" {
			format = waf.ModSecurity
		}
		var err error
		if next, err = waf.OpenEventLog(want.Path, format); err != nil {
			if where := new(fs.PathError); errors.As(err, &where) {
				err = where
			}
			return nil, nil, []problem.Problem{{Path: "waf.event_log.path", Message: err.Error()}}
		}
	}
	commit = func() {
		e.mu.Lock()
		old := e.now
		e.now, e.made = next, want
		e.mu.Unlock()
		e.end(old)
	}
	return commit, func() { e.end(next) }, nil
}

func (e *eventLog) end(l *waf.EventLog) {
	if l == nil {
		return
	}
	if err := l.Close(); err != nil {
		e.log.Error("closing the event log", "error", err)
	}
	e.mu.Lock()
	e.dropped += l.Dropped()
	e.mu.Unlock()
}

// reopen is for after a rotation.
func (e *eventLog) reopen() error {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.now == nil {
		return nil
	}
	return e.now.Reopen()
}

// close ends the log; twice is allowed.
func (e *eventLog) close() error {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.now == nil {
		return nil
	}
	return e.now.Close()
}
