package limits

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

const (
	// tolerated is how many batches in a row may be late before nobody waits any
	// more: one may be a pause of the collector's.
	tolerated = 3
	// probing is how often a store that is away is tried.
	probing = 100 * time.Millisecond
	// reported is how often the log tells that the store has become too slow: a
	// busy one may be so many times a second, which the metrics count.
	reported = time.Minute
	// notable is how long it must be away to be in the log all the same.
	notable = time.Second
)

// health is whether the store is worth asking. It is away after an error, or
// when it was too slow several times in a row, and back when it has answered in
// time a question that makes it write.
type health struct {
	store    store.Limits
	deadline time.Duration
	log      *slog.Logger
	gone     atomic.Bool
	lates    atomic.Int32
	wake     chan struct{}

	// Of one goroutine at a time: who has set gone, then watch until it is reset.
	logged time.Time // when the log was last told that the store is away
	told   bool      // it was told so of this time

	took     prometheus.Histogram
	failures *prometheus.CounterVec
	up       prometheus.Gauge
}

func newHealth(s Settings) *health {
	h := &health{
		store: s.Store, deadline: s.Deadline, log: s.Log, wake: make(chan struct{}, 1),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "gatehouse_limits_store_duration_seconds", Help: "Round trips to the store for limits of the fleet, late ones included.",
			Buckets: []float64{.0001, .00025, .0005, .001, .002, .005, .01, .05, .25},
		}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_limits_store_failures_total", Help: "Round trips for limits of the fleet that failed (error), or did not end in time (late).",
		}, []string{"cause"}),
		up: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "gatehouse_limits_store_up", Help: "1 while limits of the fleet are counted in the store, 0 while each node counts by itself.",
		}),
	}
	h.up.Set(1)
	for _, cause := range []string{"error", "late"} {
		h.failures.WithLabelValues(cause)
	}
	if s.Metrics != nil {
		s.Metrics.MustRegister(h.took, h.failures, h.up)
	}
	return h
}

// away says that nobody should ask, nor wait.
func (h *health) away() bool { return h.gone.Load() }

// asked takes down how a round trip ended.
func (h *health) asked(took time.Duration, err error, inTime bool) {
	h.took.Observe(took.Seconds())
	switch {
	case err != nil:
		h.failures.WithLabelValues("error").Inc()
		h.lost(err)
	case inTime:
		h.lates.Store(0)
	}
}

// late takes down that those who waited were let go.
func (h *health) late() {
	h.failures.WithLabelValues("late").Inc()
	if h.lates.Add(1) >= tolerated {
		h.lost(context.DeadlineExceeded)
	}
}

func (h *health) lost(err error) {
	if h.gone.Swap(true) {
		return
	}
	h.up.Set(0)
	if time.Since(h.logged) >= reported {
		h.tell(err)
	}
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (h *health) tell(err error) {
	h.logged, h.told = time.Now(), true
	h.log.Warn("the store does not answer in time: this node applies the fleet's limits by itself", "deadline", h.deadline, "error", err)
}

// watch tries the store while it is away.
func (h *health) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
		}
		for began := time.Now(); h.away(); {
			select {
			case <-ctx.Done():
				return
			case <-time.After(probing):
			}
			if err := h.probe(ctx); err != nil && !h.told && time.Since(began) >= notable {
				h.tell(err)
			}
		}
	}
}

// probe is nil if the store is back.
func (h *health) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, max(patience, h.deadline))
	defer cancel()
	began := time.Now()
	_, err := h.store.Take(ctx, []store.Take{{Key: "probe", Buckets: []store.Bucket{{Interval: time.Millisecond, Burst: 1000}}, Cost: 1}})
	took := time.Since(began)
	if err == nil && took > h.deadline {
		err = context.DeadlineExceeded
	}
	if err != nil {
		return err
	}
	h.took.Observe(took.Seconds())
	h.lates.Store(0)
	h.up.Set(1)
	if h.told {
		h.told = false
		h.log.Info("the store answers again: the fleet's limits are counted there")
	}
	h.gone.Store(false) // last: from here on another may say that it is away
	return nil
}
