package waf

import (
	"slices"
	"strings"
	"sync"

	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// Guard is a policy bound to a route. It never changes and is safe for
// concurrent use.
type Guard struct {
	// Policy is the policy's name, Mode "detect" or "block".
	Policy, Mode string
	// FailOpen lets requests pass when the engine fails.
	FailOpen bool
	// BodyLimit is how many bytes of a request body Body wants at most;
	// RejectOver says that a longer body is to be refused.
	BodyLimit  int
	RejectOver bool
	// ReplyLimit is how many bytes of a reply body ReplyBody wants at most.
	ReplyLimit int

	engine  *engine
	once    sync.Once
	release func() error

	// methods and types are given to each transaction rather than compiled in:
	// routes differ in them, and would else need an engine each.
	methods, types []string
	replyHead      bool     // some rule looks at reply heads
	replyTypes     []string // reply bodies to inspect; empty: none
}

func newGuard(p *plugins.WAFPolicy, route plugins.Route, replies bool) *Guard {
	g := &Guard{
		Policy: p.Name, Mode: p.Mode, FailOpen: p.FailOpen,
		BodyLimit: int(p.RequestBodyLimit),
		// In detect mode nothing is ever refused, a long body neither.
		RejectOver: p.BodyOverLimit != "inspect_prefix" && p.Mode == "block",
		ReplyLimit: int(p.ResponseBodyLimit),
		release:    func() error { return nil },
		replyHead:  replies,
	}
	if p.CRS {
		g.methods = []string{strings.Join(first(p.AllowedMethods, route.Methods, defaultMethods), " ")}
		var b strings.Builder
		for _, t := range lowered(first(p.AllowedContentTypes, defaultTypes)) {
			b.WriteString("|" + t + "| ")
		}
		g.types = []string{strings.TrimSpace(b.String())}
	}
	if p.ResponseBody {
		g.replyTypes = responseTypes(p)
	}
	return g
}

// readsReplies reports whether a policy's rules can say anything about replies:
// the CRS looks at a reply's status from paranoia level 2 on, at its body only
// if there is one to look at.
func readsReplies(p *plugins.WAFPolicy, rules []*rule) bool {
	if p.ResponseBody || p.CRS && max(p.ParanoiaLevel, p.DetectionParanoiaLevel) >= 2 {
		return true
	}
	return slices.ContainsFunc(rules, func(r *rule) bool { return r.user && r.phase >= 3 })
}

func first(lists ...[]string) []string {
	for _, l := range lists {
		if len(l) > 0 {
			return l
		}
	}
	return nil
}

// Close gives the engine back. It is safe twice.
func (g *Guard) Close() error {
	var err error
	g.once.Do(func() { err = g.release() })
	return err
}

// WantsReply reports whether the policy's rules can say anything about replies.
func (g *Guard) WantsReply() bool { return g.replyHead }

// WantsReplyBody reports whether bodies of that content type are inspected.
func (g *Guard) WantsReplyBody(contentType string) bool {
	return slices.Contains(g.replyTypes, mediaType(contentType))
}

// mediaType is the type without parameters, in lower case.
func mediaType(s string) string {
	s, _, _ = strings.Cut(s, ";")
	return strings.ToLower(strings.TrimSpace(s))
}

// ReadsBodies reports whether bodies of some replies are inspected.
func (g *Guard) ReadsBodies() bool { return len(g.replyTypes) > 0 }
