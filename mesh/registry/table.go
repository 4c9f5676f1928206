package registry

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Entry is an instance as a node's copy has it. It does not change.
type Entry struct {
	*Instance
	// Tag stands for what it holds.
	Tag string
	// Missing is since when the store does not have it; zero: it has.
	Missing time.Time

	raw []byte
}

// Kind is what happened to an entry.
type Kind string

// The kinds. The values are Eureka's.
const (
	Added    Kind = "ADDED"
	Modified Kind = "MODIFIED"
	Deleted  Kind = "DELETED"
)

// Event is a change of a node's copy.
type Event struct {
	Kind  Kind
	Entry *Entry // as it is, or last was
	Time  time.Time
}

const (
	// remembered is how long changes are, which is Eureka's time too
	// (retentionTimeInMSInDeltaQueue), and maxEvents how many at most.
	remembered = 3 * time.Minute
	maxEvents  = 5000
	// maxBad bounds how many malformed entries are named.
	maxBad = 20
)

// table is the copy itself. Leases and static entries of the same key live side
// by side; a static one hides the lease.
type table struct {
	mu       sync.RWMutex                 // guards all below
	leases   map[string]*Entry            // by ID
	statics  map[string]*Entry            // by name of the value
	services map[string]map[string]*Entry // what is to be seen, by service and ID
	bad      [2]bad                       // of leases and statics
	events   []Event
	version  uint64
	watchers map[string]map[chan struct{}]struct{} // by service; "" for all
}

// bad is what cannot be read.
type bad struct {
	why  map[string]string // by place in the store
	more int               // how many are not in why
}

func newTable() *table {
	return &table{
		leases: map[string]*Entry{}, statics: map[string]*Entry{}, services: map[string]map[string]*Entry{},
		bad: [2]bad{{why: map[string]string{}}, {why: map[string]string{}}}, watchers: map[string]map[chan struct{}]struct{}{},
	}
}

// edit is a number of changes to a table that are seen at once. The table is
// locked until done.
type edit struct {
	t       *table
	now     time.Time
	changed map[string]bool // services
}

func (t *table) edit() *edit {
	t.mu.Lock()
	return &edit{t: t, now: time.Now(), changed: map[string]bool{}}
}

// done makes the changes seen, and is true if there were any.
func (e *edit) done() bool {
	t := e.t
	if len(e.changed) > 0 {
		t.version++
		e.changed[""] = true
		t.forget(e.now)
	}
	for service := range e.changed {
		wake(t.watchers[service])
	}
	t.mu.Unlock()
	return len(e.changed) > 0
}

func wake(watchers map[chan struct{}]struct{}) {
	for c := range watchers {
		select {
		case c <- struct{}{}:
		default: // it has yet to look anyway
		}
	}
}

// tell wakes everybody who watches anything.
func (t *table) tell() {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, w := range t.watchers {
		wake(w)
	}
}

func (t *table) badOf(static bool) *bad {
	if static {
		return &t.bad[1]
	}
	return &t.bad[0]
}

// kind is the map an entry lives in, by its place in the store.
func (t *table) kind(static bool) map[string]*Entry {
	if static {
		return t.statics
	}
	return t.leases
}

// put takes what the store has at a place: the ID of a lease, or the name of a
// value.
func (e *edit) put(static bool, place string, raw []byte) {
	in := e.t.kind(static)
	if old := in[place]; old != nil && bytes.Equal(old.raw, raw) {
		e.good(static, place)
		if !old.Missing.IsZero() {
			again := *old
			again.Missing = time.Time{}
			in[place] = &again
			e.show(old.key())
		}
		return
	}
	i, err := read(static, place, raw)
	if err != nil {
		e.malformed(static, place, err)
		e.lose(static, place)
		return
	}
	e.good(static, place)
	in[place] = &Entry{Instance: i, Tag: tag(raw), raw: raw}
	e.show(i.key())
}

// read decodes what is at a place, if it belongs there.
func read(static bool, place string, raw []byte) (*Instance, error) {
	i, err := decode(raw)
	switch {
	case err != nil:
		return nil, err
	case i.Static() != static:
		return nil, invalid("ttl", "is not what it must be here")
	case i.place() != place:
		return nil, fmt.Errorf("is the entry of %s", i.key())
	}
	return i, nil
}

// lose notes that the store does not have what it should have.
func (e *edit) lose(static bool, place string) {
	in := e.t.kind(static)
	if old := in[place]; old != nil && old.Missing.IsZero() {
		again := *old
		again.Missing = e.now
		in[place] = &again
		e.show(old.key())
	}
}

