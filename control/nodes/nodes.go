// Package nodes is who is alive in a fleet: every node with a shared store says
// every few seconds that it is there, and lists who else does.
package nodes

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

const (
	// Folder of the store that has a value for each live node.
	Folder = "nodes"
	// TTL is how long after it was last heard of a node is gone. It says something
	// each heartbeat.
	TTL       = 15 * time.Second
	heartbeat = 5 * time.Second
	// patience is how long the store may take for one question and its answer.
	patience = 3 * time.Second
)

// Member is what a node tells the others about itself.
type Member struct {
	Node    string `json:"node"`
	Zone    string `json:"zone,omitempty"`
	Role    string `json:"role,omitempty"`
	Version string `json:"version,omitempty"`
	// Instance tells two processes of the same name apart.
	Instance string `json:"instance,omitempty"`
	// File says that its config is a file of its own: it follows no revisions.
	File bool `json:"file,omitempty"`
	// Revision that is live there, with its digest and since when; 0: none.
	Revision uint64    `json:"revision"`
	Digest   string    `json:"digest,omitempty"`
	Since    time.Time `json:"since,omitzero"`
	FromDisk bool      `json:"from_disk,omitempty"`
	// Refused is the newest revision that is not run there, Error why.
	Refused uint64    `json:"refused,omitempty"`
	Error   string    `json:"error,omitempty"`
	ErrorAt time.Time `json:"error_at,omitzero"`
	// Twin says that another process has used the same name all the while.
	Twin bool `json:"twin,omitempty"`
	// Time is when it was told, by the node's own clock.
	Time time.Time `json:"time"`
}

// List returns the live nodes by name. What cannot be read is a member with an
// Error and without an Instance.
func List(ctx context.Context, s store.Values) ([]Member, error) {
	values, err := s.List(ctx, Folder)
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

// Settings are what a node announces itself with; all are required but Seen and
// Told.
type Settings struct {
	Store store.Values
	// Self is what there is to tell now. Node and Instance never change; Node is
	// a name as store.CheckNames has it.
	Self func() Member
	// Seen is called with the live nodes, and Told with what came of telling,
	// with every heartbeat and from one goroutine; nil: nobody wants to know.
	Seen func(list []Member)
	Told func(err error)
	Log  *slog.Logger
}

// Announcer tells the others about this node, and counts them.
type Announcer struct {
	s    Settings
	told chan struct{} // there is something new to tell
	live atomic.Int64
	last [int(TTL / heartbeat)]int64 // the latest counts; only the goroutine's
	stop func()
	done sync.WaitGroup

	twins int // how often in a row somebody else had used our name; the goroutine's
}

// New returns an announcer that has told nothing yet.
func New(s Settings) *Announcer {
	return &Announcer{s: s, told: make(chan struct{}, 1), stop: func() {}}
}

// Start begins to tell, and goes on until Close.
func (a *Announcer) Start(ctx context.Context) {
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	a.stop = cancel
	a.done.Go(func() { a.announce(running) })
}

// Close tells that the node is gone. It is safe twice and without Start.
func (a *Announcer) Close() {
	a.stop()
	a.done.Wait()
}

// Tell has the others told soon, not only with the next heartbeat.
func (a *Announcer) Tell() {
	select {
	case a.told <- struct{}{}:
	default: // it is to happen already
	}
}

// Live is how many nodes there are, this one included: the most that were seen
// in the last seconds, so that a node counts until it is certainly gone; while
// the store is away, the most seen before. 0: the store has never answered.
func (a *Announcer) Live() int { return int(a.live.Load()) }

func (a *Announcer) announce(ctx context.Context) {
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		if a.twin(ctx) {
			if a.twins++; a.twins == 2 { // once may be ourselves before a crash
				a.s.Log.Error("another process calls itself by the same name; give each node of a fleet its own node.name", "node", a.s.Self().Node)
			}
		} else {
			a.twins = 0
		}
		a.put(ctx)
		a.count(ctx)
		for told := false; !told; {
			select {
			case <-ctx.Done():
				a.leave(ctx)
				return
			case <-tick.C:
				told = true
			case <-a.told:
				a.put(ctx)
			}
		}
	}
}

func (a *Announcer) put(ctx context.Context) {
	self := a.s.Self()
	self.Twin = a.twins >= 2
	data, err := json.Marshal(self)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = a.s.Store.Put(ctx, Folder, self.Node, data, TTL)
	if err != nil { // that the store is away is found out by those who need it
		a.s.Log.Debug("this node could not tell the others about itself", "error", err)
	}
	if a.s.Told != nil {
		a.s.Told(err)
	}
}

// count counts the live nodes. A store that was emptied knows few until all have
// told it again: the highest of the latest counts is taken.
func (a *Announcer) count(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	list, err := List(ctx, a.s.Store)
	if err != nil {
		return
	}
	if a.s.Seen != nil {
		a.s.Seen(list)
	}
	n := int64(0)
	for _, m := range list {
		if m.Instance != "" {
			n++
		}
	}
	copy(a.last[1:], a.last[:])
	a.last[0] = max(1, n)
	most := int64(0)
	for _, n := range a.last {
		most = max(most, n)
	}
	a.live.Store(most)
}

// twin is true if the last who used our name was somebody else.
func (a *Announcer) twin(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	self := a.s.Self()
	data, err := a.s.Store.Get(ctx, Folder, self.Node)
	var m Member
	return err == nil && json.Unmarshal(data, &m) == nil && m.Instance != "" && m.Instance != self.Instance
}

// leave tells that the node is gone, so that nobody waits for it.
func (a *Announcer) leave(ctx context.Context) {
	if a.twin(context.WithoutCancel(ctx)) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = a.s.Store.Delete(ctx, Folder, a.s.Self().Node) // else it is forgotten in TTL
}
