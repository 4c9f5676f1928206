package metrics

import "time"

// MaxServices is how many services have series of their own.
const MaxServices = 100

// RegistryCounts is what is to be known of the service registry.
type RegistryCounts struct {
	Services  int
	Instances []InstanceCount
	// Missing, Malformed and Overdue are numbers of entries.
	Missing, Malformed, Overdue int
	StoreUp                     bool
	Answered                    time.Time
	Preserving                  bool
	Evicted                     uint64
}

// InstanceCount is how many instances of a service have a status.
type InstanceCount struct {
	Service, Status string
	Count           int
}

// Services makes the service registry visible; counts may return nil.
func (m *Metrics) Services(counts func() *RegistryCounts) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.services = counts
}

// EurekaCount is how many requests of a kind from clients of Eureka ended in a
// way.
type EurekaCount struct {
	Operation, Result string
	Count             uint64
}

// Eureka makes the requests of Eureka's clients visible.
func (m *Metrics) Eureka(counts func() []EurekaCount) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.eureka = counts
}

func (c *RegistryCounts) collect(e *emit) {
	if c == nil {
		return
	}
	for _, i := range c.Instances {
		e.gauge(serviceInstances, float64(i.Count), i.Service, i.Status)
	}
	e.gauge(serviceCount, float64(c.Services))
	e.gauge(serviceMissing, float64(c.Missing))
	e.gauge(serviceMalformed, float64(c.Malformed))
	e.gauge(serviceUp, flag(c.StoreUp))
	e.gauge(serviceAnswered, seconds(c.Answered))
	e.gauge(servicePreserved, flag(c.Preserving))
	e.gauge(serviceOverdue, float64(c.Overdue))
	e.counter(serviceEvicted, c.Evicted)
}
