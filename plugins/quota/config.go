// Package quota is the plugin quota: so many requests, or units, for each
// consumer in a calendar day and month, as its plan grants.
package quota

import (
	"maps"
	"slices"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/plugins/internal/cost"
)

// Config of the plugin quota.
type Config struct {
	// What each plan grants. A consumer has the plan that consumers.NAME.plan says.
	Plans map[string]Plan `yaml:"plans" required:"true"`
	// The plan of consumers without one, and with one that is not listed here.
	// Default: they are refused.
	DefaultPlan string `yaml:"default_plan"`
	// What to do with requests of nobody: refuse them, or skip the quota.
	Anonymous string `yaml:"anonymous" enum:"refuse,skip" default:"refuse"`
	// Where days and months begin at midnight: a name of the IANA database, such as
	// Europe/Berlin.
	TimeZone string `yaml:"time_zone" default:"UTC"`
	// What one request costs.
	Cost uint32 `yaml:"cost" default:"1" min:"1" max:"1000000"`
	// What a request costs where it is not always the same; instead of cost.
	CostFrom *cost.From `yaml:"cost_from"`
	// How nodes share a quota. leased: a node takes some units at a time and
	// spends them by itself. exact: every request is counted in the store before
	// it goes on.
	Mode string `yaml:"mode" enum:"leased,exact" default:"leased"`
	// What to do while the store does not answer within 2 ms. share: each node
	// grants its part of what was left. open: do not limit. closed: refuse with
	// 503.
	OnStoreFailure string `yaml:"on_store_failure" enum:"share,open,closed" default:"share"`
	// Tell clients by RateLimit and RateLimit-Policy headers.
	Headers bool `yaml:"headers" default:"true"`
	// Name of the quota. All quotas of one name are one, on whatever route.
	Name string `yaml:"name" default:"default"`
}

// Plan is what a consumer may use. At least one of the two is needed.
type Plan struct {
	// Units in a calendar day; 0: no limit.
	Day int64 `yaml:"day" default:"0" min:"0" max:"1000000000000"`
	// Units in a calendar month; 0: no limit.
	Month int64 `yaml:"month" default:"0" min:"0" max:"1000000000000"`
}

// Validate implements strict.Validator.
func (c *Config) Validate(p *problem.List) {
	least := int64(1_000_000)
	for _, name := range slices.Sorted(maps.Keys(c.Plans)) {
		plan, at := c.Plans[name], p.Under(problem.Join("plans", name))
		at.Check(plan.Day > 0 || plan.Month > 0, "", "needs day, month or both")
		at.Check(plan.Day == 0 || plan.Month == 0 || plan.Day <= plan.Month, "day", "must be at most month (%d), got %d", plan.Month, plan.Day)
		for _, n := range []int64{plan.Day, plan.Month} {
			if n > 0 {
				least = min(least, n)
			}
		}
	}
	if _, known := c.Plans[c.DefaultPlan]; c.DefaultPlan != "" && !known {
		p.Undefined("default_plan", "plan", c.DefaultPlan, slices.Sorted(maps.Keys(c.Plans)))
	}
	if c.TimeZone == "Local" {
		p.Add("time_zone", "must be a name that means the same on every node, got Local")
	} else if _, err := time.LoadLocation(c.TimeZone); err != nil {
		p.Add("time_zone", "%q is not in the IANA database", c.TimeZone)
	}
	if c.CostFrom != nil {
		p.Check(c.Cost == 1, "cost", "cannot be given beside cost_from")
		c.CostFrom.Validate(p.Under("cost_from"), least)
	} else {
		p.Check(int64(c.Cost) <= least, "cost", "%d can never be granted by a plan of %d", c.Cost, least)
	}
	for _, r := range c.Name {
		if r < 0x20 || r > 0x7e || r == '"' || r == '\\' {
			p.Add("name", "must be printable ASCII without quotes and backslashes, got %q", c.Name)
			break
		}
	}
	p.Check(c.Name != "", "name", "must not be empty")
	p.Check(len(c.Name) <= 64, "name", "must have at most 64 bytes")
}

// Counts tells quotas that are one.
func (c *Config) Counts() (name, key string, everywhere bool) {
	return c.Name + " " + c.TimeZone, "name", true
}
