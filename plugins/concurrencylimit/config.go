// Package concurrencylimit is the plugin concurrency_limit: so many requests
// of a route, or of a key, at once. A place is held until the last byte of the
// reply is written or the tunnel ends, and is given back whatever happens.
package concurrencylimit

import (
	"fmt"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/config/unit"
	"github.com/gatehouse-proxy/gatehouse/gateway/attribute"
)

// Config of the plugin concurrency_limit.
type Config struct {
	// Requests at once for every key. With adaptive: where to begin.
	Limit int `yaml:"limit" required:"true" min:"1" max:"1000000"`
	// What is counted: request attributes, several with commas between them.
	Key string `yaml:"key" default:"route"`
	// IPv6 clients are counted by their network of this many bits.
	IPv6Prefix int `yaml:"ipv6_prefix" default:"64" min:"1" max:"128"`
	// What to do with requests that lack a part of the key: refuse them, let
	// them share one count, or skip the limit.
	MissingKey string `yaml:"missing_key" enum:"refuse,share,skip" default:"share"`
	// Requests that may wait for a place, for every key.
	Queue int `yaml:"queue" default:"0" min:"0" max:"1000000"`
	// How long a request may wait.
	MaxWait unit.Duration `yaml:"max_wait" default:"1s" min:"1ms" max:"5m"`
	// Retry-After of refusals, rounded up to seconds.
	RetryAfter unit.Duration `yaml:"retry_after" default:"1s" max:"1d"`
	// Whose limit it is: each node's own, or that of all nodes with the same
	// node.store.redis together.
	Scope string `yaml:"scope" enum:"local,global" default:"local"`
	// With scope: global, what to do while the store does not answer within 2 ms.
	// share: each node has its part of the places. open: do not limit. closed:
	// refuse with 503.
	OnStoreFailure string `yaml:"on_store_failure" enum:"share,open,closed" default:"share"`
	// Find the limit by the upstream's response times.
	Adaptive *Adaptive `yaml:"adaptive"`
}

// Adaptive finds the limit by itself: it rises while response times stay where
// they are and falls when they grow.
type Adaptive struct {
	Min int `yaml:"min" default:"5" min:"1" max:"1000000"`
	Max int `yaml:"max" default:"1000" min:"1" max:"1000000"`
	// How much slower than usual counts as no slower, as a factor.
	Tolerance float64 `yaml:"tolerance" default:"1.5" min:"1" max:"10"`
	// How often the limit is reconsidered.
	Interval unit.Duration `yaml:"interval" default:"200ms" min:"10ms" max:"1m"`
}

// Validate implements strict.Validator.
func (c *Config) Validate(p *problem.List) {
	if _, err := attribute.NewKey(c.key()); err != nil {
		p.Add("key", "%s", strings.TrimPrefix(err.Error(), "attributes: "))
	}
	if c.Scope == "global" {
		p.Check(c.Adaptive == nil, "adaptive", "is only for scope: local, because it measures what one node does")
		p.Check(c.Queue == 0, "queue", "is only for scope: local, because a node does not hear of places that others leave")
	} else {
		p.Check(c.OnStoreFailure == "share", "on_store_failure", "is only for scope: global")
	}
	if a := c.Adaptive; a != nil {
		p.Check(a.Min <= a.Max, "adaptive.min", "must be at most max (%d), got %d", a.Max, a.Min)
		p.Check(c.Limit >= a.Min && c.Limit <= a.Max, "limit", "must be between adaptive.min (%d) and adaptive.max (%d), got %d", a.Min, a.Max, c.Limit)
		p.Check(c.Key == "route", "adaptive", "needs key: route, because it measures the route as a whole; got key: %s", c.Key)
	}
}

// Counts tells limits of the whole fleet that are one.
func (c *Config) Counts() (name, key string, everywhere bool) {
	if c.Scope == "global" {
		name = c.place("")
	}
	return name, "key", false
}

// place tells the limit, as one of a route, from all others of the fleet.
func (c *Config) place(route string) string {
	return fmt.Sprintf("%q %q %d", route, c.key().Attributes, c.IPv6Prefix)
}

func (c *Config) key() attribute.KeySettings {
	return attribute.KeyOf(c.Key, c.IPv6Prefix)
}
