package cmd

import (
	"fmt"
	"io"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/mesh/registry"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
)

// openRegistry makes the node's part in the service registry. Alone on its store
// a node leaves that untouched until somebody wants to know of a service; in a
// fleet those with the control role look after it from the start.
func (n *node) openRegistry(c config.Node) {
	s := registry.Settings{
		Store: n.store, Dir: c.DataDir, Evicts: c.Control.Enabled,
		MaxInstances: c.Registry.MaxInstances, Log: n.log,
	}
	if p := c.Registry.SelfPreservation; p.Enabled {
		s.Preserve = p.Threshold
	}
	n.registry = registry.New(s)
	n.metrics.Services(func() *metrics.RegistryCounts { return registryCounts(n.registry) })
	if c.Store.Redis != nil && c.Control.Enabled {
		n.registry.Use()
	}
}

// registryCounts is what the metrics show; nil while nobody uses the registry.
func registryCounts(r *registry.Registry) *metrics.RegistryCounts {
	if !r.Used() {
		return nil
	}
	s := r.Summary()
	c := &metrics.RegistryCounts{
		Services: s.Services, Missing: s.Missing, Malformed: s.Malformed, StoreUp: s.StoreUp, Answered: s.Answered,
		Preserving: !s.Preserving.IsZero(), Overdue: s.Overdue, Evicted: s.Evicted,
	}
	for service, statuses := range r.Counts(metrics.MaxServices) {
		for status, count := range statuses {
			c.Instances = append(c.Instances, metrics.InstanceCount{Service: service, Status: string(status), Count: count})
		}
	}
	return c
}

// registryStatus is what `gatehouse status` shows; nil: it is not used.
func (n *node) registryStatus() *registry.Summary {
	if !n.registry.Used() {
		return nil
	}
	s := n.registry.Summary()
	return &s
}

// wrongRegistry adds what is wrong with the service registry.
func (s *status) wrongRegistry(add func(format string, args ...any), now time.Time) {
	r := s.Registry
	if r == nil {
		return
	}
	if !r.StoreUp && r.Error != "" {
		from := "those known " + ago(r.Answered, now) + " are used"
		switch {
		case r.FromDisk:
			from = "those that were on disk, from " + ago(r.Saved, now) + ", are used"
		case r.Answered.IsZero():
			from = "none are known"
		}
		add("services: the store does not answer, %s: %s", from, r.Error)
	}
	if !r.Preserving.IsZero() {
		add("services: self-preservation since %s: %d of %d leases are over, none is evicted", stamp(r.Preserving), r.Overdue, r.Leases)
	}
	if r.Missing > 0 && r.StoreUp {
		add("services: the store has lost %s, which are kept until they register again", count(r.Missing, "instance"))
	}
	if r.Malformed > 0 {
		example := ""
		if len(r.Problems) > 0 { // those that were named may have been put right
			example = ", such as " + r.Problems[0]
		}
		add("services: entries in the store that cannot be read and are left out: %d%s", r.Malformed, example)
	}
}

func (s *status) printRegistry(w io.Writer) {
	if r := s.Registry; r != nil && (r.Instances > 0 || !r.StoreUp) {
		fmt.Fprintf(w, "services     %d with %s, %d up\n", r.Services, count(r.Instances, "instance"), r.Up)
	}
}
