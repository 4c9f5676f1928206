package acme

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"strconv"
	"time"
)

// fetch reads a shared entry: raw is what stands there, nil if nothing does, and
// plain what it says, nil if it cannot be opened. Whoever uses the same secret
// may put something better in its place, since others than that cannot be asked.
func (s *store) fetch(ctx context.Context, entry string) (raw, plain []byte, err error) {
	raw, err = s.shared.Get(ctx, entry)
	if errors.Is(err, ErrNone) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, away(ctx, err)
	}
	if plain, err = s.key.Open(entry, raw); err != nil {
		s.unusable(entry, err)
		return raw, nil, nil
	}
	return raw, plain, nil
}

func (s *store) unusable(entry string, why error) {
	s.log.Error("an entry in the store of the fleet cannot be used; it is replaced once there is a good one", "entry", entry, "error", why)
}

// share puts an entry in the place of what was fetched.
func (s *store) share(ctx context.Context, entry string, raw, plain []byte, ttl time.Duration) error {
	err := s.shared.Replace(ctx, entry, raw, s.key.Seal(entry, plain), ttl)
	if err == nil || errors.Is(err, ErrChanged) {
		return err
	}
	return away(ctx, err)
}

// keep has a copy on disk. That this fails costs nothing as long as the store of
// the fleet answers.
func (s *store) keep(ctx context.Context, name string, plain []byte) {
	if sealed, err := s.disk.Get(ctx, name); err == nil {
		if old, err := s.key.Open(name, sealed); err == nil && bytes.Equal(old, plain) {
			return
		}
	}
	if err := s.put(ctx, name, plain); err != nil {
		s.log.Warn("no copy could be kept on disk, for when the store of the fleet is away", "error", err)
	}
}

// shareAccount returns the key that the nodes share, which is own if they share
// none yet. With create there is one in any case.
func (s *store) shareAccount(ctx context.Context, name string, own []byte, create bool) ([]byte, error) {
	for {
		raw, plain, err := s.fetch(ctx, name)
		if err != nil {
			return nil, err
		}
		if plain != nil {
			if _, err := x509.ParseECPrivateKey(plain); err == nil {
				s.keep(ctx, name, plain)
				return plain, nil
			}
			s.unusable(name, errors.New("is not the key of an account"))
		}
		if own == nil && !create {
			return nil, nil
		}
		if own == nil {
			if own, err = newAccount(); err != nil {
				return nil, err
			}
		}
		if err := s.share(ctx, name, raw, own, 0); err == nil {
			s.keep(ctx, name, own)
			return own, nil
		} else if !errors.Is(err, ErrChanged) {
			return nil, err
		}
	}
}

// sharedCertificate is fetch for a certificate; nil if there is none that is usable.
func (s *store) sharedCertificate(ctx context.Context, entry string) (raw []byte, c *stored, err error) {
	raw, plain, err := s.fetch(ctx, entry)
	if err != nil || plain == nil {
		return raw, nil, err
	}
	if c, err = parseStored(plain); err != nil {
		s.unusable(entry, err)
		return raw, nil, nil
	}
	return raw, c, nil
}

// forgotten is how long after its end a certificate disappears from what the
// nodes share.
const forgotten = 30 * 24 * time.Hour

// wish identifies what is ordered: nodes that want different certificates under
// one name, as during a change of the config, do not get into each other's way.
func (s *Settings) wish() string {
	sum := sha256.Sum256([]byte(s.Directory + "\n" + s.wanted() + "\n" + strconv.FormatBool(s.RSA)))
	return s.Name + "-" + hex.EncodeToString(sum[:6])
}

// sharedEntry is the certificate among what the nodes share, and the name of its lock.
func (s *Source) sharedEntry() string { return certificateEntry(s.s.wish()) }

// adoptShared puts the certificate in use that the nodes share, if it is newer,
// and theirs in its place if it is not.
func (s *Source) adoptShared(ctx context.Context, st *store) error {
	raw, theirs, err := st.sharedCertificate(ctx, s.sharedEntry())
	if err != nil {
		return err
	}
	if theirs != nil && !(s.fits(theirs) && s.serves(theirs.cert.Leaf)) {
		st.unusable(s.sharedEntry(), errors.New("is a certificate for something else"))
		theirs = nil
	}
	ours := s.inUse
	if ours != nil && !s.fits(ours) {
		ours = nil
	}
	switch {
	case theirs.newer(ours):
		s.use(theirs)
		s.log.Info("a certificate that the nodes share is in use", "names", s.s.Hosts, "not_after", theirs.cert.Leaf.NotAfter, "renewal", s.due)
		if plain, err := theirs.encode(); err == nil {
			st.keep(ctx, certificateEntry(s.s.Name), plain)
		}
	case ours.newer(theirs) && time.Now().Before(ours.cert.Leaf.NotAfter):
		plain, err := ours.encode()
		if err != nil {
			return err
		}
		ttl := time.Until(ours.cert.Leaf.NotAfter) + forgotten
		if err := st.share(ctx, s.sharedEntry(), raw, plain, ttl); !errors.Is(err, ErrChanged) {
			return err
		} // whatever stands there now is looked at the next time
	}
	return nil
}

// newer says which of two is to be used; of two that end at the same time all
// nodes choose the same one. nil is older than any.
func (c *stored) newer(than *stored) bool {
	if c == nil || than == nil {
		return c != nil
	}
	a, b := c.cert.Leaf, than.cert.Leaf
	if !a.NotAfter.Equal(b.NotAfter) {
		return a.NotAfter.After(b.NotAfter)
	}
	return bytes.Compare(a.Raw, b.Raw) > 0
}
