package acme

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// note is what a node remembers of a failure over a restart, and what the nodes
// tell each other of one.
type note struct {
	failures int
	at, next time.Time
	asked    bool   // it was the authority that asked for the pause
	node     string // who met it: one life of one node
	text     string
}

func (s *Source) noteEntry() string       { return "attempt-" + s.s.Name }
func (s *Source) sharedNoteEntry() string { return "attempt-" + s.s.wish() }

// want identifies what is being ordered: a changed wish is tried at once.
func (s *Settings) want() string {
	sum := sha256.Sum256([]byte(s.account() + "\n" + strings.Join(s.Hosts, "\n")))
	return hex.EncodeToString(sum[:8])
}

func (n *note) encode(want string) []byte {
	return fmt.Appendf(nil, "%s %d %d %d %t %s\n%s", want, n.failures, n.at.Unix(), n.next.Unix(), n.asked, n.node, n.text)
}

// parseNote is false for what is no note about this wish.
func parseNote(plain []byte, want string) (n note, ok bool) {
	head, text, _ := strings.Cut(string(plain), "\n")
	var about string
	var at, next int64
	_, err := fmt.Sscanf(head, "%s %d %d %d %t %s", &about, &n.failures, &at, &next, &n.asked, &n.node)
	n.at, n.next, n.text = time.Unix(at, 0), time.Unix(next, 0), text
	return n, err == nil && about == want
}

// note stores n. That it cannot be stored does not matter more than the
// failure itself.
func (s *Source) note(n note) {
	st, err := s.node.opened()
	if err != nil {
		return
	}
	n.node = s.node.id
	ctx, plain := context.Background(), n.encode(s.s.want())
	if err := st.put(ctx, s.noteEntry(), plain); err != nil {
		s.log.Warn("a failure cannot be remembered over a restart", "error", err)
	}
	if st.shared == nil {
		return
	}
	err = ErrChanged
	for i := 0; i < 3 && errors.Is(err, ErrChanged); i++ { // the last note may end meanwhile: its pause is over
		var raw []byte
		if raw, _, err = st.fetch(ctx, s.sharedNoteEntry()); err == nil {
			err = st.share(ctx, s.sharedNoteEntry(), raw, plain, max(n.next.Sub(n.at), time.Second))
		}
	}
	if err != nil {
		s.log.Warn("the other nodes cannot be told of a failure; they may meet it as well", "error", err)
	}
}

func (s *Source) forget() {
	st, err := s.node.opened()
	if err != nil {
		return
	}
	ctx := context.Background()
	_ = st.disk.Delete(ctx, s.noteEntry()) // an old note is outdated soon
	if st.shared == nil {
		return
	}
	if raw, _, err := st.fetch(ctx, s.sharedNoteEntry()); err == nil && raw != nil {
		_ = st.shared.Replace(ctx, s.sharedNoteEntry(), raw, nil, 0) // so is this
	}
}

// remember takes up the pause that a failure before the restart began.
func (s *Source) remember(ctx context.Context, st *store) {
	plain, err := st.get(ctx, s.noteEntry())
	if err != nil || plain == nil {
		return // without a note one tries at once
	}
	n, ok := parseNote(plain, s.s.want())
	if !ok {
		return
	}
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

// pausedError says that another node has failed with the same order, and when
// to look again.
type pausedError struct {
	until time.Time
	text  string
}

// Error implements error.
func (e *pausedError) Error() string { return e.text }

// othersFailed is a *pausedError if another node has met a failure, and the pause
// after that is not over: its note is there until then, whatever the clocks say.
// The first time, a node that has just started waits no longer than it would
// after a failure of its own.
func (s *Source) othersFailed(ctx context.Context, st *store) error {
	_, plain, err := st.fetch(ctx, s.sharedNoteEntry())
	if err != nil || plain == nil {
		return err
	}
	n, ok := parseNote(plain, s.s.want())
	if !ok || n.node == s.node.id {
		return nil
	}
	now := time.Now()
	if !s.again && !n.asked && now.After(n.at.Add(restartPause)) {
		return nil
	}
	s.failures = max(s.failures, n.failures)
	until := n.next
	if late := now.Add(n.next.Sub(n.at)); until.After(late) {
		until = late // their clock is ahead
	}
	if soon := now.Add(s.shortest); until.Before(soon) {
		until = soon // ours is
	}
	return &pausedError{until, "another node has failed: " + n.text}
}

// waitWith keeps the pause of another node.
func (s *Source) waitWith(p *pausedError) {
	s.again = true
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault == "" {
		s.since = time.Now()
	}
	s.fault, s.next = oneLine(p.text), p.until
}
