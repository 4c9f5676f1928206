package config

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

func (v *validator) fleet(p *problem.List) {
	n := &v.c.Node
	if r := n.Store.Redis; r != nil {
		v.redis(r, p.Under("store").Under("redis"))
	}
	c := p.Under("control")
	for i, key := range n.Control.TrustedKeys {
		c.Check(isPublicKey(key), index("trusted_keys", i),
			"must be ed25519: and 44 characters of base64, as gatehouse status of a control node shows it, got %.80q", key)
	}
	for i := range repeats(n.Control.TrustedKeys) {
		c.Add(index("trusted_keys", i), "%q is there twice", n.Control.TrustedKeys[i])
	}
	if n.Config == "store" && !n.Control.Enabled && len(n.Control.TrustedKeys) == 0 {
		c.Add("trusted_keys", "must name the keys of the control nodes: this one signs nothing itself and would run nothing")
	}
}

func isPublicKey(text string) bool {
	rest, ok := strings.CutPrefix(text, "ed25519:")
	b, err := base64.StdEncoding.Strict().DecodeString(rest)
	return ok && err == nil && len(b) == ed25519.PublicKeySize
}

func (v *validator) redis(r *Redis, p *problem.List) {
	for i, a := range r.Addresses {
		if host, _, why := splitAddress(a); why != "" || host == "" {
			p.Add(index("addresses", i), "must be HOST:PORT, got %q", a)
		}
	}
	for i := range repeats(r.Addresses) {
		p.Add(index("addresses", i), "%q is there twice", r.Addresses[i])
	}
	p.Check(!r.Cluster || r.Sentinel == "", "cluster", "contradicts sentinel: a Cluster finds its primaries itself")
	p.Check(!r.Cluster || r.DB == 0, "db", "must be 0: a Cluster has no other, got %d", r.DB)
	p.Check(r.Cluster || r.Sentinel != "" || len(r.Addresses) <= 1, "addresses",
		"has %d, but it is one server's; for more set sentinel or cluster", len(r.Addresses))
	p.Check(r.Username == "" || r.Password != "", "password", "must be there, since username is")
	if r.Sentinel == "" {
		p.Check(r.SentinelUsername == "", "sentinel_username", "has no meaning without sentinel")
		p.Check(r.SentinelPassword == "", "sentinel_password", "has no meaning without sentinel")
	}
	p.Check(isName(r.Prefix), "prefix", "%s, got %q", nameRule, r.Prefix)
	if t := r.TLS; t != nil {
		p.Under("tls").Check((t.CertFile == "") == (t.KeyFile == ""), "", "needs both cert_file and key_file, or neither")
	}
}

// only notes what stands in a text besides the keys that may: the file of a
// node whose config comes from the store has node alone, and a config for many
// nodes has no node.
func only(root *yaml.Node, shared, store bool, p *problem.List) {
	if root.Kind != yaml.MappingNode || !shared && !store {
		return
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key := root.Content[i].Value
		switch {
		case strings.HasPrefix(key, ignoredKeys):
		case shared && key == "node":
			p.Add(key, "must not be in a config for several nodes: it stands in each node's own file")
		case store && key != "node":
			p.Add(key, "must not be here, since node.config is store: publish it with gatehouse apply")
		}
	}
}
