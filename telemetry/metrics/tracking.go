package metrics

import (
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// tracking is the registerer handed to plugins. It remembers their vectors, so
// that the series of a route can be dropped when the route goes.
type tracking struct {
	registry *prometheus.Registry
	mu       sync.Mutex // guards vectors
	vectors  []vector
}

type vector interface {
	prometheus.Collector
	DeletePartialMatch(prometheus.Labels) int
}

var _ prometheus.Registerer = (*tracking)(nil)

// Register implements prometheus.Registerer.
func (t *tracking) Register(c prometheus.Collector) error {
	if err := t.registry.Register(c); err != nil {
		return err
	}
	if v, ok := c.(vector); ok {
		t.mu.Lock()
		t.vectors = append(t.vectors, v)
		t.mu.Unlock()
	}
	return nil
}

// MustRegister implements prometheus.Registerer.
func (t *tracking) MustRegister(list ...prometheus.Collector) {
	for _, c := range list {
		if err := t.Register(c); err != nil {
			panic("BUG: metric " + err.Error())
		}
	}
}

// Unregister implements prometheus.Registerer.
func (t *tracking) Unregister(c prometheus.Collector) bool {
	if v, ok := c.(vector); ok {
		t.mu.Lock()
		t.vectors = slices.DeleteFunc(t.vectors, func(x vector) bool { return x == v })
		t.mu.Unlock()
	}
	return t.registry.Unregister(c)
}

func (t *tracking) drop(route string) {
	t.mu.Lock()
	list := slices.Clone(t.vectors)
	t.mu.Unlock()
	for _, v := range list {
		v.DeletePartialMatch(prometheus.Labels{"route": route})
	}
}
