package acme

import (
	"context"
	"errors"
	"time"
)

// Shared is what the nodes of a fleet have in common. What gets there is sealed
// with a key that is not there. Its methods are safe for concurrent use, and are
// never called by a request or a handshake.
type Shared interface {
	Cache
	Locker
	Exchange
}

// The errors of a Cache that mean something. Any other says that it could not be
// asked: nothing is known then, least of all that something is not there.
var (
	// ErrNone: there is no such entry.
	ErrNone = errors.New("there is no such entry")
	// ErrChanged: somebody else has written the entry.
	ErrChanged = errors.New("somebody else has written the entry")
)

// Cache keeps named entries.
type Cache interface {
	// Get returns an entry, or ErrNone.
	Get(ctx context.Context, name string) ([]byte, error)
	// Replace writes data in the place of old, or is ErrChanged if the entry is
	// another one. nil as old means that there must be none, nil as data removes
	// it. The entry is gone after ttl, if that is not 0.
	Replace(ctx context.Context, name string, old, data []byte, ttl time.Duration) error
}

// Locker lets one node at a time order a certificate, however many of them
// have it in their config. Whoever gets the lock looks first whether another
// node has stored a new certificate meanwhile.
type Locker interface {
	// Lock waits for the lock of a name until ctx is done. held is derived of ctx
	// and done when the lock is lost; unlock gives it back. An error that is not
	// ctx's says that nobody can have locks at present.
	Lock(ctx context.Context, name string) (held context.Context, unlock func(), err error)
}

// Exchange hands pending challenges to all nodes: nobody knows which one the
// authority will reach.
type Exchange interface {
	// Announce makes sealed challenges known by their names, and returns when the
	// other nodes answer them too, or have had the time to. withdraw takes them
	// back.
	Announce(ctx context.Context, list map[string][]byte) (withdraw func(), err error)
}

// awayError says that what the nodes share cannot be had.
type awayError struct{ error }

func (e *awayError) Unwrap() error { return e.error }

// away marks an error of Shared's, unless it is only that we were told to stop.
func away(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return &awayError{err}
}

// isAway reports whether err is because of what the nodes share, not of the
// authority.
func isAway(err error) bool {
	var a *awayError
	return errors.As(err, &a)
}

// Look has every certificate's worker look at the shared entries: they have
// changed, or can be had again.
func (n *Node) Look() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for s := range n.sources {
		select {
		case s.wake <- struct{}{}:
		default: // it is about to
		}
	}
}

func (n *Node) join(s *Source) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sources[s] = struct{}{}
}

func (n *Node) leave(s *Source) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.sources, s)
}
