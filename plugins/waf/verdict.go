package waf

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	engine "github.com/gatehouse-proxy/gatehouse/waf"
)

// refuse carries out a verdict that is not to let the request pass.
func (i *inspection) refuse(v engine.Verdict) error {
	status := v.Status
	out := i.finish("blocked", status)
	ids := make([]string, len(out.Matches))
	for k, m := range out.Matches {
		ids[k] = strconv.Itoa(m.ID)
	}
	f := reason.WAFBlocked.Because("rules %s, score %d", strings.Join(ids, " "), max(out.Score, out.ReplyScore))
	if status != reason.WAFBlocked.Status {
		f.Status = status
	}
	switch v.Action {
	case engine.Redirect:
		i.ctx.Response.Header.Set(fasthttp.HeaderLocation, v.Location)
	case engine.Drop:
		i.e.Front.Cut()
	}
	return f
}

// failed is what happens when the engine could not inspect: nothing that is not
// inspected passes, unless the policy says so or would not block anyway.
func (i *inspection) failed(cause error) error {
	open := i.p.guard.FailOpen || i.p.guard.Mode == "detect"
	action := "failed"
	if open {
		action = "failed_open"
	}
	i.finish(action, 0)
	attrs := []any{"error", cause.Error(), "passed", open, "request_id", i.e.RequestID}
	var p *engine.PanicError
	if errors.As(cause, &p) {
		attrs = append(attrs, "stack", string(p.Stack))
	}
	i.p.log.Error("waf: a request could not be inspected", attrs...)
	if open {
		return nil
	}
	return reason.WAFFailed.Wrap(cause)
}

// finish ends the inspection, and puts down and tells what it came to. action
// is empty where no rule was in the request's way.
func (i *inspection) finish(action string, status int) engine.Outcome {
	out := i.run.End()
	p := i.p
	p.seconds.Observe(out.Took.Seconds())
	i.e.WAF.Score = out.Score
	i.e.WAF.Blocked = action == "blocked"
	i.e.WAF.Rules = engine.IDs(out.Matches)
	if action == "" {
		if len(out.Matches) == 0 {
			p.passed.Inc()
			return out
		}
		action = "matched"
		if out.Blocks {
			action = "detected"
		}
	}
	p.requests.WithLabelValues(p.route, p.guard.Policy, action).Inc()
	if len(out.Matches) > 0 {
		i.tell(action, status, &out)
	}
	return out
}

// tell sends the event.
func (i *inspection) tell(action string, status int, out *engine.Outcome) {
	p, e := i.p, i.e
	for _, m := range out.Matches {
		p.hits.WithLabelValues(strconv.Itoa(m.ID)).Inc()
	}
	ev := &engine.Event{
		Time: time.Now(), RequestID: strings.Clone(e.RequestID), Client: e.Client.String(),
		Method: string(i.ctx.Request.Header.Method()), Host: strings.Clone(e.Host), Path: strings.Clone(e.Path),
		Route: p.route, Policy: p.guard.Policy, Mode: p.guard.Mode, Action: action, Status: status,
		Score: out.Score, ReplyScore: out.ReplyScore, Matches: out.Matches,
	}
	if p.sink != nil {
		p.sink.Send(ev)
	}
	level := slog.LevelWarn
	if action == "matched" {
		level = slog.LevelDebug
	}
	if !p.log.Enabled(context.Background(), level) {
		return
	}
	skipped, ok := p.spam.allow(ev.Time)
	if !ok {
		return
	}
	p.log.Log(context.Background(), level, "waf "+action, "policy", ev.Policy, "rules", fmt.Sprint(e.WAF.Rules), "score", ev.Score,
		"client", ev.Client, "method", ev.Method, "host", ev.Host, "path", ev.Path,
		"request_id", ev.RequestID, "not_logged", skipped)
}

// perSecond bounds the lines in the node's log, per instance: an attack must
// not fill it. The event log gets everything.
const perSecond = 10

// limiter lets so many through per second. Its zero value is ready; it is safe
// for concurrent use.
type limiter struct {
	second, used, skipped atomic.Int64
}

// allow reports whether one more may pass at now, and how many could not since
// the last that could.
func (l *limiter) allow(now time.Time) (skipped int64, ok bool) {
	if s := now.Unix(); l.second.Swap(s) != s {
		l.used.Store(0)
	}
	if l.used.Add(1) > perSecond {
		l.skipped.Add(1)
		return 0, false
	}
	return l.skipped.Swap(0), true
}
