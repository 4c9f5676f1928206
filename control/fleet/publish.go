package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/control/revision"
	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// maxText bounds the author and the message of a revision in bytes.
const maxText = 4 << 10

// PublisherSettings are what a Publisher works with.
type PublisherSettings struct {
	Store store.Store
	// Key signs; nil: this node has no control role and only tells.
	Key      *revision.Key
	Follower *Follower
	// Parse reads and validates the files of a revision, as the Follower does.
	Parse func(files []config.File) (*config.Config, *config.Source, error)
	// Check builds all that a node would build, and starts nothing.
	Check func(ctx context.Context, cfg *config.Config, src *config.Source) error
	// Advise finds what a config that is right hardly means; nil: nothing is said.
	Advise func(cfg *config.Config, src *config.Source) config.Problems
	// Keep is how many revisions the store keeps; 0: all.
	Keep uint64
	Log  *slog.Logger
}

// Publisher makes revisions. Its methods are safe for concurrent use.
type Publisher struct {
	s    PublisherSettings
	ctx  context.Context // ends with Close
	stop context.CancelFunc

	mu     sync.Mutex // guards closed, and that done only grows before it
	closed bool
	done   sync.WaitGroup
}

// NewPublisher returns a publisher, which has to be closed.
func NewPublisher(s PublisherSettings) *Publisher {
	p := &Publisher{s: s}
	p.ctx, p.stop = context.WithCancel(context.Background())
	return p
}

// Close ends the waiting for nodes that is under way, and waits for its end.
func (p *Publisher) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.stop()
	p.done.Wait()
}

// begin is true if something may begin that Close has to wait for.
func (p *Publisher) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.done.Add(1)
	}
	return !p.closed
}

// Draft is what is to be published.
type Draft struct {
	// Data is files as revision.Pack makes them.
	Data []byte
	// Author and Message say who does it, and why; Message must not be empty.
	Author, Message string
	// Expect is the number of the revision it was made from, if it is known: what
	// somebody else has published since is not to be lost.
	Expect *uint64
}

// StaleError says that a draft was not made from the newest revision.
type StaleError struct{ Expected, Latest uint64 }

// Error implements error.
func (e *StaleError) Error() string {
	return fmt.Sprintf("revision %d is the newest, not %d: look at what has changed, and apply again", e.Latest, e.Expected)
}

// UnknownError says that a revision may have been published, or may not: the
// answer was lost, and the store could not be asked since.
type UnknownError struct {
	Number uint64
	Why    error // what the store said last
}

// Error implements error.
func (e *UnknownError) Error() string {
	return fmt.Sprintf("whether revision %d was published is not known (%v): gatehouse history tells", e.Number, e.Why)
}

// ErrNoControl: the node cannot publish.
var ErrNoControl = errors.New("this node has no control role (node.control.enabled): ask one that has")

var errClosed = errors.New("this node is stopping")

// DraftError says that a draft is no revision whatever the config says.
type DraftError struct{ Why string }

// Error implements error.
func (e *DraftError) Error() string { return e.Why }

// Publish checks a draft and publishes it. What is wrong with the config is of
// type config.Problems where places can be named. Somebody else being faster is
// a *StaleError or store.ErrConflict; a store that falls silent is an
// *UnknownError.
func (p *Publisher) Publish(ctx context.Context, d Draft) (*store.Revision, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	if _, _, err := p.read(ctx, d.Data); err != nil {
		return nil, err
	}
	n, err := p.latest(ctx)
	if err != nil {
		return nil, err
	}
	if d.Expect != nil && *d.Expect != n {
		return nil, &StaleError{*d.Expect, n}
	}
	r := p.sign(n, d)
	if err := p.put(ctx, r, patience); err != nil {
		return nil, err
	}
	return r, nil
}

func (d *Draft) check() error {
	for what, text := range map[string]string{"author": d.Author, "message": d.Message} {
		if len(text) > maxText || !utf8.ValidString(text) {
			return &DraftError{fmt.Sprintf("the %s must be text of at most %d bytes", what, maxText)}
		}
	}
	if strings.TrimSpace(d.Message) == "" {
		return &DraftError{"a message has to say why"}
	}
	if len(d.Data) > revision.MaxSize {
		return &DraftError{fmt.Sprintf("a revision may have %d bytes, this one has %d", revision.MaxSize, len(d.Data))}
	}
	return nil
}

