// Package local keeps the store of a single node: revisions and values in one
// file, and counters; leases, buckets and places, which mean nothing once the
// node has stopped, in memory.
package local

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// The buckets of the file.
var (
	revisionHeads = []byte("revisions")
	revisionData  = []byte("revision_data")
	values        = []byte("values")
)

// Store is a store.Store in DIR/store.db.
type Store struct {
	dir string
	mu  sync.RWMutex // held for reading while the file is used; guards what follows
	db  *bbolt.DB    // nil: not open
	end bool
	// lent is closed when the file may be used again; nil: it may be.
	lent chan struct{}
	watchers
	leases
	limits
}

var _ store.Store = (*Store)(nil)

// lockTime is how long another process may hold the file: a node that is just
// being replaced.
const lockTime = 5 * time.Second

// New returns a store that opens its file when it is first used: a node that
// shares nothing leaves no file behind.
func New(dir string) *Store {
	s := &Store{dir: dir}
	s.leases.init(func() { s.tell(store.TopicLeases) })
	s.limits.init(s)
	return s
}

// Open is New, and opens or makes the file, in a folder that is made with mode
// 0700 if it is not there. Its error names the file.
func Open(dir string) (*Store, error) {
	s := New(dir)
	if _, err := s.use(); err != nil {
		return nil, err
	}
	s.mu.RUnlock()
	return s, nil
}

// use returns the file, open, and holds mu for reading, except after an error.
func (s *Store) use() (*bbolt.DB, error) {
	for {
		s.mu.RLock()
		if s.db != nil {
			return s.db, nil
		}
		s.mu.RUnlock()
		if err := s.open(); err != nil {
			return nil, err
		}
	}
}

