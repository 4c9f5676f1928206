package secrets

import (
	"context"
	"encoding/hex"
	"errors"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// ErrOtherSecret says that this node has another secret than the fleet: it can
// neither open what the others share, nor may it overwrite that.
var ErrOtherSecret = errors.New("node.secret_key is not that of the other nodes: this node can read nothing they share, and shares nothing")

// trust is whether this node has the secret of the fleet, which is the one whose
// ID the store has. Nobody can tell damaged data from another secret's without it.
type trust struct {
	same, other bool
	missing     time.Time // since when there is no ID, while other
}

// reluctance is how long the ID must be missing before a node that has had
// another secret makes its own the fleet's.
const reluctance = 2 * slow

// ready is nil if this node has the fleet's secret.
func (s *Shared) ready(ctx context.Context) error {
	s.mu.Lock()
	t := s.trust
	s.mu.Unlock()
	switch {
	case t.same:
		return nil
	case t.other:
		return ErrOtherSecret // until the one who follows finds something else
	}
	return s.ask(ctx, s.verify)
}

// verify compares the secrets, and makes this node's the fleet's if it has none.
func (s *Shared) verify(ctx context.Context) error {
	for {
		id, err := s.s.Store.Get(ctx, entryFolder, keyEntry)
		var old []byte
		switch {
		case err == nil && string(id) == s.s.Key.ID():
			s.trusted(true)
			return nil
		case err == nil && isID(id):
			s.trusted(false)
			return ErrOtherSecret
		case err == nil:
			s.s.Log.Error("the store has something under the name of the key's ID that is none; it is written anew")
			old = id
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		may, lost := s.mayClaim()
		if !may {
			return ErrOtherSecret
		}
		if lost { // which nobody can tell any more once the ID is back
			if err := s.s.Store.Put(ctx, entryFolder, lostEntry, []byte(s.s.Node), s.grace()); err != nil {
				return err
			}
		}
		err = s.s.Store.Swap(ctx, entryFolder, keyEntry, old, []byte(s.s.Key.ID()), 0)
		if err != nil && !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// mayClaim is asked when the store has no ID of a key. lost says that it had.
func (s *Shared) mayClaim() (may, lost bool) {
	s.mu.Lock()
	t := &s.trust
	if t.same {
		s.mu.Unlock()
		s.emptied()
		return true, true
	}
	defer s.mu.Unlock()
	if !t.other {
		return true, false
	}
	if t.missing.IsZero() {
		t.missing = time.Now()
	}
	return time.Since(t.missing) >= reluctance, false
}

func (s *Shared) trusted(same bool) {
	s.mu.Lock()
	was := s.trust
	s.trust = trust{same: same, other: !same}
	s.mu.Unlock()
	switch {
	case !same && !was.other:
		s.s.Log.Error("this node shares no certificates and no session tickets", "error", ErrOtherSecret)
	case same && was.other:
		s.s.Log.Info("node.secret_key is that of the other nodes again")
	}
}

func isID(b []byte) bool {
	raw, err := hex.DecodeString(string(b))
	return err == nil && len(raw) == 16
}
