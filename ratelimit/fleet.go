package ratelimit

import (
	"math"
	"time"
)

// Source is who made a decision.
type Source uint8

// The sources of decisions.
const (
	// Own is this node alone, for limits that are not shared.
	Own Source = iota
	// Store is the store that the fleet shares, asked for this very request.
	Store
	// Lease is this node, with what it has leased from the store before.
	Lease
	// Share is this node with its part of the limit, because the store did not
	// answer in time.
	Share
	// Open lets pass, and Closed refuses, because the store did not answer.
	Open
	Closed
	// Sources is how many there are.
	Sources
)

var sourceNames = [Sources]string{"local", "store", "lease", "share", "open", "closed"}

// String is the source's name in metrics.
func (s Source) String() string { return sourceNames[s] }

// OnFailure is what to do while the store does not answer.
type OnFailure uint8

// What to do while the store does not answer.
const (
	// ShareOut gives each live node its part of the limit.
	ShareOut OnFailure = iota
	// LetPass does not limit.
	LetPass
	// RefuseAll refuses.
	RefuseAll
)

// ParseOnFailure reads what users write: open, closed, else share.
func ParseOnFailure(text string) OnFailure {
	switch text {
	case "open":
		return LetPass
	case "closed":
		return RefuseAll
	}
	return ShareOut
}

// Fleet makes limits that all nodes of a fleet count together. What it makes
// never keeps a request waiting for longer than a fixed time (2 ms), whatever
// becomes of the store, and never returns an error for it.
type Fleet interface {
	Limiter(s SharedSettings) (Limiter, error)
	Quota(s QuotaSettings) (Quota, error)
	Slots(s SlotsSettings) (Slots, error)
}

// SharedSettings are those of a Limiter. Nodes share what is equal in Name,
// Windows and Leased.
type SharedSettings struct {
	// Name tells limits of one fleet apart. It may be of any length.
	Name    string
	Windows []Window
	// Leased spends what the node has leased in advance, instead of asking for
	// every request.
	Leased bool
	// OnFailure is for when the store does not answer.
	OnFailure OnFailure
	// MaxKeys bounds memory, as in Settings.
	MaxKeys int
}

// QuotaSettings are those of a Quota. Nodes share what is equal in Name.
type QuotaSettings struct {
	Name string
	// Location has the calendar's midnights.
	Location *time.Location
	// Leased and OnFailure are as in SharedSettings.
	Leased    bool
	OnFailure OnFailure
}

// Allowance is what a plan grants; 0 in a field: no limit there.
type Allowance struct{ Day, Month int64 }

// Used is the outcome of a Quota's Take.
type Used struct {
	Allowed bool
	Source  Source
	// Month says that the other fields are of the month, else of the day: of
	// those that refused the one that ends last, else of the one with the
	// smallest part left.
	Month            bool
	Limit, Remaining int64
	// Reset is how long the period still lasts.
	Reset time.Duration
}

// Quota counts units by calendar day and month. Safe for concurrent use.
type Quota interface {
	// Take charges cost units to who, in both periods or in none.
	Take(who string, a Allowance, cost uint32, u *Used)
}

// SlotsSettings are those of Slots. Nodes share what is equal in Name.
type SlotsSettings struct {
	Name string
	// Limit is how many places a key has on all nodes together.
	Limit     int
	OnFailure OnFailure
}

// Slots are places that requests hold while they are served. Safe for
// concurrent use.
type Slots interface {
	// Enter takes a place of key, or says that there is none. After true, Leave
	// must be called once with the id. key is only read during the call.
	Enter(key []byte) (id uint64, ok bool, from Source)
	Leave(id uint64)
	// Close gives back what nobody holds; Leave still works.
	Close()
}

// Rates are windows made ready, for limiters whose buckets are kept elsewhere.
type Rates struct{ list []rate }

// NewRates checks windows; its error names the one that is wrong.
func NewRates(ws []Window) (Rates, error) {
	list, err := compile(ws)
	return Rates{list}, err
}

// Len is the number of windows.
func (r Rates) Len() int { return len(r.list) }

// Bucket is the size of a window's bucket, and in what time one unit comes back.
func (r Rates) Bucket(i int) (interval time.Duration, burst int64) {
	return time.Duration(r.list[i].interval), r.list[i].burst
}

// Most is the largest cost that can ever be granted: the smallest burst.
func (r Rates) Most() int64 {
	most := int64(math.MaxInt64)
	for i := range r.list {
		most = min(most, r.list[i].burst)
	}
	return most
}

// Judge writes to d what buckets say that are full again in the times used, after
// cost was taken from all of them, or from none.
func (r Rates) Judge(used []time.Duration, cost int64, taken bool, d *Decision) {
	d.Allowed, d.Squeezed, d.RetryAfter, d.Window = taken, false, 0, 0
	least, longest := math.Inf(1), int64(-1)
	for i := range r.list {
		x, u := &r.list[i], int64(used[i])
		if taken {
			if left := 1 - float64(u)/float64(x.depth); left < least {
				least, d.Window = left, i
			}
		} else if wait := waitFor(x, u, 0, cost); wait > longest {
			longest, d.Window = wait, i
		}
	}
	if !taken {
		// By now what was too little then may be there: one must come again all
		// the same, or the client would be told to do so at once.
		d.RetryAfter = time.Duration(max(longest, 1))
	}
	d.describe(&r.list[d.Window], int64(used[d.Window]), 0)
}
