package cmd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/admin"
	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/control/limits"
	"github.com/gatehouse-proxy/gatehouse/plugins/quota"
)

// quotas are those of the live config, with who may use them.
type quotas struct {
	limits *limits.Limits
	live   atomic.Pointer[quotaView]
}

var _ admin.Quotas = (*quotas)(nil)

// quotaView is what one config says of quotas.
type quotaView struct {
	list      []quotaUse // by name
	consumers map[string]config.Consumer
}

// quotaUse is a quota as one or several routes have it.
type quotaUse struct {
	config *quota.Config
	in     *time.Location
	where  string
	places int
}

// follow makes cfg what is told about.
func (q *quotas) follow(cfg *config.Config) {
	uses := map[string]*quotaUse{}
	add := func(where string, list []config.Plugin) {
		for _, p := range list {
			c, is := p.Config.(*quota.Config)
			if !is {
				continue
			}
			key := fmt.Sprint(c.Name, c.TimeZone, c.Plans, c.DefaultPlan)
			if u := uses[key]; u != nil {
				u.places++
				u.where = fmt.Sprintf("%d routes", u.places)
				continue
			}
			in, err := time.LoadLocation(c.TimeZone)
			if err != nil { // the config was validated
				in = time.UTC
			}
			uses[key] = &quotaUse{c, in, where, 1}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Routes)) {
		add("route "+name, cfg.Routes[name].Plugins)
	}
	for _, p := range cfg.Plugins {
		add("all routes", []config.Plugin{p})
	}
	v := &quotaView{}
	for _, key := range slices.Sorted(maps.Keys(uses)) {
		v.list = append(v.list, *uses[key])
		v.consumers = cfg.Consumers // kept only where it is of use
	}
	q.live.Store(v)
}

// named are the quotas of that name; empty: all.
func (q *quotas) named(name string) (v *quotaView, list []quotaUse, err error) {
	v = q.live.Load()
	if v == nil {
		v = &quotaView{}
	}
	for _, u := range v.list {
		if name == "" || u.config.Name == name {
			list = append(list, u)
		}
	}
	if name != "" && len(list) == 0 {
		return nil, nil, admin.ErrNoQuota
	}
	return v, list, nil
}

// List implements admin.Quotas. Those consumers are known that the config has,
// and whom else something has let in who asked this node of late.
func (q *quotas) List(ctx context.Context, ask admin.QuotaQuery) (*admin.QuotaPage, error) {
	v, list, err := q.named(ask.Quota)
	if err != nil {
		return nil, err
	}
	out := &admin.QuotaPage{Quotas: []admin.Quota{}}
	names := []string{ask.Consumer}
	if ask.Consumer == "" {
		first := &smallest{after: ask.After, most: ask.Limit + 1}
		for name := range v.consumers {
			first.add(name)
		}
		for _, u := range list {
			q.limits.Known(u.config.Name, u.in, first.add)
		}
		if names = first.sorted(); len(names) > ask.Limit {
			names = names[:ask.Limit]
			out.Next = names[ask.Limit-1]
		}
	}
	used := make([][]limits.Usages, len(list))
	for i, u := range list {
		if used[i], err = q.limits.Used(ctx, u.config.Name, u.in, names); err != nil {
			return nil, err
		}
	}
	for j, name := range names {
		for i, u := range list {
			out.Quotas = append(out.Quotas, u.rows(name, v.consumers[name].Plan, used[i][j])...)
		}
	}
	return out, nil
}

// rows are what one consumer has used of the windows that its plan has.
func (u *quotaUse) rows(consumer, plan string, used limits.Usages) (rows []admin.Quota) {
	p, has := u.config.Plans[plan]
	if !has {
		plan = u.config.DefaultPlan
		p = u.config.Plans[plan]
	}
	for i, limit := range [2]int64{p.Day, p.Month} {
		if limit > 0 {
			rows = append(rows, admin.Quota{
				Quota: u.config.Name, Consumer: consumer, Where: u.where, Plan: plan, Window: [2]string{"day", "month"}[i],
				Used: used[i].Used, Limit: limit, Remaining: max(0, limit-used[i].Used), Resets: used[i].Reset,
			})
		}
	}
	return rows
}

// Reset implements admin.Quotas.
func (q *quotas) Reset(ctx context.Context, r admin.QuotaReset) (*admin.QuotaPage, error) {
	_, list, err := q.named(r.Quota)
	if err == nil && len(list) == 0 {
		err = admin.ErrNoQuota
	}
	if err != nil {
		return nil, err
	}
	units := [2]int64{r.Units, r.Units}
	if r.Units == 0 {
		units = [2]int64{-1, -1}
	}
	switch r.Window {
	case "day":
		units[1] = 0
	case "month":
		units[0] = 0
	}
	done := map[string]bool{} // several uses may be of one quota
	for _, u := range list {
		if key := u.config.Name + " " + u.in.String(); !done[key] {
			done[key] = true
			if err := q.limits.Forgive(ctx, u.config.Name, u.in, r.Consumer, units); err != nil {
				return nil, err
			}
		}
	}
	return q.List(ctx, admin.QuotaQuery{Quota: r.Quota, Consumer: r.Consumer})
}

// smallest finds the first of many names that come after one, however many
// there are.
type smallest struct {
	after string
	most  int
	names []string
}

func (s *smallest) add(name string) {
	if name <= s.after {
		return
	}
	if s.names = append(s.names, name); len(s.names) >= 2*s.most+64 {
		s.names = s.sorted()
	}
}

// sorted are the names, each once.
func (s *smallest) sorted() []string {
	slices.Sort(s.names)
	s.names = slices.Compact(s.names)
	return s.names[:min(len(s.names), s.most)]
}
