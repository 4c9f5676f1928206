package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
)

// newest is the store's newest revision, verified; nil if there is nothing to
// do about it: it is dealt with, it cannot be had, or it must not run.
func (f *Follower) newest(ctx context.Context) *store.Revision {
	n, err := f.s.Store.Latest(ctx)
	if !f.answered(ctx, 0, err) {
		return nil
	}
	known := f.kept.newest()
	switch {
	case n < known:
		f.behind(ctx, n, known)
		return nil
	case n == 0:
		f.atPeace()
		return nil
	case n == f.seen:
		return nil
	}
	r, err := f.s.Store.Revision(ctx, n)
	if errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("%w: revision %d is the newest, and is not there", store.ErrMalformed, n)
	}
	if !f.answered(ctx, n, err) {
		return nil
	}
	if err := f.s.Trusted.Verify(r); err != nil {
		f.seen = n
		f.refuse(n, metrics.RevisionUntrusted, err)
		return nil
	}
	f.seen = n
	if err := f.kept.saw(r); err != nil {
		f.s.Log.Error("a revision could not be kept on disk", "revision", n, "error", err)
	}
	return r
}

// atPeace ends a complaint about a revision in a store that has none.
func (f *Follower) atPeace() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.status.Error != "" {
		f.status.Refused, f.status.Error, f.status.ErrorAt = 0, "", time.Time{}
		f.nodes.Tell()
	}
}

// answered notes whether the store has answered, and is false if what it said
// is of no use. n is the revision that was asked for.
func (f *Follower) answered(ctx context.Context, n uint64, err error) bool {
	if errors.Is(err, store.ErrMalformed) {
		f.up()
		f.seen = 0 // it may be mended without getting another number
		f.refuse(n, metrics.RevisionMalformed, err)
		return false
	}
	if err == nil {
		f.up()
		return true
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return false // the node stops
	}
	now := f.s.Now()
	f.mu.Lock()
	was := f.status.Store
	if was.Up || was.Since.IsZero() {
		f.status.Store.Since = now
	}
	f.status.Store.Up, f.status.Store.Error = false, err.Error()
	running := f.status.Revision
	f.mu.Unlock()
	f.s.Metrics.Fleet.Asked(now, false)
	if was.Up || was.Since.IsZero() {
		f.s.Log.Error("the store is away; the running revision stays", "running", running, "error", err)
	}
	return false
}

func (f *Follower) up() {
	now := f.s.Now()
	f.mu.Lock()
	was := f.status.Store
	f.status.Store.Answered, f.status.Store.Error = now, ""
	if !was.Up {
		f.status.Store.Up, f.status.Store.Since = true, now
	}
	f.mu.Unlock()
	f.s.Metrics.Fleet.Asked(now, true)
	if !was.Up && !was.Since.IsZero() {
		f.s.Log.Info("the store answers again", "away_for", now.Sub(was.Since).Round(time.Millisecond))
		f.nodes.Tell()
	}
}

// behind deals with a store that has an older revision than this node has seen:
// it was emptied, it has lost its last writes in a failover, or somebody wants
// an old config back by force. Only what was lost for certain is restored.
func (f *Follower) behind(ctx context.Context, n, known uint64) {
	f.seen = 0
	lost := f.kept.after(n)
	if f.s.Control && len(lost) > 0 {
		err := f.restore(ctx, n, lost)
		if err == nil {
			f.s.Metrics.Fleet.Restored()
			f.s.Log.Error("the store had lost revisions; this node has restored them",
				"store_had", n, "first", lost[0].Number, "last", lost[len(lost)-1].Number)
			f.Poke()
			return
		}
		if errors.Is(err, store.ErrConflict) {
			f.Poke() // another node does the same
			return
		}
		f.refuse(n, metrics.RevisionOld, fmt.Errorf("the store has revision %d only, revision %d was known here; it cannot be restored: %w", n, known, err))
		return
	}
	f.refuse(n, metrics.RevisionOld, fmt.Errorf("the store has revision %d, older than revision %d that was known here: a node with the control role has to restore it", n, known))
}

// restore writes what is known after revision n.
func (f *Follower) restore(ctx context.Context, n uint64, lost []*store.Revision) error {
	if n == 0 {
		return f.s.Store.Restore(ctx, lost)
	}
	if lost[0].Number != n+1 {
		return fmt.Errorf("revisions %d to %d are not known here", n+1, lost[0].Number-1)
	}
	last, err := f.s.Store.Revision(ctx, n)
	if err != nil {
		return err
	}
	ours := f.kept.number(n)
	if ours == nil || !bytes.Equal(ours.Signature, last.Signature) {
		return fmt.Errorf("the store's revision %d is not the one that was known here", n)
	}
	for _, r := range lost {
		if err := f.s.Store.Publish(ctx, r); err != nil {
			return err
		}
	}
	return nil
}
