package compile

import (
	"context"
	"slices"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/gateway/acme"
)

// acme builds a certificate that an authority issues. The authority is not
// asked before the snapshot is live.
func (b *build) acme(ctx context.Context, name string, c *config.ACME) {
	key, path := certificateKey+name, "certificates."+name+".acme"
	kinds := b.challenges(c)
	sum := digest(c, b.src.Dir, kinds)
	if _, same := b.units.Reuse(b.prev, key, sum); same {
		return
	}
	s := acme.Settings{
		Name: name, Hosts: c.Hosts, Directory: c.Directory, Email: c.Email, TermsAgreed: c.AcceptTerms,
		RSA: c.KeyType == "rsa_2048", Challenges: kinds, Changes: &b.changes,
	}
	if c.CAFile != "" {
		s.CAFile = b.file(c.CAFile)
	}
	if x := c.ExternalAccount; x != nil {
		s.BindingID = x.KeyID
		s.BindingKey, _ = config.DecodeHMACKey(x.HMACKey.Reveal()) // was checked by the validation
	}
	made := b.settings.ACME.NewSource(s)
	if b.mode.dry() {
		b.loaded(path, made.Check(), "")
	} else {
		err := b.settings.ACME.Open()
		if err == nil {
			err = made.Load(ctx)
		}
		b.loaded(path, err, "what is stored of a certificate cannot be used; its listeners go without until it can")
	}
	b.units.Add(key, sum, made)
}

// challenges are the kinds that a listener of this config can answer; all, if
// none can: the failure will tell.
func (b *build) challenges(c *config.ACME) []acme.Kind {
	var plain, secure bool
	for _, l := range b.cfg.Listeners {
		plain = plain || l.TLS == nil && l.Protocol == "http"
		secure = secure || l.TLS != nil
	}
	var all, some []acme.Kind
	for _, name := range c.Challenges {
		kind := acme.Kind(name)
		all = append(all, kind)
		if kind == acme.HTTP01 && plain || kind == acme.TLSALPN01 && secure {
			some = append(some, kind)
		}
	}
	if len(some) == 0 {
		return slices.Clip(all)
	}
	return some
}
