package cmd

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/apikey"
	"github.com/gatehouse-proxy/gatehouse/plugins/authorize"
	"github.com/gatehouse-proxy/gatehouse/plugins/basicauth"
	"github.com/gatehouse-proxy/gatehouse/plugins/clientcert"
	"github.com/gatehouse-proxy/gatehouse/plugins/forwardauth"
	"github.com/gatehouse-proxy/gatehouse/plugins/jwt"
	"github.com/gatehouse-proxy/gatehouse/plugins/quota"
)

// mostNamed is how many consumers one warning names.
const mostNamed = 5

// advise finds what a config may say and hardly means: quotas that refuse
// consumers for want of a plan. extra are plugins besides the built-in ones.
func advise(cfg *config.Config, src *config.Source, extra []plugins.Factory) config.Problems {
	a := adviser{cfg: cfg, foreign: map[string]bool{}}
	for _, f := range extra {
		a.foreign[f.Name] = true
	}
	a.chain("", nil, cfg.Plugins)
	for _, name := range slices.Sorted(maps.Keys(cfg.Routes)) {
		a.chain(problem.Join("routes", name), cfg.Plugins, cfg.Routes[name].Plugins)
	}
	return src.Locate(a.found.All())
}

// warn tells what advise has found, in the form of an error in a config.
func (env *environment) warn(p problem.Problem) {
	p.Message = "warning: " + p.Message
	fmt.Fprintln(env.err, p)
}

type adviser struct {
	cfg     *config.Config
	foreign map[string]bool // plugins that nothing is known of
	found   problem.List
}

// chain looks at a list of plugins, which is at path and runs after others.
func (a *adviser) chain(path string, before, list []config.Plugin) {
	for i, p := range list {
		c, is := p.Config.(*quota.Config)
		if !is || c.DefaultPlan != "" {
			continue
		}
		if refused := a.without(c.Plans, slices.Concat(before, list[:i])); len(refused) > 0 {
			at := problem.Join(path, fmt.Sprintf("plugins[%d].%s.plans", i, p.Name))
			a.found.Add(at, "there is no default_plan, so that these consumers are always refused: %s", some(refused))
		}
	}
}

// without are the consumers that have none of the plans and come through the
// plugins before, by credentials that are in the config; whom else a token or a
// service may name, the config does not say.
func (a *adviser) without(plans map[string]quota.Plan, before []config.Plugin) (list []string) {
	if slices.ContainsFunc(before, a.mayRefuse) {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(a.cfg.Consumers)) {
		c := a.cfg.Consumers[name]
		_, has := plans[c.Plan]
		switch {
		case has || !comesThrough(&c, before):
		case c.Plan == "":
			list = append(list, name+" (no plan)")
		default:
			list = append(list, fmt.Sprintf("%s (plan %q)", name, c.Plan))
		}
	}
	return list
}

// mayRefuse is true of plugins that may have been put there to refuse just those
// consumers.
func (a *adviser) mayRefuse(p config.Plugin) bool {
	switch p.Config.(type) {
	case *authorize.Config, *forwardauth.Config:
		return true
	default:
		return a.foreign[p.Name]
	}
}

// comesThrough is true if a request can be the consumer's after these plugins:
// the last one that finds somebody decides, and those before it only where it
// lets others pass.
func comesThrough(who *config.Consumer, list []config.Plugin) bool {
	for _, p := range slices.Backward(list) {
		var has, anonymous bool
		var groups []string
		switch c := p.Config.(type) {
		case *apikey.Config:
			has, groups, anonymous = len(who.APIKeys) > 0, c.Groups, c.Anonymous
		case *basicauth.Config:
			has, groups, anonymous = who.BasicAuth != nil, c.Groups, c.Anonymous
		case *clientcert.Config:
			x := who.Certificates
			has, groups, anonymous = len(x.Subjects)+len(x.SPIFFEIDs)+len(x.Fingerprints) > 0, c.Groups, c.Anonymous
		case *jwt.Config:
			anonymous = c.Anonymous
		default:
			continue
		}
		in := func(group string) bool { return slices.Contains(groups, group) }
		if has && (len(groups) == 0 || slices.ContainsFunc(who.Groups, in)) {
			return true
		}
		if !anonymous {
			return false
		}
	}
	return false
}

// some names a few.
func some(list []string) string {
	if more := len(list) - mostNamed; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:mostNamed], ", "), more)
	}
	return strings.Join(list, ", ")
}
