package fleet

import (
	"context"
	"encoding/json"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

const (
	// folder of the store that has a value for each live node.
	folder = "nodes"
	// A node that has not been heard of for memberTTL is gone; it says something
	// each heartbeat.
	memberTTL = 15 * time.Second
	heartbeat = 5 * time.Second
	// maxMemberError bounds what a node tells of its troubles, in bytes.
	maxMemberError = 4 << 10
)

// Member is what a node tells the others about itself.
type Member struct {
	Node    string `json:"node"`
	Zone    string `json:"zone,omitempty"`
	Role    string `json:"role,omitempty"`
	Version string `json:"version,omitempty"`
	// Instance tells two processes of the same name apart.
	Instance string `json:"instance,omitempty"`
	// Revision that is live there, with its digest and since when.
	Revision uint64    `json:"revision"`
	Digest   string    `json:"digest,omitempty"`
	Since    time.Time `json:"since,omitzero"`
	FromDisk bool      `json:"from_disk,omitempty"`
	// Refused is the newest revision that is not run there, Error why.
	Refused uint64    `json:"refused,omitempty"`
	Error   string    `json:"error,omitempty"`
	ErrorAt time.Time `json:"error_at,omitzero"`
	// Time is when it was told, by the node's own clock.
	Time time.Time `json:"time"`
}

// Members lists the live nodes by name. What cannot be read is a member with
// an Error and without an Instance.
func Members(ctx context.Context, s store.Values) ([]Member, error) {
	values, err := s.List(ctx, folder)
	if err != nil {
		return nil, err
	}
	list := make([]Member, 0, len(values))
	for _, v := range values {
		var m Member
		if err := json.Unmarshal(v.Data, &m); err != nil || m.Node != v.Name || m.Instance == "" {
			m = Member{Node: v.Name, Error: "what the store has under this name was not written by a node"}
		}
		list = append(list, m)
	}
	return list, nil
}

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

// announce tells the others about this node, until ctx is done.
func (f *Follower) announce(ctx context.Context) {
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	twins := 0
	for {
		if f.twin(ctx) {
			if twins++; twins == 2 { // once may be ourselves before a crash
				f.s.Log.Error("another process calls itself by the same name; give each node of a fleet its own node.name", "node", f.s.Self.Node)
			}
		} else {
			twins = 0
		}
		f.put(ctx)
		for told := false; !told; {
			select {
			case <-ctx.Done():
				f.leave(ctx)
				return
			case <-tick.C:
				told = true
			case <-f.told:
				f.put(ctx)
			}
		}
	}
}

func (f *Follower) put(ctx context.Context) {
	data, err := json.Marshal(f.self())
	if err != nil {
		panic("BUG: " + err.Error())
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// That the store is away is in the log already, from asking it.
	if err := f.s.Store.Put(ctx, folder, f.s.Self.Node, data, memberTTL); err != nil {
		f.s.Log.Debug("this node could not tell the others about itself", "error", err)
	}
}

// twin is true if the last who used our name was somebody else.
func (f *Follower) twin(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	data, err := f.s.Store.Get(ctx, folder, f.s.Self.Node)
	var m Member
	return err == nil && json.Unmarshal(data, &m) == nil && m.Instance != "" && m.Instance != f.s.Self.Instance
}

// leave tells that the node is gone, so that nobody waits for it.
func (f *Follower) leave(ctx context.Context) {
	if f.twin(context.WithoutCancel(ctx)) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = f.s.Store.Delete(ctx, folder, f.s.Self.Node) // else it is forgotten in memberTTL
}
