// Package fleet keeps many nodes on one config. A Follower takes a node from
// revision to revision: it trusts only what is signed with a known key, never
// goes back to an older one, and keeps the last good one on disk for when the
// store is away. A Publisher, on nodes with the control role, makes new ones.
package fleet

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/control/nodes"
	"github.com/gatehouse-proxy/gatehouse/control/revision"
	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
)

const (
	defaultPoll = time.Second
	// patience is how long the store may take for one question and its answer.
	patience = 3 * time.Second
)

// Settings are what a node follows the fleet's config with; all are required
// but Incomplete, Poll and Now.
type Settings struct {
	Store   store.Store
	Trusted revision.Keyring
	// Control says that this node may give a store back what it has lost.
	Control bool
	// Dir is the node's data folder.
	Dir string
	// Self is how the node introduces itself: Node, Zone, Role and Version.
	Self Member
	// Parse reads and validates the files of a revision for this node.
	Parse func(files []config.File) (*config.Config, *config.Source, error)
	// Incomplete is true while the live revision does not work as a whole on this
	// node; it is then tried again from time to time. nil: it always does.
	Incomplete func() bool
	// Poll is how often the store is asked for its newest number: what a lost
	// notification costs. 0: 1 s.
	Poll time.Duration
	// Now is the node's clock; nil: time.Now. It is shown to people, and decides
	// nothing: the clocks of nodes may differ.
	Now     func() time.Time
	Metrics *metrics.Metrics
	Log     *slog.Logger
}

// Take makes a config live or says why not; then nothing has changed.
type Take func(ctx context.Context, cfg *config.Config, src *config.Source, why string) error

// Status is what a node knows of the fleet's config.
type Status struct {
	// Revision that is live here; 0: none.
	Revision uint64    `json:"revision"`
	Digest   string    `json:"digest,omitempty"`
	Since    time.Time `json:"since,omitzero"`
	// Author, Message and Published are what the revision says of itself.
	Author    string    `json:"author,omitempty"`
	Message   string    `json:"message,omitempty"`
	Published time.Time `json:"published,omitzero"`
	// FromDisk: the store has not confirmed it since the node started.
	FromDisk bool        `json:"from_disk,omitempty"`
	Store    StoreStatus `json:"store"`
	// Refused is the newest revision that is not run here, Error why.
	Refused uint64    `json:"refused,omitempty"`
	Error   string    `json:"error,omitempty"`
	ErrorAt time.Time `json:"error_at,omitzero"`
	// Key is the public key this node signs with, if it has the control role.
	Key string `json:"key,omitempty"`
}

// StoreStatus says whether the store answers.
type StoreStatus struct {
	Up bool `json:"up"`
	// Since when it is so; Answered is when it last did.
	Since    time.Time `json:"since,omitzero"`
	Answered time.Time `json:"answered,omitzero"`
	Error    string    `json:"error,omitempty"`
	// WriteError is why a store that answers cannot be written to, and since when.
	WriteError      string    `json:"write_error,omitempty"`
	WriteErrorSince time.Time `json:"write_error_since,omitzero"`
}

// Follower follows the fleet's config for one node.
type Follower struct {
	s       Settings
	take    Take
	kick    chan struct{} // look at the store now
	nodes   *nodes.Announcer
	census  census
	silence silence

	turn  sync.Mutex // held while the store is looked at; guards the following; taken before mu
	kept  *kept
	first []candidate
	seen  uint64 // the newest number that has been dealt with, for good or ill
	again retry

	mu     sync.Mutex // guards status
	status Status

	stop func()
	done sync.WaitGroup
}

// candidate is a revision that could be parsed here.
type candidate struct {
	r    *store.Revision
	cfg  *config.Config
	src  *config.Source
	disk bool
	// again: it was refused here before, or did not work as a whole.
	again bool
}

