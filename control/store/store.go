// Package store is what the nodes of a fleet share: revisions of the config,
// small values that may expire, the leases of the service registry and the
// counters of fleet-wide limits. It is interfaces and their rules only; package
// local keeps all of it in a file for a single node, package redis in Redis.
//
// Nobody trusts a store: revisions are signed, secrets are encrypted before they
// get here, and an address in the registry is no proof of who answers there.
package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// The errors that mean something. Any other error says that the store could not
// be asked, or could not answer: nothing is known then, least of all that
// something is not there.
var (
	// ErrNotFound: there is no such revision, value or lease.
	ErrNotFound = errors.New("store: not found")
	// ErrConflict: somebody else was first.
	ErrConflict = errors.New("store: somebody else was first")
	// ErrGap: changes were forgotten that have not been read; take a snapshot.
	ErrGap = errors.New("store: changes were missed")
	// ErrMalformed: there is something under our key that we did not write.
	ErrMalformed = errors.New("store: malformed data")
)

// Store is all a node shares with others. Its methods are safe for concurrent
// use; each returns when its context is done at the latest.
type Store interface {
	Revisions
	Values
	Leases
	Limits

	// Watch calls changed with the name of what somebody has changed, until ctx
	// is done: TopicRevisions, a folder of Values, TopicLeases; and "" when
	// anything may have, because the connection was lost. It calls from one
	// goroutine. A call may be missing when the store was away: whoever depends
	// on one reads again from time to time.
	Watch(ctx context.Context, changed func(topic string)) error
	// Ping asks whether the store answers, and can be written to.
	Ping(ctx context.Context) error
	// Close ends every connection. Closing twice is allowed.
	Close() error
}

// Topics of Watch besides the folders.
const (
	TopicRevisions = "revisions"
	TopicLeases    = "leases"
)

// Revision is one published config. The store looks at its number only.
type Revision struct {
	// Number counts from 1, without gaps.
	Number uint64 `json:"number"`
	// Digest of Data.
	Digest string `json:"digest"`
	// Author and Message say who published it, and why.
	Author  string    `json:"author"`
	Message string    `json:"message"`
	Time    time.Time `json:"time"`
	// KeyID names the key that Signature was made with.
	KeyID     string `json:"key_id"`
	Signature []byte `json:"signature"`
	// Data is the config as it was published.
	Data []byte `json:"-"`
}

// MaxRevision is how large the Data of a revision may be, in bytes. A config may
// have 64 MiB; Redis takes 512 MB.
const MaxRevision = 96 << 20

// MaxValue is how large a value of Values may be, in bytes. What is larger was
// written by somebody else, and is not read.
const MaxValue = 8 << 20

// Revisions is a list that grows at its end, and may be cut at its beginning.
type Revisions interface {
	// Publish appends r. Its number must be one more than Latest, else the error
	// is ErrConflict. When it returns nil, r is as safe as the store can make it.
	Publish(ctx context.Context, r *Revision) error
	// Latest is the highest number, 0 if there is none.
	Latest(ctx context.Context) (uint64, error)
	// Revision returns one, or ErrNotFound: it was pruned, or never was.
	Revision(ctx context.Context, number uint64) (*Revision, error)
	// History returns up to limit revisions without their Data, newest first,
	// that are older than before; 0 means from the newest on.
	History(ctx context.Context, before uint64, limit int) ([]Revision, error)
	// Restore puts revisions back that an emptied store has lost. They must be in
	// order and may begin anywhere; it is ErrConflict if the store has any by now.
	Restore(ctx context.Context, list []*Revision) error
	// Prune removes the revisions that are older than oldest, and returns how many.
	// The latest one stays in any case.
	Prune(ctx context.Context, oldest uint64) (int, error)
}

// Value is one small piece of data under FOLDER/NAME.
type Value struct {
	Name string
	Data []byte
}

// Values are small pieces of data. A folder and a name are one to 128 bytes of
// letters, digits and "._-"; a name may also contain ":" and "@".
type Values interface {
	// Get returns a value, or ErrNotFound.
	Get(ctx context.Context, folder, name string) ([]byte, error)
	// Put writes a value that is gone after ttl; 0 means never.
	Put(ctx context.Context, folder, name string, data []byte, ttl time.Duration) error
	// Swap writes data if the value is old, else it is ErrConflict. nil as old
	// means that there must be none, nil as data removes it.
	Swap(ctx context.Context, folder, name string, old, data []byte, ttl time.Duration) error
	// Delete removes a value if it is there.
	Delete(ctx context.Context, folder, name string) error
	// List returns the values of a folder by name; those of more than MaxValue
	// bytes without their data.
	List(ctx context.Context, folder string) ([]Value, error)
}

// Lease is something that is there for as long as somebody says so.
type Lease struct {
	// ID is unique in all the registry.
	ID string `json:"id"`
	// Data is the owner's; the store does not look at it.
	Data []byte `json:"data"`
	// Expires is when it ends unless it is renewed, by the store's clock.
	Expires time.Time `json:"expires"`
}

// Renewal is one lease to renew.
type Renewal struct {
	ID  string
	TTL time.Duration
}

// Change is what became of a lease.
type Change struct {
	// Removed says that the lease has gone; Lease then has only its ID.
	Removed bool
	Lease   Lease
}

