// Package plugins is the contract between Gatehouse and its plugins, built in
// or not. A plugin is a Factory: a name, a config type, and a function that
// makes an Instance from one config. Importing a plugin does nothing; cmd lists
// the factories by hand.
//
// The config type is a struct whose fields carry yaml, default, enum, min, max
// and required tags (see package config/strict) and which may have a method
// Validate(*problem.List) for what tags cannot say. Unknown keys, wrong types
// and values out of range are reported with file, line and column before New
// is called.
package plugins

import (
	"context"
	"log/slog"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// Factory makes instances of one plugin.
type Factory struct {
	// Name is the key in YAML: snake_case, unique in a binary.
	Name string
	// Config returns a pointer to a new zero config struct.
	Config func() any
	// New builds an instance from a config that Config returned, decoded,
	// defaulted and validated. It opens no socket and starts no goroutine.
	New func(config any, s Settings) (Instance, error)
	// Consumers and WAF ask for Settings.Consumers and Settings.WAF. Instances
	// that do not ask are kept on a reload that changes only those.
	Consumers, WAF bool
}

// NeedsConsumers returns the factory with Settings.Consumers asked for.
func (f Factory) NeedsConsumers() Factory { f.Consumers = true; return f }

// NeedsWAF returns the factory with Settings.WAF asked for.
func (f Factory) NeedsWAF() Factory { f.WAF = true; return f }

// Define makes a Factory of a typed constructor.
func Define[C any](name string, build func(c *C, s Settings) (Instance, error)) Factory {
	return Factory{
		Name:   name,
		Config: func() any { return new(C) },
		New: func(config any, s Settings) (Instance, error) {
			return build(config.(*C), s)
		},
	}
}

// Instance is one use of a plugin in one route. Handle is called concurrently.
type Instance interface {
	// Handle is ordinary Fiber middleware: it may act, call c.Next() and act
	// again, or answer itself, or return a *reason.Reason or *reason.Refusal.
	// Any other error is answered as an internal error.
	Handle(c *fiber.Ctx) error
	// Start returns once the instance can serve. Background work begins here
	// and ends with Close, not with ctx.
	Start(ctx context.Context) error
	// Close is safe without Start and safe twice. No request is inside Handle.
	Close(ctx context.Context) error
}

// Stateless makes an Instance of a handler that needs no Start and no Close.
func Stateless(h fiber.Handler) Instance { return &stateless{h} }

type stateless struct{ handle fiber.Handler }

func (s *stateless) Handle(c *fiber.Ctx) error   { return s.handle(c) }
func (s *stateless) Start(context.Context) error { return nil }
func (s *stateless) Close(context.Context) error { return nil }

// Settings is what an instance may use of its surroundings.
type Settings struct {
	// Route is the route the instance serves.
	Route Route
	// Log writes with the route's and plugin's name attached.
	Log *slog.Logger
	// Metrics is where collectors go; see Counter.
	Metrics prometheus.Registerer
	// Consumers are the configured consumers; nil unless the factory asks.
	Consumers *Directory
	// WAF are the configured WAF policies by name, "default" included; nil
	// unless the factory asks.
	WAF map[string]WAFPolicy
	// Dir is what relative paths in the config are relative to.
	Dir string
}

// Route describes the route around an instance, for plugins that derive
// defaults from it (the WAF's allowed methods, for example).
type Route struct {
	Name    string
	Methods []string // empty: any
	Hosts   []string // empty: any
	Path    string   // the match as written, "" if none
}

// Counter returns the counter vector of that name, registering it on first
// use, so that all instances of a plugin share one. Names begin
// "gatehouse_PLUGIN_" and end in "_total".
func (s Settings) Counter(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	return register(s.Metrics, v)
}

// Gauge is Counter for a value that goes up and down.
func (s Settings) Gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	return register(s.Metrics, v)
}

// Histogram is Counter for a distribution; buckets are upper bounds, ascending.
func (s Settings) Histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	return register(s.Metrics, v)
}

func register[V prometheus.Collector](r prometheus.Registerer, v V) V {
	if r == nil {
		return v
	}
	err := r.Register(v)
	if known, ok := err.(prometheus.AlreadyRegisteredError); ok { //nolint:errorlint // returned bare, as documented
		return known.ExistingCollector.(V)
	}
	if err != nil {
		panic("BUG: metric " + err.Error())
	}
	return v
}

// Exchange is the state of the request c belongs to.
func Exchange(c *fiber.Ctx) *exchange.Exchange { return exchange.From(c) }
