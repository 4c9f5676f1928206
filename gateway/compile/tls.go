package compile

import (
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"path/filepath"
	"slices"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
)

const certificateKey = "certificate/"

// certificates builds what listeners show. One that cannot be loaded is a
// problem; with ServeTheRest it is a unit all the same, which follows its files
// and is served once they are mended.
func (b *build) certificates(ctx context.Context) {
	for _, name := range slices.Sorted(maps.Keys(b.cfg.Certificates)) {
		c := b.cfg.Certificates[name]
		key := certificateKey + name
		path := "certificates." + name
		if c.ACME != nil {
			b.acme(ctx, name, c.ACME)
			continue
		}
		sum := digest(c, b.src.Dir)
		if _, same := b.units.Reuse(b.prev, key, sum); same {
			continue
		}
		made := tlsterm.NewCertificate(tlsterm.CertificateSettings{
			Name: name, CertFile: b.file(c.CertFile), KeyFile: b.file(c.KeyFile), OCSPFile: b.optional(c.OCSPFile),
			Changes: &b.changes, Log: b.settings.Log,
		})
		b.loaded(path, made.Load(), "a certificate cannot be used; its listeners go without until it can")
		b.units.Add(key, sum, made)
	}
}

// terminators builds what makes the handshakes, by listener.
func (b *build) terminators() map[string]*tlsterm.Terminator {
	out := map[string]*tlsterm.Terminator{}
	for _, name := range slices.Sorted(maps.Keys(b.cfg.Listeners)) {
		c := b.cfg.Listeners[name].TLS
		if c == nil {
			continue
		}
		key := "tls/" + name
		inputs := []any{*c, b.src.Dir, b.cfg.Listeners[name].Protocol}
		s := b.tlsSettings(name, c)
		for _, cert := range c.Certificates {
			inputs = append(inputs, b.cfg.Certificates[cert])
		}
		sum := digest(inputs...)
		if b.sameCertificates(c.Certificates) {
			if u, same := b.units.Reuse(b.prev, key, sum); same {
				b.tickets(name, c.SessionTickets)
				out[name] = u.(*tlsterm.Terminator)
				continue
			}
		}
		s.Tickets = b.tickets(name, c.SessionTickets)
		made := tlsterm.New(s)
		b.loaded("listeners."+name+".tls.client_certificates.ca_file", made.Load(),
			"the authorities of client certificates cannot be used; the listener refuses everybody until they can")
		b.units.Add(key, sum, made)
		out[name] = made
	}
	return out
}

// tickets are a unit of their own, so that a session outlives a reload that
// changes something else about its listener.
func (b *build) tickets(listener string, c config.SessionTickets) tlsterm.TicketKeys {
	if !c.Enabled {
		return nil
	}
	key, sum := "tickets/"+listener, digest(c)
	if u, same := b.units.Reuse(b.prev, key, sum); same {
		return u.(TicketKeys)
	}
	var made TicketKeys
	if b.settings.Tickets != nil && !b.mode.dry() {
		made = b.settings.Tickets(c.Rotate.D())
	} else {
		made = tlsterm.NewRotation(c.Rotate.D())
	}
	b.units.Add(key, sum, made)
	return made
}

// sameCertificates reports whether all of them were taken over: a terminator
// holds on to its own.
func (b *build) sameCertificates(names []string) bool {
	return !slices.ContainsFunc(names, func(n string) bool {
		return b.prev.Lookup(certificateKey+n) != b.units.Lookup(certificateKey+n)
	})
}

func (b *build) tlsSettings(name string, c *config.ListenerTLS) tlsterm.Settings {
	s := tlsterm.Settings{
		Listener: name, MinVersion: tls.VersionTLS12, HandshakeTimeout: c.HandshakeTimeout.D(),
		Protocols: c.ALPN, StrictNames: c.StrictNames,
		Changes: &b.changes, Log: b.settings.Log, Challenge: b.settings.ACME.Challenges().TLS,
	}
	if b.cfg.Listeners[name].Protocol == "tcp" {
		s.Protocols = nil // what is spoken inside is not known
	}
	if r := c.HandshakesPerClient; r != nil {
		s.HandshakesPerClient = tlsterm.Rate{Limit: r.Limit, Per: r.Per.D()}
	}
	if c.MinVersion == "1.3" {
		s.MinVersion = tls.VersionTLS13
	}
	for _, n := range c.Certificates {
		s.Certificates = append(s.Certificates, b.units.Lookup(certificateKey+n).(tlsterm.CertSource))
	}
	if q := c.ClientCertificates; q != nil {
		s.ClientCAFile, s.Clients = b.file(q.CAFile), tlsterm.RequestClientCertificate
		if q.Mode == "require" {
			s.Clients = tlsterm.RequireClientCertificate
		}
	}
	return s
}

// file is where a path in the config is.
func (b *build) file(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(b.src.Dir, path)
}

// optional is file for a path that may be empty.
func (b *build) optional(path string) string {
	if path == "" {
		return ""
	}
	return b.file(path)
}

// loaded notes a file that could not be read: a problem, or, when the rest is to
// be served, a line in the log.
func (b *build) loaded(path string, err error, without string) {
	var file *tlsterm.FileError
	if errors.As(err, &file) {
		path += "." + file.Setting
	}
	switch {
	case err == nil, b.mode == Sketch:
	case b.mode == ServeTheRest:
		b.settings.Log.Error(without, "config", path, "error", err)
	default:
		b.problems.Add(path, "%v", err)
	}
}
