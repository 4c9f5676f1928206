package registry

import (
	"context"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// Settings are what a registry is made of. Store and Log are required.
type Settings struct {
	Store store.Store
	// Dir is where the node's copy is kept as services.json; empty: in memory only.
	Dir string
	// Evicts says that this node removes entries whose time is over.
	Evicts bool
	// Preserve is the percentage of all leases that may expire within two
	// minutes; with more, nobody is evicted. 0: all may.
	Preserve int
	// MaxInstances bounds the registry; 0 means 50 000.
	MaxInstances int
	Log          *slog.Logger
}

// Registry is one node's part in the registry. Its methods are safe for
// concurrent use.
type Registry struct {
	s     Settings
	table *table
	disk  *disk
	kick  chan struct{} // look at the store now

	looked chan struct{} // closed once the store has been asked

	begin sync.Once
	used  atomic.Bool
	beats renewals
	stop  func()
	done  sync.WaitGroup

	waiting waiting

	mu     sync.Mutex // guards the following
	status Summary
	end    bool

	// These belong to the goroutine that follows the store.
	position store.Position
	full     time.Time // of the last snapshot
	values   time.Time // when static entries were last read
	news     bool      // they may have changed
}

const (
	// folder of the store with static entries, by staticName, and marker, which
	// tells a store that has none from one that has lost them.
	folder = "services"
	marker = "registry"
	// poll is how often the store is asked: what a lost notification costs.
	poll = time.Second
	// gather is how long changes are collected to be read together, unless
	// somebody waits to see one.
	gather = 20 * time.Millisecond
	// pollValues is the same for static entries.
	pollValues = 10 * time.Second
	// patience is how long the store may take for one answer.
	patience = 3 * time.Second
	// resync is how often everything is read again, in case somebody has
	// meddled with the store.
	resync = 5 * time.Minute
	// longest is how long an entry that the store has lost is kept at most, and
	// only while so many are missing that it looks like the store's fault.
	longest = time.Hour

	defaultMaxInstances = 50_000
)

// Summary is what a node knows of the registry.
type Summary struct {
	// Services and Instances are counted as they are to be seen here; Up of them
	// get requests. Missing of them the store does not have.
	Services  int `json:"services"`
	Instances int `json:"instances"`
	Up        int `json:"up"`
	Static    int `json:"static"`
	Missing   int `json:"missing,omitempty"`
	// Malformed is how many entries cannot be read and are left out, Problems
	// what is wrong with some of them.
	Malformed int      `json:"malformed,omitempty"`
	Problems  []string `json:"problems,omitempty"`
	// StoreUp says whether the store answers, Answered is when it last did; zero:
	// never, and what there is comes from disk, as FromDisk says.
	StoreUp  bool      `json:"store_up"`
	Answered time.Time `json:"answered,omitzero"`
	FromDisk bool      `json:"from_disk,omitempty"`
	Saved    time.Time `json:"saved,omitzero"`
	Error    string    `json:"error,omitempty"`
	// Preserving is since when nobody is evicted, because too many leases are
	// over at once: Overdue of Leases. Known on nodes that evict.
	Preserving time.Time `json:"preserving,omitzero"`
	Overdue    int       `json:"overdue,omitempty"`
	Leases     int       `json:"leases,omitempty"`
	// Evicted counts what this node has removed since it started.
	Evicted uint64 `json:"evicted,omitempty"`
}

// New returns a registry that does nothing yet, and touches neither store nor
// disk before Use.
func New(s Settings) *Registry {
	if s.MaxInstances == 0 {
		s.MaxInstances = defaultMaxInstances
	}
	r := &Registry{s: s, table: newTable(), kick: make(chan struct{}, 1), stop: func() {}, looked: make(chan struct{})}
	if s.Dir != "" {
		r.disk = &disk{path: filepath.Join(s.Dir, "services.json")}
	}
	r.beats.init()
	return r
}

// Use starts the registry if it has not been: a node that needs none leaves the
// store alone. What is known is that from disk at first.
func (r *Registry) Use() {
	r.begin.Do(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.end {
			return
		}
		r.used.Store(true)
		r.load()
		ctx, cancel := context.WithCancel(context.Background())
		r.stop = cancel
		r.done.Go(func() { r.watch(ctx) })
		r.done.Go(func() { r.follow(ctx) })
		r.done.Go(func() { r.beats.run(ctx, r.s.Store) })
		if r.s.Evicts {
			r.done.Go(func() { r.evict(ctx) })
		}
	})
}

