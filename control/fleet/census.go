package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/nodes"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
)

// Lag is how long a node may be behind the newest revision before that is an
// alert. Building the largest configs takes seconds.
const Lag = 10 * time.Second

// Alert is something about a node that somebody should look at.
type Alert struct {
	// Node is empty for what is not of one node.
	Node string `json:"node,omitempty"`
	// Kind is behind, refusing, from_disk, unreadable, twin, silent or versions.
	Kind string `json:"kind"`
	// Since when, by the clock of the node that tells; zero: not known.
	Since time.Time `json:"since,omitzero"`
	// Text says it in a sentence that begins after the node's name.
	Text string `json:"text"`
}

// census remembers since when nodes have been behind, by this node's own clock:
// what the clocks of others say counts for nothing.
type census struct {
	mu     sync.Mutex // guards behind
	behind map[string]time.Time
}

// states of a node, as in the metric.
func stateOf(m *nodes.Member, newest uint64) int {
	switch {
	case m.Instance == "":
		return metrics.NodeUnreadable
	case m.File:
		return metrics.NodeFile
	case m.Refused > m.Revision && m.Refused == newest:
		return metrics.NodeRefusing
	case m.Revision < newest:
		return metrics.NodeBehind
	case m.FromDisk:
		return metrics.NodeFromDisk
	}
	return metrics.NodeCurrent
}

// look takes a list of the live nodes down, and returns how many there are in
// each state and since when the one that is behind the longest has been so.
func (c *census) look(list []nodes.Member, newest uint64, now time.Time) (counts [metrics.NodeStates]int, oldest time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.behind
	c.behind = map[string]time.Time{}
	for i := range list {
		m := &list[i]
		state := stateOf(m, newest)
		counts[state]++
		if state != metrics.NodeBehind && state != metrics.NodeRefusing {
			continue
		}
		since, was := before[m.Node]
		if !was {
			since = now
		}
		c.behind[m.Node] = since
		if oldest.IsZero() || since.Before(oldest) {
			oldest = since
		}
	}
	return counts, oldest
}

func (c *census) since(node string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.behind[node]
}

// saw is called with the live nodes every few seconds.
func (f *Follower) saw(list []nodes.Member) {
	now := f.s.Now()
	f.silence.listen(list, f.s.Self.Node, now)
	counts, oldest := f.census.look(list, f.kept.newest(), now)
	lag := time.Duration(0)
	if !oldest.IsZero() {
		lag = now.Sub(oldest)
	}
	f.s.Metrics.Fleet.Nodes(counts, lag)
}

// wrote is called with what came of writing to the store, every few seconds.
func (f *Follower) wrote(err error) {
	now := f.s.Now()
	f.mu.Lock()
	s := &f.status.Store
	was := s.WriteError
	switch {
	case err == nil:
		s.WriteError, s.WriteErrorSince = "", time.Time{}
	case !s.Up || errors.Is(err, context.Canceled): // that it is away is said already
	case was == "":
		s.WriteError, s.WriteErrorSince = err.Error(), now
	}
	is := s.WriteError
	f.mu.Unlock()
	f.s.Metrics.Fleet.Writable(is == "")
	switch {
	case was == "" && is != "":
		f.s.Log.Error("the store answers, but cannot be written to: the others take this node for gone, and nothing can be published", "error", is)
	case was != "" && is == "":
		f.s.Log.Info("the store can be written to again")
	}
}

// Alerts tells what is wrong with the nodes of a list.
func (p *Publisher) Alerts(list []nodes.Member) []Alert {
	f := p.s.Follower
	now, newest := f.s.Now(), f.kept.newest()
	f.census.look(list, newest, now)
	return append(alerts(list, newest, now, f.census.since), f.silence.alerts(list, now)...)
}

func alerts(list []nodes.Member, newest uint64, now time.Time, behind func(node string) time.Time) []Alert {
	var out []Alert
	var versions []string
	for i := range list {
		m := &list[i]
		add := func(kind string, since time.Time, format string, args ...any) {
			out = append(out, Alert{m.Node, kind, since, fmt.Sprintf(format, args...)})
		}
		serves := "nothing serves"
		if m.Revision > 0 {
			serves = fmt.Sprintf("revision %d serves", m.Revision)
		}
		refused := fmt.Sprintf("revision %d refused", m.Refused)
		if m.Refused == 0 {
			refused = "which revision is the newest cannot be read"
		}
		since := behind(m.Node)
		switch stateOf(m, newest) {
		case metrics.NodeUnreadable:
			add("unreadable", time.Time{}, "%s", m.Error)
			continue
		case metrics.NodeRefusing:
			add("refusing", since, "%s, %s: %s", refused, serves, m.Error)
		case metrics.NodeBehind:
			if now.Sub(since) >= Lag {
				add("behind", since, "does not run revision %d, the newest; %s", newest, serves)
			}
		default:
			if m.Error != "" {
				add("refusing", time.Time{}, "%s, %s: %s", refused, serves, m.Error)
			}
		}
		if m.FromDisk {
			add("from_disk", time.Time{}, "runs revision %d from its disk, which the store has not confirmed", m.Revision)
		}
		if m.Twin {
			add("twin", time.Time{}, "two processes call themselves so; give each node of a fleet its own node.name")
		}
		if m.Version != "" && !slices.Contains(versions, m.Version) {
			versions = append(versions, m.Version)
		}
	}
	if len(versions) > 1 {
		slices.Sort(versions)
		out = append(out, Alert{Kind: "versions", Text: "the nodes are of different versions: " + strings.Join(versions, ", ")})
	}
	return out
}
