package compile

import (
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// directories builds what plugins look things up in.
func (b *build) directories() {
	var list []*plugins.Consumer
	for _, name := range slices.Sorted(maps.Keys(b.cfg.Consumers)) {
		list = append(list, consumer(name, b.cfg.Consumers[name]))
	}
	b.consumers = plugins.NewDirectory(list)
	b.consumersDigest = digest(b.cfg.Consumers)
	b.policies = map[string]plugins.WAFPolicy{"default": b.policy("default", defaultPolicy())}
	maps.Copy(b.policies, WAFPolicies(b.cfg))
	b.policiesDigest = digest(b.cfg.WAF)
}

// WAFPolicies are the policies that a config defines, by name, with its virtual
// patches: for checking those that no route uses.
func WAFPolicies(cfg *config.Config) map[string]plugins.WAFPolicy {
	b := &build{cfg: cfg}
	out := make(map[string]plugins.WAFPolicy, len(cfg.WAF.Policies))
	for name, p := range cfg.WAF.Policies {
		out[name] = b.policy(name, p)
	}
	return out
}

// defaultPolicy is what the policy "default" is unless the config redefines it.
func defaultPolicy() config.WAFPolicy {
	var p config.WAFPolicy
	if err := strict.Unmarshal([]byte("{}"), &p); err != nil {
		panic("BUG: the defaults of a WAF policy: " + err.Error())
	}
	return p
}

func consumer(name string, c config.Consumer) *plugins.Consumer {
	out := &plugins.Consumer{Consumer: exchange.Consumer{Name: name, Groups: c.Groups, Plan: c.Plan, Metadata: c.Metadata}}
	for _, k := range c.APIKeys {
		var sum [32]byte
		if n, err := hex.Decode(sum[:], []byte(strings.TrimPrefix(k, "sha256:"))); err != nil || n != len(sum) {
			panic("BUG: an API key passed validation: " + name)
		}
		out.APIKeys = append(out.APIKeys, sum)
	}
	out.Subjects, out.SPIFFEIDs = c.Certificates.Subjects, c.Certificates.SPIFFEIDs
	for _, f := range c.Certificates.Fingerprints {
		out.Fingerprints = append(out.Fingerprints, strings.TrimPrefix(f, "sha256:"))
	}
	if c.BasicAuth != nil {
		out.Username, out.PasswordHash = c.BasicAuth.Username, c.BasicAuth.PasswordHash.Reveal()
		if out.Username == "" {
			out.Username = name
		}
	}
	return out
}

func (b *build) policy(name string, p config.WAFPolicy) plugins.WAFPolicy {
	out := plugins.WAFPolicy{
		Name: name, Mode: p.Mode, CRS: p.CRS,
		ParanoiaLevel: p.ParanoiaLevel, DetectionParanoiaLevel: max(p.DetectionParanoiaLevel, p.ParanoiaLevel),
		InboundThreshold: p.InboundThreshold, OutboundThreshold: p.OutboundThreshold,
		AllowedMethods: p.AllowedMethods, AllowedContentTypes: p.AllowedContentTypes,
		RequestBodyLimit: int64(p.RequestBodyLimit), BodyOverLimit: p.BodyOverLimit,
		ResponseBody: p.ResponseBody, ResponseBodyLimit: int64(p.ResponseBodyLimit),
		ResponseContentTypes: p.ResponseContentTypes, Rules: p.Rules, FailOpen: p.FailOpen,
	}
	for _, x := range p.Exclusions {
		out.Exclusions = append(out.Exclusions, plugins.WAFExclusion{
			Rules: x.Rules, Tags: x.Tags, Targets: x.Targets, Paths: x.Paths, Methods: x.Methods,
		})
	}
	for _, patch := range slices.Sorted(maps.Keys(b.cfg.WAF.Patches)) {
		w := b.cfg.WAF.Patches[patch]
		q := plugins.WAFPatch{Name: patch, Rule: w.Rule}
		if w.Expires != "" {
			day, err := time.Parse(time.DateOnly, w.Expires)
			if err != nil {
				panic("BUG: a date passed validation: " + w.Expires)
			}
			q.Expires = day.AddDate(0, 0, 1) // the last day counts
		}
		out.Patches = append(out.Patches, q)
	}
	return out
}