// read makes sure that a node could run data.
func (p *Publisher) read(ctx context.Context, data []byte) (*config.Config, *config.Source, error) {
	if p.s.Key == nil {
		return nil, nil, ErrNoControl
	}
	files, err := revision.Unpack(data)
	if err != nil {
		return nil, nil, &DraftError{err.Error()}
	}
	cfg, src, err := p.s.Parse(files)
	if err != nil {
		return nil, nil, err
	}
	if err := p.s.Check(ctx, cfg, src); err != nil {
		return nil, nil, err
	}
	return cfg, src, nil
}

// latest is the number to publish after. A store that has lost revisions gets
// them back first: a lower number would run nowhere.
func (p *Publisher) latest(ctx context.Context) (uint64, error) {
	n, err := p.s.Store.Latest(ctx)
	if err != nil || n >= p.s.Follower.kept.newest() {
		return n, err
	}
	_ = p.s.Follower.Look(ctx) // restores; whether it could is seen below
	if n, err = p.s.Store.Latest(ctx); err != nil {
		return 0, err
	}
	if known := p.s.Follower.kept.newest(); n < known {
		return 0, fmt.Errorf("the store has revision %d, but revision %d was published already: %s", n, known, p.s.Follower.Status().Error)
	}
	return n, nil
}

// sign makes the revision after n.
func (p *Publisher) sign(n uint64, d Draft) *store.Revision {
	return p.s.Key.New(n+1, d.Data, d.Author, d.Message, p.s.Follower.s.Now())
}

// put publishes a revision. While it is not known whether that was done it asks,
// for as long as told; to put the same one again is allowed.
func (p *Publisher) put(ctx context.Context, r *store.Revision, long time.Duration) error {
	if err := p.s.Store.Publish(ctx, r); err != nil {
		if err = p.landed(ctx, r, err, long); err != nil {
			return err
		}
	}
	p.s.Log.Info("revision published", "revision", r.Number, "author", r.Author, "message", r.Message)
	p.s.Follower.Poke()
	p.prune(ctx, r.Number)
	return nil
}

// landed is nil if the store has r, of which it said otherwise: the answer may
// have been lost, also the one to an earlier try.
func (p *Publisher) landed(ctx context.Context, r *store.Revision, said error, long time.Duration) error {
	for end := time.Now().Add(long); ; sleep(ctx, asking) {
		got, err := p.s.Store.Revision(ctx, r.Number)
		switch {
		case err == nil && string(got.Signature) == string(r.Signature):
			return nil
		case err == nil:
			return store.ErrConflict
		case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrMalformed):
			return said
		}
		if ctx.Err() != nil || !time.Now().Before(end) {
			if !errors.Is(said, store.ErrConflict) {
				err = said
			}
			return &UnknownError{r.Number, err}
		}
	}
}

// prune removes what is older than the store is to keep. If it cannot, the next
// publishing does.
func (p *Publisher) prune(ctx context.Context, latest uint64) {
	if p.s.Keep == 0 || latest <= p.s.Keep {
		return
	}
	oldest := latest - p.s.Keep + 1
	n, err := p.s.Store.Prune(ctx, oldest)
	if n > 0 {
		p.s.Log.Info("old revisions are no longer kept; nobody can go back to them (node.control.history)", "removed", n, "oldest", oldest)
	}
	if err != nil {
		p.s.Log.Warn("old revisions could not be removed", "error", err)
	}
}

// Revision returns a revision that can be trusted.
func (p *Publisher) Revision(ctx context.Context, n uint64) (*store.Revision, error) {
	r, err := p.s.Store.Revision(ctx, n)
	if err != nil {
		return nil, err
	}
	if err := p.s.Follower.s.Trusted.Verify(r); err != nil {
		return nil, err
	}
	return r, nil
}

// Latest is the store's newest number, 0 if there is none.
func (p *Publisher) Latest(ctx context.Context) (uint64, error) { return p.s.Store.Latest(ctx) }

// History lists revisions without their data; see store.Revisions.
func (p *Publisher) History(ctx context.Context, before uint64, limit int) ([]store.Revision, error) {
	return p.s.Store.History(ctx, before, limit)
}

// Members lists the live nodes.
func (p *Publisher) Members(ctx context.Context) ([]Member, error) { return Members(ctx, p.s.Store) }
