package eureka

import (
	"bytes"
	"compress/gzip"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/mesh/registry"
)

// form is one of the ways in which everything is asked for.
type form struct{ delta, json, gzip bool }

// cache keeps what everything looks like, which many clients ask for every
// half minute and which is the same for all.
type cache struct {
	mu    sync.Mutex // held while something is made: the others wait for it
	forms map[form]*made
}

type made struct {
	body    []byte
	version uint64
	at      time.Time
	took    time.Duration
}

const (
	// What took longer than quick to make stays as it is for factor times as long,
	// so that many changes of a large registry cost a tenth of a core at most.
	quick  = 20 * time.Millisecond
	factor = 10
	// stale is how old a form may get without changes: the delta has times.
	stale = 30 * time.Second
)

func (m *made) good(version uint64, now time.Time) bool {
	age := now.Sub(m.at)
	return m.took > quick && age < factor*m.took || m.version == version && age < stale
}

func (c *cache) get(r *registry.Registry, f form) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	version := r.Version()
	if m := c.forms[f]; m != nil && m.good(version, time.Now()) {
		return m.body, nil
	}
	began := time.Now()
	view := r.View()
	body, err := encode(newApplications(view, f.delta, nil), f.json)
	if err != nil {
		return nil, err
	}
	if f.gzip {
		if body, err = compress(body); err != nil {
			return nil, err
		}
	}
	if c.forms == nil {
		c.forms = map[form]*made{}
	}
	c.forms[f] = &made{body, view.Version, time.Now(), time.Since(began)}
	return body, nil
}

func compress(b []byte) ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(b); err != nil {
		return nil, err
	}
	err = z.Close()
	return out.Bytes(), err
}

func newApplication(service string, list []*registry.Entry) *application {
	a := &application{Name: strings.ToUpper(service), Instances: make([]*shown, len(list))}
	for i, e := range list {
		a.Instances[i] = show(e, registry.Added)
	}
	return a
}

// newApplications makes Eureka's form of everything, or of the last changes: of
// each instance the last one. The checksum is of everything in any case.
func newApplications(v *registry.View, delta bool, only func(*shown) bool) *applications {
	out := &applications{Version: "1", List: []application{}} // none is [] in JSON
	counts := map[string]int{}
	for _, service := range slices.Sorted(maps.Keys(v.Services)) {
		a := application{Name: strings.ToUpper(service)}
		for _, e := range v.Services[service] {
			if delta {
				counts[statusWord(e)]++
				continue
			}
			x := show(e, registry.Added)
			if only == nil || only(x) {
				counts[x.Status]++
				a.Instances = append(a.Instances, x)
			}
		}
		if len(a.Instances) > 0 {
			out.List = append(out.List, a)
		}
	}
	out.Hashcode = hashcode(counts)
	if delta {
		out.Version = strconv.FormatUint(v.Version, 10)
		out.List = changes(v.Events)
	}
	return out
}

// statusWord is what show would say.
func statusWord(e *registry.Entry) string {
	if e.Override == "" && e.Origin == origin && e.Status == registry.Starting {
		return show(e, registry.Added).Status // it may be unknown
	}
	return word(e.Effective())
}

// changes are the last ones of each instance, by service.
func changes(events []registry.Event) []application {
	last := map[string]registry.Event{}
	for _, e := range events {
		last[e.Entry.Service+"/"+e.Entry.ID] = e
	}
	list := []application{}
	for _, k := range slices.Sorted(maps.Keys(last)) {
		e := last[k]
		name := strings.ToUpper(e.Entry.Service)
		if len(list) == 0 || list[len(list)-1].Name != name {
			list = append(list, application{Name: name})
		}
		a := &list[len(list)-1]
		a.Instances = append(a.Instances, show(e.Entry, e.Kind))
	}
	return list
}
