// Package ratelimit is the plugin rate_limit: it refuses with 429 who asks too
// often, counted by any attributes of the request, over one or several windows.
package ratelimit

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/config/unit"
	"github.com/gatehouse-proxy/gatehouse/gateway/attribute"
	"github.com/gatehouse-proxy/gatehouse/plugins/internal/cost"
	"github.com/gatehouse-proxy/gatehouse/ratelimit"
)

// Config of the plugin rate_limit.
type Config struct {
	// How many requests (or units of cost) are granted in every per.
	Limit int64 `yaml:"limit" default:"0" min:"0"`
	// The time that limit is for.
	Per unit.Duration `yaml:"per" default:"0s"`
	// How many may come at once; default: limit.
	Burst int64 `yaml:"burst" default:"0" min:"0"`
	// Several limits at once, instead of limit, per and burst; all must allow.
	Windows []Window `yaml:"windows"`
	// What is counted: request attributes, several with commas between them:
	// client_ip, header.NAME, cookie.NAME, query.NAME, claim.NAME, consumer,
	// subject, route, …
	Key string `yaml:"key" default:"client_ip"`
	// IPv6 clients are counted by their network of this many bits, since one
	// client has a whole network.
	IPv6Prefix int `yaml:"ipv6_prefix" default:"64" min:"1" max:"128"`
	// What to do with requests that lack a part of the key: refuse them, let
	// them share one bucket, or skip the limit.
	MissingKey string `yaml:"missing_key" enum:"refuse,share,skip" default:"share"`
	// What one request costs.
	Cost uint32 `yaml:"cost" default:"1" min:"1" max:"1000000"`
	// Tell clients by RateLimit and RateLimit-Policy headers.
	Headers bool `yaml:"headers" default:"true"`
	// What a request costs where it is not always the same; instead of cost.
	CostFrom *cost.From `yaml:"cost_from"`
	// Whose limit it is: each node's own, or that of all nodes with the same
	// node.store.redis together.
	Scope string `yaml:"scope" enum:"local,global" default:"local"`
	// With scope: global, how nodes share it. exact: every request is counted in
	// the store before it goes on. leased: a node takes some units at a time and
	// spends them by itself.
	Mode string `yaml:"mode" enum:"exact,leased" default:"exact"`
	// With scope: global, a name for a limit that routes have in common: all that say
	// it, with the same key and windows, are one. Default: each route's is its own.
	Shared string `yaml:"shared"`
	// With scope: global, what to do while the store does not answer within 2 ms.
	// share: each node grants its part, the limit divided by the nodes that were
	// alive. open: do not limit. closed: refuse with 503.
	OnStoreFailure string `yaml:"on_store_failure" enum:"share,open,closed" default:"share"`
	// Count and report, but refuse nobody.
	DryRun bool `yaml:"dry_run" default:"false"`
	// Name of the policy in headers and metrics; windows after the first get
	// a number.
	Name string `yaml:"name" default:"default"`
	// How many keys have a bucket of their own; more share some.
	MaxKeys int `yaml:"max_keys" default:"65536" min:"64" max:"16777216"`
}

// Window is one of several limits.
type Window struct {
	Limit int64         `yaml:"limit" required:"true" min:"1"`
	Per   unit.Duration `yaml:"per" required:"true" min:"1ms"`
	// Default: limit.
	Burst int64 `yaml:"burst" default:"0" min:"0"`
}

// Validate implements strict.Validator.
func (c *Config) Validate(p *problem.List) {
	if len(c.Windows) > 0 {
		p.Check(c.Limit == 0, "limit", "cannot be given beside windows")
		p.Check(c.Per == 0, "per", "cannot be given beside windows")
		p.Check(c.Burst == 0, "burst", "cannot be given beside windows")
		p.Check(len(c.Windows) <= ratelimit.MaxWindows, "windows", "must be at most %d, got %d", ratelimit.MaxWindows, len(c.Windows))
	} else {
		p.Check(c.Limit > 0, "limit", "must be at least 1, got %d; or give windows", c.Limit)
		p.Check(c.Per >= unit.Duration(time.Millisecond), "per", "must be at least 1ms, got %s", c.Per)
	}
	if len(p.All()) == 0 {
		if _, err := ratelimit.NewLocal(ratelimit.Settings{Windows: c.windows(), MaxKeys: 1}); err != nil {
			p.Add("", "%v", err)
		}
	}
	if c.Scope == "local" {
		p.Check(c.Mode == "exact", "mode", "is only for scope: global")
		p.Check(c.OnStoreFailure == "share", "on_store_failure", "is only for scope: global")
		p.Check(c.Shared == "", "shared", "is only for scope: global")
	}
	if c.CostFrom != nil {
		p.Check(c.Cost == 1, "cost", "cannot be given beside cost_from")
		c.CostFrom.Validate(p.Under("cost_from"), c.most())
	}
	for i, w := range c.windows() {
		p.Check(int64(c.Cost) <= w.Burst || w.Burst == 0, "cost", "%d can never be granted by a burst of %d (window %d)", c.Cost, w.Burst, i+1)
	}
	if _, err := attribute.NewKey(c.key()); err != nil {
		p.Add("key", "%s", strings.TrimPrefix(err.Error(), "attributes: "))
	}
	for _, r := range c.Name {
		if r < 0x20 || r > 0x7e || r == '"' || r == '\\' {
			p.Add("name", "must be printable ASCII without quotes and backslashes, got %q", c.Name)
			break
		}
	}
	p.Check(c.Name != "", "name", "must not be empty")
	p.Check(len(c.Name) <= 64, "name", "must have at most 64 bytes")
	p.Check(len(c.Shared) <= 64, "shared", "must have at most 64 bytes")
}

// Counts tells limits of the whole fleet that are one.
func (c *Config) Counts() (name, key string, everywhere bool) {
	switch {
	case c.Scope != "global":
		return "", "", false
	case c.Shared != "":
		return fmt.Sprint(c.place(""), c.windows()), "shared", true
	}
	return fmt.Sprint(c.place(""), c.windows()), "name", false
}

// place tells the limit, as one of a route, from all others of the fleet.
func (c *Config) place(route string) string {
	if c.Shared != "" {
		return fmt.Sprintf("shared %q %q %d", c.Shared, c.key().Attributes, c.IPv6Prefix)
	}
	return fmt.Sprintf("%q %q %q %d", route, c.Name, c.key().Attributes, c.IPv6Prefix)
}

// windows is the limits in either form, bursts filled in.
func (c *Config) windows() []ratelimit.Window {
	list := c.Windows
	if len(list) == 0 {
		list = []Window{{Limit: c.Limit, Per: c.Per, Burst: c.Burst}}
	}
	ws := make([]ratelimit.Window, len(list))
	for i, w := range list {
		ws[i] = ratelimit.Window{Limit: w.Limit, Per: w.Per.D(), Burst: w.Burst}
		if w.Burst == 0 {
			ws[i].Burst = w.Limit
		}
	}
	return ws
}

// most is what can be granted at once: the smallest burst.
func (c *Config) most() int64 {
	most := int64(math.MaxInt64)
	for _, w := range c.windows() {
		most = min(most, w.Burst)
	}
	return most
}

func (c *Config) key() attribute.KeySettings {
	return attribute.KeyOf(c.Key, c.IPv6Prefix)
}