// remove takes out what is gone for certain.
func (e *edit) remove(static bool, place string) {
	e.good(static, place)
	in := e.t.kind(static)
	if old := in[place]; old != nil {
		delete(in, place)
		e.show(old.key())
	}
}

// afresh forgets what was malformed: all of a kind is put again.
func (e *edit) afresh(static bool) {
	b := e.t.badOf(static)
	clear(b.why)
	b.more = 0
}

func (e *edit) good(static bool, place string) { delete(e.t.badOf(static).why, place) }

func (e *edit) malformed(static bool, place string, err error) {
	b := e.t.badOf(static)
	if _, known := b.why[place]; !known && len(b.why) >= maxBad {
		b.more++
		return
	}
	b.why[place] = err.Error()
}

// show makes services follow what leases and statics have for an instance.
func (e *edit) show(k string) {
	t := e.t
	service, _, _ := strings.Cut(k, "/")
	now, before := t.statics[staticName(k)], t.services[service][k]
	if now == nil {
		now = t.leases[k]
	}
	switch {
	case now == before:
		return
	case now == nil:
		delete(t.services[service], k)
		if len(t.services[service]) == 0 {
			delete(t.services, service)
		}
		e.event(Deleted, before)
	case before == nil:
		if t.services[service] == nil {
			t.services[service] = map[string]*Entry{}
		}
		t.services[service][k] = now
		e.event(Added, now)
	default:
		t.services[service][k] = now
		if before.Tag == now.Tag {
			return // it is missing, or no more: its users need not know
		}
		e.event(Modified, now)
	}
	e.changed[service] = true
}

func (e *edit) event(kind Kind, entry *Entry) {
	e.t.events = append(e.t.events, Event{kind, entry, e.now})
}

// forget drops events that are too old or too many. t.mu is held.
func (t *table) forget(now time.Time) {
	first := max(0, len(t.events)-maxEvents)
	for first < len(t.events) && now.Sub(t.events[first].Time) > remembered {
		first++
	}
	if first > 0 {
		t.events = slices.Clone(t.events[first:])
	}
}

// get finds what is to be seen; nil: nothing.
func (t *table) get(service, id string) *Entry {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.services[service][key(service, id)]
}

// at finds what is at a place; nil: nothing.
func (t *table) at(static bool, place string) *Entry {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.kind(static)[place]
}

// list returns the instances of a service by ID.
func (t *table) list(service string) []*Entry {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return sorted(t.services[service])
}

func sorted(m map[string]*Entry) []*Entry {
	return slices.SortedFunc(maps.Values(m), func(a, b *Entry) int { return cmp.Compare(a.ID, b.ID) })
}

// watch returns a channel that gets something whenever a service has changed,
// "" for any, and what ends that.
func (t *table) watch(service string) (changed <-chan struct{}, stop func()) {
	c := make(chan struct{}, 1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.watchers[service] == nil {
		t.watchers[service] = map[chan struct{}]struct{}{}
	}
	t.watchers[service][c] = struct{}{}
	return c, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.watchers[service], c)
		if len(t.watchers[service]) == 0 {
			delete(t.watchers, service)
		}
	}
}

// view copies everything.
func (t *table) view(now time.Time) *View {
	t.mu.RLock()
	defer t.mu.RUnlock()
	v := &View{Services: make(map[string][]*Entry, len(t.services)), Version: t.version}
	for name, m := range t.services {
		v.Services[name] = sorted(m)
	}
	for i, e := range t.events {
		if now.Sub(e.Time) <= remembered {
			v.Events = slices.Clone(t.events[i:])
			break
		}
	}
	return v
}

// all copies the entries of a kind, by place.
func (t *table) all(static bool) map[string]*Entry {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return maps.Clone(t.kind(static))
}

func (t *table) size() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.leases) + len(t.statics)
}

// missing lists the leases that the store does not have, and counts all.
func (t *table) missing() (list []*Entry, all int) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, e := range t.leases {
		if !e.Missing.IsZero() {
			list = append(list, e)
		}
	}
	return list, len(t.leases)
}

// count fills in what a summary says of the copy.
func (t *table) count(s *Summary) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	s.Services = len(t.services)
	for _, m := range t.services {
		for _, e := range m {
			s.Instances++
			if e.Effective() == Up {
				s.Up++
			}
			if e.Static() {
				s.Static++
			}
			if !e.Missing.IsZero() {
				s.Missing++
			}
		}
	}
	for i, b := range t.bad {
		s.Malformed += len(b.why) + b.more
		for _, place := range slices.Sorted(maps.Keys(b.why)) {
			s.Problems = append(s.Problems, fmt.Sprintf("%s %.300q %s", [...]string{"lease", "value"}[i], place, b.why[place]))
		}
	}
}