// Used says whether it was started.
func (r *Registry) Used() bool { return r.used.Load() }

// Close ends it. What is known stays to be read. It is safe twice, and without
// Use.
func (r *Registry) Close() {
	r.begin.Do(func() {})
	r.mu.Lock()
	r.end = true
	stop := r.stop
	r.mu.Unlock()
	stop()
	r.done.Wait()
}

// Summary is how the registry is, as seen from here.
func (r *Registry) Summary() Summary {
	r.mu.Lock()
	s := r.status
	r.mu.Unlock()
	r.table.count(&s)
	return s
}

// Get returns an instance, or nil.
func (r *Registry) Get(service, id string) *Entry { r.Use(); return r.table.get(service, id) }

// Find returns an instance of any service by its ID alone, or nil.
func (r *Registry) Find(id string) *Entry {
	r.Use()
	r.table.mu.RLock()
	defer r.table.mu.RUnlock()
	for _, name := range slices.Sorted(maps.Keys(r.table.services)) {
		if e := r.table.services[name][key(name, id)]; e != nil {
			return e
		}
	}
	return nil
}

// Instances lists those of a service by ID.
func (r *Registry) Instances(service string) []*Entry { r.Use(); return r.table.list(service) }

// Counts tells how many instances of each service have which status. Services
// beyond the first most by name are added up as "other".
func (r *Registry) Counts(most int) map[string]map[Status]int {
	r.table.mu.RLock()
	defer r.table.mu.RUnlock()
	out := map[string]map[Status]int{}
	for i, name := range slices.Sorted(maps.Keys(r.table.services)) {
		label := name
		if i >= most {
			label = "other"
		}
		if out[label] == nil {
			out[label] = map[Status]int{}
		}
		for _, e := range r.table.services[name] {
			out[label][e.Effective()]++
		}
	}
	return out
}

// View is everything at one moment.
type View struct {
	// Services are the instances by service, those by ID.
	Services map[string][]*Entry
	// Events are the changes of the last three minutes, oldest first.
	Events []Event
	// Version counts changes of this copy.
	Version uint64
}

// View returns everything, which costs as much.
func (r *Registry) View() *View { r.Use(); return r.table.view(time.Now()) }

// Version counts the changes of this copy.
func (r *Registry) Version() uint64 {
	r.Use()
	r.table.mu.RLock()
	defer r.table.mu.RUnlock()
	return r.table.version
}

// Changed returns a channel that gets something after each change of a service,
// or of any with "", and what ends that.
func (r *Registry) Changed(service string) (<-chan struct{}, func()) {
	r.Use()
	return r.table.watch(service)
}

// watch has the store looked at whenever it says that something has changed.
func (r *Registry) watch(ctx context.Context) {
	for ctx.Err() == nil {
		err := r.s.Store.Watch(ctx, func(topic string) {
			switch topic {
			case store.TopicLeases:
				r.poke()
			case folder, "":
				r.mu.Lock()
				r.news = true
				r.mu.Unlock()
				r.poke()
			}
		})
		if err != nil && ctx.Err() == nil {
			r.s.Log.Warn("the store no longer tells of changes of services; they are found by asking", "error", err)
		}
		sleep(ctx, poll)
	}
}

func (r *Registry) poke() {
	select {
	case r.kick <- struct{}{}:
	default: // it is to happen already
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// waiting are those who want to see what they have just written.
type waiting struct {
	mu   sync.Mutex // guards list
	list []chan struct{}
}

func (w *waiting) take() []chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.list
	w.list = nil
	return list
}

func (w *waiting) any() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.list) > 0
}

// sync waits until the copy has what the store has now, or ctx is done. Static
// entries are read if they may have changed.
func (r *Registry) sync(ctx context.Context, static bool) {
	c := make(chan struct{})
	r.mu.Lock()
	r.news = r.news || static
	r.mu.Unlock()
	r.waiting.mu.Lock()
	r.waiting.list = append(r.waiting.list, c)
	r.waiting.mu.Unlock()
	r.poke()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-c:
	case <-ctx.Done(): // it comes by itself
	}
}
