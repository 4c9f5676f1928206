package config_test

import (
	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/config/unit"
)

// limitConfig, wafConfig and headersConfig stand for plugins' configs.
type limitConfig struct {
	Limit int           `yaml:"limit" required:"true" min:"1"`
	Per   unit.Duration `yaml:"per" default:"1s" min:"1ms"`
	Keys  []string      `yaml:"keys" default:"client_ip"`
	Burst int           `yaml:"burst" default:"0" min:"0"`
}

func (c *limitConfig) Validate(p *problem.List) {
	p.Check(c.Burst <= 10*c.Limit, "burst", "must be at most 10 times limit, got %d", c.Burst)
}

// quotaConfig counts where all of its name do.
type quotaConfig struct {
	Name string `yaml:"name" default:"default"`
	Own  bool   `yaml:"own" default:"false"`
}

func (c *quotaConfig) Counts() (name, key string, everywhere bool) {
	return c.Name, "name", !c.Own
}

type wafConfig struct {
	Policy string `yaml:"policy" default:"default"`
}

func (c *wafConfig) References(ref func(kind, key, name string)) {
	ref("waf_policy", "policy", c.Policy)
}

type headersConfig struct {
	Request  headersChange `yaml:"request"`
	Response headersChange `yaml:"response"`
}

type headersChange struct {
	Set    map[string]string `yaml:"set"`
	Remove []string          `yaml:"remove"`
}

type tokenConfig struct {
	Secret unit.Secret `yaml:"secret" required:"true"`
	Claims any         `yaml:"claims"`
}

func kinds() config.Kinds {
	return config.Kinds{
		"request_id": func() any { return new(struct{}) },
		"rate_limit": func() any { return new(limitConfig) },
		"waf":        func() any { return new(wafConfig) },
		"headers":    func() any { return new(headersConfig) },
		"quota":      func() any { return new(quotaConfig) },
		"jwt":        func() any { return new(tokenConfig) },
	}
}
