package fleet

import (
	"context"
	"strings"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/control/nodes"
	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// maxMemberError bounds what a node tells of its troubles, in bytes.
const maxMemberError = 4 << 10

// Member is what a node tells the others about itself.
type Member = nodes.Member

// Members lists the live nodes by name, as nodes.List does.
func Members(ctx context.Context, s store.Values) ([]Member, error) { return nodes.List(ctx, s) }

// self is what there is to tell now.
func (f *Follower) self() Member {
	s, m := f.Status(), f.s.Self
	m.Revision, m.Digest, m.Since, m.FromDisk = s.Revision, s.Digest, s.Since, s.FromDisk
	m.Refused, m.Error, m.ErrorAt = s.Refused, cut(s.Error), s.ErrorAt
	m.Time = f.s.Now().UTC()
	return m
}

// cut keeps a text short without breaking a letter.
func cut(s string) string {
	if len(s) <= maxMemberError {
		return s
	}
	s = s[:maxMemberError]
	for !utf8.ValidString(s) && len(s) > maxMemberError-utf8.UTFMax {
		s = s[:len(s)-1]
	}
	return strings.ToValidUTF8(s, "?") + " …"
}

// Live is how many nodes the fleet has; see nodes.Announcer.
func (f *Follower) Live() int { return f.nodes.Live() }
