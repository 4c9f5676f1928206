package acme

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// note is what a node remembers of a failure over a restart.
type note struct {
	failures int
	at, next time.Time
	asked    bool // it was the authority that asked for the pause
}

func (s *Source) noteEntry() string { return "attempt-" + s.s.Name }

// want identifies what is being ordered: a changed wish is tried at once.
func (s *Settings) want() string {
	sum := sha256.Sum256([]byte(s.account() + "\n" + strings.Join(s.Hosts, "\n")))
	return hex.EncodeToString(sum[:8])
}

// note stores n. That it cannot be stored does not matter more than the
// failure itself.
func (s *Source) note(n note) {
	st, err := s.node.opened()
	if err != nil {
		return
	}
	text := fmt.Sprintf("%s %d %d %d %t", s.s.want(), n.failures, n.at.Unix(), n.next.Unix(), n.asked)
	if err := st.put(context.Background(), s.noteEntry(), []byte(text)); err != nil {
		s.log.Warn("a failure cannot be remembered over a restart", "error", err)
	}
}

func (s *Source) forget() {
	if st, err := s.node.opened(); err == nil {
		_ = st.cache.Delete(context.Background(), s.noteEntry()) // an old note is outdated soon
	}
}

// remember takes up the pause that a failure before the restart began.
func (s *Source) remember(ctx context.Context, st *store) {
	plain, err := st.get(ctx, s.noteEntry())
	if err != nil || plain == nil {
		return // without a note one tries at once
	}
	var want string
	var n note
	var at, next int64
	if _, err := fmt.Sscanf(string(plain), "%s %d %d %d %t", &want, &n.failures, &at, &next, &n.asked); err != nil || want != s.s.want() {
		return
	}
	n.at, n.next = time.Unix(at, 0), time.Unix(next, 0)
	until := n.next
	if soon := n.at.Add(restartPause); !n.asked && soon.Before(until) {
		until = soon
	}
	if limit := time.Now().Add(maxWait); until.After(limit) {
		until = limit // the clock was wrong then, or is now
	}
	if !time.Now().Before(until) || s.due.After(until) {
		return
	}
	s.failures = n.failures
	s.schedule(until)
	s.log.Warn("the last order failed shortly before this start; the next try is not made at once",
		"failures", n.failures, "next_try", until)
}