// New returns a follower that has done nothing. Its error is about the name of
// the node or the file of the last good revision.
func New(s Settings) (*Follower, error) {
	if err := store.CheckNames(nodes.Folder, s.Self.Node); err != nil {
		return nil, fmt.Errorf("node.name: %w", err)
	}
	s.Self.Instance = rand.Text()[:12]
	if s.Poll <= 0 {
		s.Poll = defaultPoll
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	f := &Follower{
		s: s, kick: make(chan struct{}, 1), stop: func() {},
		kept: newKept(s.Dir, s.Control),
	}
	f.nodes = nodes.New(nodes.Settings{Store: s.Store, Self: f.self, Seen: f.saw, Told: f.wrote, Log: s.Log})
	s.Metrics.Fleet.Follows()
	bad, err := f.kept.read(s.Trusted)
	if err != nil {
		return nil, fmt.Errorf("node.data_dir: %w", err)
	}
	for _, err := range bad {
		s.Log.Error("a revision on disk is not used", "error", err)
	}
	return f, nil
}

// Begin finds what to start with: the store's newest revision, or the last good
// one on disk. The configs are nil if there is neither; the node then serves
// nothing until there is one.
func (f *Follower) Begin(ctx context.Context) (*config.Config, *config.Source) {
	f.turn.Lock()
	defer f.turn.Unlock()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if r := f.newest(ctx); r != nil {
		f.consider(r, false)
	}
	if r := f.kept.good(); r != nil && (len(f.first) == 0 || f.first[0].r.Number != r.Number) {
		f.consider(r, true)
	}
	if len(f.first) == 0 {
		return nil, nil
	}
	return f.first[0].cfg, f.first[0].src
}

// consider adds a revision to those that may be started with.
func (f *Follower) consider(r *store.Revision, disk bool) {
	cfg, src, err := f.parse(r)
	if err != nil {
		f.refuse(r.Number, metrics.RevisionInvalid, err)
		return
	}
	f.first = append(f.first, candidate{r: r, cfg: cfg, src: src, disk: disk})
}

func (f *Follower) parse(r *store.Revision) (*config.Config, *config.Source, error) {
	files, err := revision.Unpack(r.Data)
	if err != nil {
		return nil, nil, err
	}
	return f.s.Parse(files)
}

// Start makes the best revision that Begin has found live, and then follows the
// store until Close. Nothing that is wrong with a revision or the store keeps a
// node from starting.
func (f *Follower) Start(ctx context.Context, take Take) {
	f.turn.Lock()
	f.take = take
	for _, c := range f.first {
		if f.run(ctx, c) {
			break
		}
	}
	f.first = nil // holds whole configs
	f.turn.Unlock()
	if s := f.Status(); s.Revision == 0 {
		why := []any{"store_up", s.Store.Up}
		if trouble := cmp.Or(s.Error, s.Store.Error); trouble != "" {
			why = append(why, "error", trouble)
		}
		f.s.Log.Warn("no revision is live: nothing is served until one is published", why...)
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f.stop = cancel
	f.done.Go(func() { f.watch(running) })
	f.done.Go(func() { f.follow(running) })
	f.nodes.Start(ctx)
}

// Close ends the following; the node is no longer a member of the fleet. It is
// safe twice and without Start.
func (f *Follower) Close() {
	f.stop()
	f.done.Wait()
	f.nodes.Close()
}

// Poke has the store looked at soon.
func (f *Follower) Poke() { poke(f.kick) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is to happen already
	}
}

// Status is a copy of the current status.
func (f *Follower) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

// watch has the store looked at whenever it says that something has changed.
// All that a failure costs is that a change is found by polling.
func (f *Follower) watch(ctx context.Context) {
	silent := false
	for ctx.Err() == nil {
		err := f.s.Store.Watch(ctx, func(topic string) {
			silent = false
			if topic == store.TopicRevisions || topic == "" {
				f.Poke()
			}
		})
		if err != nil && ctx.Err() == nil && !silent {
			silent = true
			f.s.Log.Warn("the store no longer tells of changes; they are found by asking", "error", err)
		}
		sleep(ctx, f.s.Poll)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func (f *Follower) follow(ctx context.Context) {
	tick := time.NewTicker(f.s.Poll)
	defer tick.Stop()
	for ctx.Err() == nil {
		_ = f.Look(ctx) // it is in the status
		select {
		case <-ctx.Done():
		case <-f.kick:
		case <-tick.C:
		}
	}
}

// Reload tries the newest revision again, also if it was refused: files that it
// refers to may be there by now.
func (f *Follower) Reload(ctx context.Context, why string) error {
	f.turn.Lock()
	defer f.turn.Unlock()
	f.s.Log.Info("the newest revision is read again", "cause", why)
	f.seen, f.again.at = 0, time.Time{}
	return f.look(ctx)
}

// Look asks the store for a newer revision and runs it. The error, if there is
// one, is also in the status.
func (f *Follower) Look(ctx context.Context) error {
	f.turn.Lock()
	defer f.turn.Unlock()
	return f.look(ctx)
}

func (f *Follower) look(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, again := f.newest(asking), false
	if r == nil {
		r, again = f.due(), true
	}
	if r != nil {
		cfg, src, err := f.parse(r)
		if err != nil {
			f.refuse(r.Number, metrics.RevisionInvalid, err)
		} else {
			f.run(ctx, candidate{r: r, cfg: cfg, src: src, again: again, disk: f.seen != r.Number})
		}
	}
	if s := f.Status(); s.Error != "" {
		return errors.New(s.Error)
	} else if !s.Store.Up {
		return errors.New(s.Store.Error)
	}
	return nil
}

// run makes a revision live.
func (f *Follower) run(ctx context.Context, c candidate) bool {
	if err := f.take(ctx, c.cfg, c.src, fmt.Sprintf("revision %d", c.r.Number)); err != nil {
		switch {
		case ctx.Err() != nil:
		case c.again && f.Status().Revision == c.r.Number: // what works of it stays
			f.again.later(c.r.Number)
		default:
			f.refuse(c.r.Number, metrics.RevisionInvalid, err)
		}
		return false
	}
	if !c.disk || f.again.number <= c.r.Number {
		f.again = retry{}
	}
	now := f.s.Now()
	f.mu.Lock()
	if f.status.Revision != c.r.Number {
		f.status.Since = now
	}
	f.status.Revision, f.status.Digest, f.status.FromDisk = c.r.Number, c.r.Digest, c.disk
	f.status.Author, f.status.Message, f.status.Published = c.r.Author, c.r.Message, c.r.Time
	// The newest of the store is the newest, whatever its number.
	if !c.disk && !c.again || f.status.Refused <= c.r.Number {
		f.status.Refused, f.status.Error, f.status.ErrorAt = 0, "", time.Time{}
	}
	f.mu.Unlock()
	f.s.Metrics.Fleet.Live(c.r.Number, c.disk)
	why := "the store has it"
	switch {
	case c.again:
		why = "what was in its way has gone"
	case c.disk:
		why = "it is the last good one on disk"
	}
	f.s.Log.Info("revision is live", "revision", c.r.Number, "author", c.r.Author, "message", c.r.Message, "cause", why)
	if err := f.kept.live(c.r); err != nil {
		f.s.Log.Error("the live revision could not be kept on disk; without the store this node would start with an older one", "error", err)
	}
	f.nodes.Tell()
	return true
}

// refuse notes that a revision is not run here. What runs stays.
func (f *Follower) refuse(number uint64, reason int, err error) {
	if reason == metrics.RevisionInvalid {
		f.again.later(number)
	}
	text := err.Error()
	f.mu.Lock()
	news := f.status.Refused != number || f.status.Error != text
	if news {
		f.status.Refused, f.status.Error, f.status.ErrorAt = number, text, f.s.Now()
	}
	running := f.status.Revision
	f.mu.Unlock()
	if !news {
		return
	}
	f.s.Metrics.Fleet.Refused(reason)
	f.s.Log.Error("a revision was refused; the running one stays", "revision", number, "running", running, "error", text)
	f.nodes.Tell()
}
