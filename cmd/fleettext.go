package cmd

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/fleet"
	"github.com/gatehouse-proxy/gatehouse/control/revision"
	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// wrongFleet adds what is wrong with this node's membership and with others.
func (s *status) wrongFleet(add func(format string, args ...any), now time.Time) {
	f := s.Fleet
	if !f.Store.Up {
		add("store: does not answer since %s: %s", stamp(f.Store.Since), f.Store.Error)
	}
	if f.Store.Up && f.Store.WriteError != "" {
		add("store: answers, but cannot be written to since %s: %s", stamp(f.Store.WriteErrorSince), f.Store.WriteError)
	}
	if f.Error != "" {
		serves := "nothing serves"
		if f.Revision > 0 {
			serves = fmt.Sprintf("revision %d serves", f.Revision)
		}
		if f.Refused == 0 {
			add("revision: which is the newest cannot be read, %s: %s", serves, f.Error)
		} else {
			add("revision %d: refused %s, %s: %s", f.Refused, ago(f.ErrorAt, now), serves, f.Error)
		}
	}
	for _, a := range s.Alerts {
		since := ""
		switch a.Kind {
		case "behind":
			since = ", for " + span(now.Sub(a.Since))
		case "silent":
			since = ", " + ago(a.Since, now)
		}
		switch {
		case a.Node == "":
			add("fleet: %s", a.Text)
		case a.Node != s.Node || a.Kind != "refusing": // of this one it is said above
			add("node %s: %s%s", a.Node, a.Text, since)
		}
	}
}

func (s *status) printRevision(w io.Writer, now time.Time) {
	f := s.Fleet
	if f == nil {
		return
	}
	switch {
	case f.Revision == 0:
		fmt.Fprintln(w, "revision     none")
	case f.FromDisk:
		fmt.Fprintf(w, "revision     %d, from disk: the store has not confirmed it yet\n", f.Revision)
	default:
		fmt.Fprintf(w, "revision     %d by %s, %s: %s\n", f.Revision, orNobody(f.Author), ago(f.Published, now), oneLine(f.Message))
	}
	state := "answers"
	if !f.Store.Up {
		state = "does not answer"
	}
	fmt.Fprintf(w, "store        %s\n", state)
	if f.Key != "" {
		id := ""
		if public, err := revision.ParsePublicKey(f.Key); err == nil {
			id = fmt.Sprintf(" (key %q)", public.ID()) // so a refusal calls it
		}
		fmt.Fprintf(w, "key          %s%s\n", f.Key, id)
	}
}

func orNobody(author string) string {
	if author == "" {
		return "nobody"
	}
	return oneLine(author)
}

// oneLine is a text of others for one line of a table.
func oneLine(s string) string {
	first, rest, more := strings.Cut(strings.TrimSpace(s), "\n")
	if more && strings.TrimSpace(rest) != "" {
		first += " …"
	}
	return visible(strings.ReplaceAll(first, "\t", " "))
}

func (s *status) printNodes(w io.Writer, now time.Time) {
	if len(s.Nodes) > 0 {
		fmt.Fprintln(w)
		printNodes(w, s.Nodes, now)
	}
}

func printNodes(w io.Writer, nodes []fleet.Member, now time.Time) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tROLE\tZONE\tVERSION\tREVISION\tAGE\tLAST ERROR")
	for _, n := range nodes {
		number, age, trouble := "none", "-", "-"
		if n.File {
			number = "file"
		}
		if n.Revision > 0 {
			// By its own clock, which may differ from ours.
			number, age = fmt.Sprint(n.Revision), span(n.Time.Sub(n.Since))
		}
		if n.Error != "" {
			trouble = oneLine(n.Error)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", oneLine(n.Node), orDash(n.Role), orDash(n.Zone), orDash(n.Version), number, age, trouble)
	}
	_ = t.Flush() // nobody is left to tell
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return oneLine(s)
}

func printHistory(w io.Writer, list []store.Revision) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "REVISION\tTIME\tAUTHOR\tDIGEST\tMESSAGE")
	for _, r := range list {
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\n", r.Number, stamp(r.Time), orNobody(r.Author), oneLine(r.Digest[:min(12, len(r.Digest))]), oneLine(r.Message))
	}
	_ = t.Flush() // nobody is left to tell
}

// marks begin the lines of a plan.
var marks = map[string]string{"added": "+", "changed": "~", "removed": "-"}

func printPlan(w io.Writer, p *fleet.Plan, text bool) {
	against := fmt.Sprintf("revision %d", p.Revision)
	if p.Revision == 0 {
		against = "nothing: there is no revision yet"
	}
	fmt.Fprintf(w, "compared with %s\n", against)
	for _, c := range p.Changes {
		name := c.Kind
		if c.Name != "" {
			name += "." + c.Name
		}
		fmt.Fprintf(w, "  %s %s\n", marks[c.What], oneLine(name))
	}
	switch {
	case len(p.Changes) == 0 && p.Diff == "":
		fmt.Fprintln(w, "nothing would change")
	case len(p.Changes) == 0:
		fmt.Fprintln(w, "only the text would change, not what it means to the node that was asked")
	}
	if text && p.Diff != "" {
		fmt.Fprintf(w, "\n%s", printable(p.Diff))
	}
}
