package metrics

import (
	"sync/atomic"
	"time"
)

// Why a revision is not run.
const (
	RevisionUntrusted = iota
	RevisionOld
	RevisionMalformed
	RevisionInvalid
	revisionReasons
)

var revisionReasonNames = [revisionReasons]string{"untrusted", "old", "malformed", "invalid"}

// What a node makes of the newest revision, as another sees it.
const (
	NodeCurrent = iota
	NodeBehind
	NodeRefusing
	NodeFromDisk
	NodeUnreadable
	NodeFile
	NodeStates
)

var nodeStateNames = [NodeStates]string{"current", "behind", "refusing", "from_disk", "unreadable", "file"}

// Fleet tells about the config that a node shares with others. Its methods are
// for concurrent use.
type Fleet struct {
	revision     atomic.Uint64
	disk, up, on atomic.Bool
	answered     atomic.Int64
	refused      [revisionReasons]Counter
	restored     Counter
	readOnly     atomic.Bool
	nodes        [NodeStates]atomic.Int64
	lag          atomic.Int64
}

// Follows makes the metrics appear: this node's config comes from a store.
func (f *Fleet) Follows() { f.on.Store(true) }

// Live notes which revision runs, and whether it is so far only known from disk.
func (f *Fleet) Live(revision uint64, disk bool) {
	f.revision.Store(revision)
	f.disk.Store(disk)
}

// Asked notes whether the store has answered.
func (f *Fleet) Asked(now time.Time, answered bool) {
	f.up.Store(answered)
	if answered {
		f.answered.Store(now.UnixNano())
	}
}

// Refused counts a revision that is not run, by one of the constants above.
func (f *Fleet) Refused(reason int) { f.refused[reason].Inc() }

// Restored counts a store that was given its revisions back.
func (f *Fleet) Restored() { f.restored.Inc() }

// Writable notes whether the store could be written to.
func (f *Fleet) Writable(yes bool) { f.readOnly.Store(!yes) }

// Nodes notes how many live nodes are in each state, by the constants above, and
// for how long one of them has been behind.
func (f *Fleet) Nodes(counts [NodeStates]int, lag time.Duration) {
	for i, n := range counts {
		f.nodes[i].Store(int64(n))
	}
	f.lag.Store(int64(lag))
}

func (f *Fleet) collect(e *emit) {
	if !f.on.Load() {
		return
	}
	e.gauge(fleetRevision, float64(f.revision.Load()))
	e.gauge(fleetFromDisk, flag(f.disk.Load()))
	e.gauge(fleetUp, flag(f.up.Load()))
	e.gauge(fleetAnswered, float64(f.answered.Load())/1e9)
	for i, name := range revisionReasonNames {
		e.counter(fleetRefused, f.refused[i].Value(), name)
	}
	e.counter(fleetRestored, f.restored.Value())
	e.gauge(fleetWritable, flag(!f.readOnly.Load()))
	for i, name := range nodeStateNames {
		e.gauge(fleetNodes, float64(f.nodes[i].Load()), name)
	}
	e.gauge(fleetLag, time.Duration(f.lag.Load()).Seconds())
}
