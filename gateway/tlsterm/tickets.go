package tlsterm

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"sync"
	"sync/atomic"
	"time"
)

// oldSecrets is how many secrets are still honoured besides the current one. A
// ticket is good for at least this many rotations.
const oldSecrets = 2

// TicketSecret is what the keys of session tickets are derived from.
type TicketSecret [32]byte

// TicketSecrets are the secrets of one moment; they never change.
type TicketSecrets struct {
	// Current is what new tickets are made with.
	Current TicketSecret
	// Previous are still honoured, the newest first.
	Previous []TicketSecret
}

// TicketKeys provide the secrets behind session tickets. A node on its own has
// a Rotation; nodes that get the same secrets from a store honour each other's
// tickets. Its method is safe for concurrent use.
type TicketKeys interface {
	// Secrets is called in every handshake and returns the same pointer until
	// the secrets change: that is how a change is noticed. It is never nil.
	Secrets() *TicketSecrets
}

// Rotation makes secrets of its own and replaces them at equal intervals. The
// oldest is then forgotten, and with it all that it could decrypt.
type Rotation struct {
	every   time.Duration
	current atomic.Pointer[TicketSecrets]
	stop    chan struct{}
	once    sync.Once
	wg      sync.WaitGroup
}

var _ TicketKeys = (*Rotation)(nil)

// NewRotation returns a rotation with a first secret. Nothing rotates before Start.
func NewRotation(every time.Duration) *Rotation {
	r := &Rotation{every: every, stop: make(chan struct{})}
	r.Rotate()
	return r
}

// Secrets implements TicketKeys.
func (r *Rotation) Secrets() *TicketSecrets { return r.current.Load() }

// Rotate replaces the current secret at once. It must not run twice at the
// same time, nor besides what Start began.
func (r *Rotation) Rotate() {
	next := &TicketSecrets{}
	rand.Read(next.Current[:])
	if s := r.current.Load(); s != nil {
		next.Previous = append([]TicketSecret{s.Current}, s.Previous[:min(len(s.Previous), oldSecrets-1)]...)
	}
	r.current.Store(next)
}

// Start begins to rotate; it never fails.
func (r *Rotation) Start(context.Context) error {
	r.wg.Go(func() {
		t := time.NewTicker(r.every)
		defer t.Stop()
		for {
			select {
			case <-r.stop:
				return
			case <-t.C:
				r.Rotate()
			}
		}
	})
	return nil
}

// Close ends what Start began; the last secrets stay. Safe twice and without Start.
func (r *Rotation) Close(context.Context) error {
	r.once.Do(func() { close(r.stop) })
	r.wg.Wait()
	return nil
}

// tickets encrypts and decrypts the session tickets of one set of rules about
// clients. Its keys are derived from the secrets and those rules, so that no
// listener resumes a session that it would not have let begin: crypto/tls looks
// at a ticket's certificates again, but only as closely as it can.
type tickets struct {
	keys TicketKeys
	// scope is what sessions have in common: the listener and its rules.
	scope string
	made  atomic.Pointer[derived]
}

// derived are the keys that were made from some secrets.
type derived struct {
	from *TicketSecrets
	box  *tls.Config // nothing but its ticket keys is used
}

// box is made anew after the secrets have changed; two handshakes may do so at once.
func (t *tickets) box() (*tls.Config, error) {
	from := t.keys.Secrets()
	if d := t.made.Load(); d != nil && d.from == from {
		return d.box, nil
	}
	var keys [][32]byte
	for _, secret := range append([]TicketSecret{from.Current}, from.Previous...) {
		key, err := hkdf.Key(sha256.New, secret[:], nil, "gatehouse session ticket\x00"+t.scope, len(TicketSecret{}))
		if err != nil {
			return nil, err
		}
		keys = append(keys, [32]byte(key))
	}
	d := &derived{from: from, box: new(tls.Config)}
	d.box.SetSessionTicketKeys(keys)
	t.made.Store(d)
	return d.box, nil
}

// wrap is tls.Config.WrapSession.
func (t *tickets) wrap(cs tls.ConnectionState, s *tls.SessionState) ([]byte, error) {
	box, err := t.box()
	if err != nil {
		return nil, err
	}
	return box.EncryptTicket(cs, s)
}

// unwrap is tls.Config.UnwrapSession. A ticket that is none of ours is no error:
// the handshake is then a full one.
func (t *tickets) unwrap(identity []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
	box, err := t.box()
	if err != nil {
		return nil, err
	}
	return box.DecryptTicket(identity, cs)
}