// Position is a place in the sequence of changes. It means nothing outside the
// store it came from.
type Position string

// Leases are a set that changes, and the sequence of its changes.
type Leases interface {
	// Register makes or replaces a lease that ends after ttl.
	Register(ctx context.Context, id string, data []byte, ttl time.Duration) error
	// Replace is Register for whoever has read the lease: it is ErrConflict if its
	// data is not old; nil as old means that there must be none. ttl 0 leaves the
	// time as it is when a lease ends.
	Replace(ctx context.Context, id string, old, data []byte, ttl time.Duration) error
	// Lease returns one, or ErrNotFound.
	Lease(ctx context.Context, id string) (*Lease, error)
	// Renew gives a lease another ttl, or is ErrNotFound: register again. It is
	// no change.
	Renew(ctx context.Context, id string, ttl time.Duration) error
	// RenewAll renews many in few round trips. missing are the IDs of those that
	// Renew would not have found.
	RenewAll(ctx context.Context, list []Renewal) (missing []string, err error)
	// Cancel ends a lease if it is there.
	Cancel(ctx context.Context, id string) error
	// Snapshot returns every lease and the position its changes follow.
	Snapshot(ctx context.Context) ([]Lease, Position, error)
	// Changes returns what has changed since a position, and the next position.
	// It is ErrGap if that is too long ago.
	Changes(ctx context.Context, since Position) ([]Change, Position, error)
	// Expire removes up to limit leases whose time is over. It returns how many
	// had to go, removed or not, and how many leases there were in all. Nothing
	// expires unless it is called.
	Expire(ctx context.Context, limit int) (overdue, all int, err error)
}

// Bucket is one window of a limit, as a bucket of the generic cell rate
// algorithm: Burst tokens at most, of which one comes back in every Interval.
// Anything below a microsecond in all of Burst × Interval is lost.
type Bucket struct {
	Interval time.Duration
	Burst    int64
}

// Take asks for tokens of all buckets of a key, or of none.
type Take struct {
	Key string
	// Buckets are the same for every Take of a key; other ones start afresh.
	Buckets []Bucket
	// Cost is how many tokens are wanted. 0 looks without taking.
	Cost int64
	// AtLeast makes it a lease of tokens: where Cost are not to be had, all there
	// are will do, if they are this many. 0: all or nothing.
	AtLeast int64
}

// Taken is what came of a Take.
type Taken struct {
	// Got is how many tokens were taken, 0 if they were refused.
	Got int64
	// Used is for each bucket the time until it is full, after the taking.
	Used []time.Duration
}

// Count asks to add to a counter.
type Count struct {
	Key string
	// N is what is to be added. Less than 0 gives back; the sum never falls below
	// 0. 0 looks without adding.
	N int64
	// Limit is the sum that is never exceeded; 0: none.
	Limit int64
	// AtLeast makes it a lease: where N would exceed the limit, all that is left
	// will do, if it is this much. 0: all or nothing.
	AtLeast int64
	// End is when the counter is gone.
	End time.Time
}

// Counted is what came of a Count.
type Counted struct {
	// Sum is the counter's, after the adding; Added what of N was added.
	Sum, Added int64
}

// Hold asks for places that are held until they are given back.
type Hold struct {
	Key string
	// Owner holds them, and has none left TTL after it last asked.
	Owner string
	// Seq numbers what one owner asks for a key, from 1. What comes after a later
	// one changes nothing.
	Seq uint64
	// Want is how many the owner is to hold in all, not how many more. 0 gives
	// all back.
	Want int64
	// Limit is how many there are for all owners together.
	Limit int64
	TTL   time.Duration
}

// Held is what came of a Hold.
type Held struct {
	// Got is how many places the owner holds now: those it wants, or what Limit
	// leaves of them. Others is how many all others hold.
	Got, Others int64
}

// Limits are counters that many nodes count with, by the store's clock. What
// somebody else has written under their keys counts as nothing. Every method
// does several at once, in one round trip where that is possible; each is
// atomic for itself, and the result has the order of the questions.
type Limits interface {
	// Take takes tokens.
	Take(ctx context.Context, takes []Take) ([]Taken, error)
	// Count adds to counters.
	Count(ctx context.Context, counts []Count) ([]Counted, error)
	// Hold gets, keeps and gives back places.
	Hold(ctx context.Context, holds []Hold) ([]Held, error)
}

// CheckRestore is what every implementation asks of what is to be restored.
func CheckRestore(list []*Revision) error {
	if len(list) == 0 {
		return errors.New("store: nothing to restore")
	}
	for i, r := range list {
		if r.Number == 0 || i > 0 && r.Number != list[i-1].Number+1 {
			return fmt.Errorf("store: revision %d is not in its place", r.Number)
		}
	}
	return nil
}

// CheckNames is what every implementation asks of folders and names.
func CheckNames(folder string, names ...string) error {
	if !valid(folder, "._-") {
		return fmt.Errorf("store: %q is not a folder: 1 to 128 letters, digits and ._-", folder)
	}
	for _, n := range names {
		if !valid(n, "._-:@") {
			return fmt.Errorf("store: %q is not a name: 1 to 128 letters, digits and ._-:@", n)
		}
	}
	return nil
}

func valid(s, marks string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for _, c := range []byte(s) {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && strings.IndexByte(marks, c) < 0 {
			return false
		}
	}
	return true
}