func (s *Store) open() error {
	s.mu.Lock()
	for s.lent != nil {
		back := s.lent
		s.mu.Unlock()
		<-back
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	if s.end {
		return errors.New("store: is closed")
	}
	if s.db != nil {
		return nil
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(s.dir, "store.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTime})
	if errors.Is(err, berrors.ErrTimeout) {
		return fmt.Errorf("%s: another process has it open", path)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{revisionHeads, revisionData, values} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", path, err), db.Close())
	}
	s.db = db
	return nil
}

func (s *Store) view(f func(*bbolt.Tx) error) error {
	db, err := s.use()
	if err != nil {
		return err
	}
	defer s.mu.RUnlock()
	return db.View(f)
}

func (s *Store) update(f func(*bbolt.Tx) error) error {
	db, err := s.use()
	if err != nil {
		return err
	}
	defer s.mu.RUnlock()
	return db.Update(f)
}

// Lend closes the file for a process that is to replace this one. What uses the
// store next waits for Reclaim, or for Close; counting fails.
func (s *Store) Lend() error {
	err := s.limits.release()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lent == nil {
		s.lent = make(chan struct{})
	}
	return errors.Join(err, s.release())
}

// Reclaim ends Lend: the other process has let go of the file, or never had it.
func (s *Store) Reclaim() {
	s.mu.Lock()
	s.reclaim()
	s.mu.Unlock()
	s.limits.reclaim()
}

func (s *Store) reclaim() {
	if s.lent != nil {
		close(s.lent)
		s.lent = nil
	}
}

// release closes the file. mu is held.
func (s *Store) release() error {
	db := s.db
	s.db = nil
	if db == nil {
		return nil
	}
	return db.Close()
}

// Close implements store.Store.
func (s *Store) Close() error {
	err := s.limits.release()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end = true
	s.reclaim()
	return errors.Join(err, s.release())
}

// Ping implements store.Store.
func (s *Store) Ping(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.view(func(*bbolt.Tx) error { return nil })
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func latest(tx *bbolt.Tx) uint64 {
	k, _ := tx.Bucket(revisionHeads).Cursor().Last()
	if len(k) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(k)
}

func put(tx *bbolt.Tx, r *store.Revision) error {
	head, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := tx.Bucket(revisionHeads).Put(number(r.Number), head); err != nil {
		return err
	}
	return tx.Bucket(revisionData).Put(number(r.Number), r.Data)
}

// Publish implements store.Revisions.
func (s *Store) Publish(_ context.Context, r *store.Revision) error {
	err := s.update(func(tx *bbolt.Tx) error {
		if r.Number == 0 || r.Number != latest(tx)+1 {
			return store.ErrConflict
		}
		return put(tx, r)
	})
	if err == nil {
		s.tell(store.TopicRevisions)
	}
	return err
}

// Latest implements store.Revisions.
func (s *Store) Latest(context.Context) (n uint64, err error) {
	err = s.view(func(tx *bbolt.Tx) error { n = latest(tx); return nil })
	return n, err
}

func read(head []byte) (*store.Revision, error) {
	r := new(store.Revision)
	if err := json.Unmarshal(head, r); err != nil {
		return nil, fmt.Errorf("%w: a revision: %w", store.ErrMalformed, err)
	}
	return r, nil
}

// Revision implements store.Revisions.
func (s *Store) Revision(_ context.Context, n uint64) (r *store.Revision, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		head := tx.Bucket(revisionHeads).Get(number(n))
		if head == nil {
			return store.ErrNotFound
		}
		if r, err = read(head); err != nil {
			return err
		}
		r.Data = append([]byte(nil), tx.Bucket(revisionData).Get(number(n))...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// History implements store.Revisions.
func (s *Store) History(_ context.Context, before uint64, limit int) (list []store.Revision, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		c := tx.Bucket(revisionHeads).Cursor()
		k, head := c.Last()
		if before > 0 && before <= latest(tx) {
			c.Seek(number(before))
			k, head = c.Prev()
		}
		for ; k != nil && len(list) < limit; k, head = c.Prev() {
			r, err := read(head)
			if err != nil {
				return err
			}
			list = append(list, *r)
		}
		return nil
	})
	return list, err
}

// Restore implements store.Revisions.
func (s *Store) Restore(_ context.Context, list []*store.Revision) error {
	if err := store.CheckRestore(list); err != nil {
		return err
	}
	err := s.update(func(tx *bbolt.Tx) error {
		if latest(tx) > 0 {
			return store.ErrConflict
		}
		for _, r := range list {
			if err := put(tx, r); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		s.tell(store.TopicRevisions)
	}
	return err
}

// Prune implements store.Revisions.
func (s *Store) Prune(_ context.Context, oldest uint64) (removed int, err error) {
	err = s.update(func(tx *bbolt.Tx) error {
		oldest = min(oldest, latest(tx))
		c := tx.Bucket(revisionHeads).Cursor()
		for k, _ := c.First(); len(k) == 8 && binary.BigEndian.Uint64(k) < oldest; k, _ = c.First() {
			if err := tx.Bucket(revisionData).Delete(k); err != nil {
				return err
			}
			if err := c.Delete(); err != nil {
				return err
			}
			removed++
		}
		return nil
	})
	return removed, err
}

// watchers are told of changes.
type watchers struct {
	mu   sync.Mutex // guards list
	list map[*watcher]struct{}
}

// watcher collects topics that its goroutine has not told yet.
type watcher struct {
	mu     sync.Mutex // guards topics
	topics map[string]struct{}
	wake   chan struct{}
}

func (w *watchers) tell(topic string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for x := range w.list {
		x.mu.Lock()
		x.topics[topic] = struct{}{}
		x.mu.Unlock()
		select {
		case x.wake <- struct{}{}:
		default:
		}
	}
}

// Watch implements store.Store.
func (w *watchers) Watch(ctx context.Context, changed func(topic string)) error {
	x := &watcher{topics: map[string]struct{}{}, wake: make(chan struct{}, 1)}
	w.mu.Lock()
	if w.list == nil {
		w.list = map[*watcher]struct{}{}
	}
	w.list[x] = struct{}{}
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.list, x)
		w.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-x.wake:
		}
		x.mu.Lock()
		topics := x.topics
		x.topics = map[string]struct{}{}
		x.mu.Unlock()
		for topic := range topics {
			changed(topic)
		}
	}
}
