package waf

import (
	"strings"
	"time"

	"github.com/corazawaf/coraza/v3/types"
)

// Event is one request that rules had something to say about. Its text is
// masked already; it owns its strings and may be kept.
type Event struct {
	Time      time.Time
	RequestID string
	Client    string // address
	Method    string
	Host      string
	Path      string // without the query, which may hold credentials
	Route     string
	Policy    string
	Mode      string // "detect" or "block"
	// Action is "blocked", "detected" (it would have been, in block mode) or
	// "matched" (below what blocks).
	Action string
	// Status is what the client got from the WAF, 0 if it let the request pass.
	Status int
	// Score and ReplyScore are the anomaly scores.
	Score, ReplyScore int
	Matches           []Match
}

// Match is one rule that matched.
type Match struct {
	ID int
	// Phase is 1 to 5.
	Phase    int
	Message  string
	Severity string // "critical", "error", …; empty if the rule has none
	Version  string // of the rule set
	Tags     []string
	// Target is where it matched: "ARGS:q".
	Target string
	// Data is what the rule logs of the match, masked and cut.
	Data string
	// Disruptive says that this rule made the decision.
	Disruptive bool
}

// Sink takes events. Send must not block and may drop. Calls are concurrent.
type Sink interface{ Send(e *Event) }

// IDs lists the rules of matches, in order.
func IDs(matches []Match) []int {
	if len(matches) == 0 {
		return nil
	}
	ids := make([]int, len(matches))
	for i, m := range matches {
		ids[i] = m.ID
	}
	return ids
}

// newMatch copies what an event needs of a matched rule, masked: nothing of
// the transaction is kept.
func newMatch(r types.MatchedRule) Match {
	m := Match{
		ID: r.Rule().ID(), Phase: int(r.Rule().Phase()),
		Version: r.Rule().Version(), Tags: r.Rule().Tags(), Disruptive: r.Disruptive(),
	}
	if s := r.Rule().Severity(); s >= 0 {
		m.Severity = s.String()
	}
	secret := false
	for _, d := range r.MatchedDatas() {
		name, key := d.Variable().Name(), d.Key()
		if m.Target == "" && name != "TX" && name != "UNKNOWN" {
			m.Target = name
			if key != "" {
				m.Target += ":" + cut(key)
			}
		}
		secret = secret || credential(name, key)
	}
	m.Target = strings.Clone(m.Target)
	m.Message, m.Data = cut(mask(r.Message())), cut(mask(r.Data()))
	if secret && m.Data != "" {
		m.Data = hidden
	}
	return m
}
