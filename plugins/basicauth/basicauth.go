package basicauth

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	stdhash "hash"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/filewatch"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/internal/credential"
)

// Factory makes the plugin basic_auth.
func Factory() plugins.Factory { return plugins.Define("basic_auth", build).NeedsConsumers() }

// maxCredential bounds the encoded user name and password.
const maxCredential = 4096

var (
	errMalformed = errors.New("malformed credentials")
	errWrong     = errors.New("wrong user name or password")
)

type plugin struct {
	cfg       *Config
	source    *credential.Source
	users     atomic.Pointer[users]
	file      *filewatch.File // nil without one
	turns     chan struct{}   // one for every hash that may be computed now
	ttl       int64
	base      time.Time
	desks     sync.Pool // of *desk
	challenge string

	accepted, cached, missing, refused, busy prometheus.Counter
}

func build(c *Config, s plugins.Settings) (plugins.Instance, error) {
	count := s.Counter("gatehouse_basic_auth_requests_total",
		"Requests by what became of their password.", "route", "result")
	p := &plugin{
		cfg:    c,
		source: credential.New(fiber.HeaderAuthorization, "Basic", "", ""),
		turns:  make(chan struct{}, c.concurrent()),
		ttl:    int64(c.CacheTTL), base: time.Now(),
		challenge: `Basic realm="` + c.Realm + `", charset="UTF-8"`,
		accepted:  count.WithLabelValues(s.Route.Name, "accepted"),
		cached:    count.WithLabelValues(s.Route.Name, "accepted_cached"),
		missing:   count.WithLabelValues(s.Route.Name, "missing"),
		refused:   count.WithLabelValues(s.Route.Name, "refused"),
		busy:      count.WithLabelValues(s.Route.Name, "busy"),
	}
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	p.desks.New = func() any { return &desk{mac: hmac.New(sha256.New, secret)} }
	return p, p.load(s)
}

func (p *plugin) load(s plugins.Settings) error {
	list, hashes, err := fromConsumers(s.Consumers)
	if err != nil {
		return err
	}
	if p.cfg.HtpasswdFile == "" {
		u, err := merge(s.Consumers, list, hashes, nil)
		p.users.Store(u)
		return err
	}
	log := s.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	path := p.cfg.HtpasswdFile
	if !filepath.IsAbs(path) {
		path = filepath.Join(s.Dir, path)
	}
	reloads := s.Counter("gatehouse_basic_auth_reloads_total",
		"Times a changed htpasswd file was read.", "route", "result")
	ok, failed := reloads.WithLabelValues(s.Route.Name, "ok"), reloads.WithLabelValues(s.Route.Name, "failed")
	p.file = filewatch.New(filewatch.Settings{
		Path: path, Limit: maxHtpasswd,
		Load: func(content []byte) error {
			entries, err := parseHtpasswd(content)
			if err != nil {
				return err
			}
			u, err := merge(s.Consumers, list, hashes, entries)
			if err == nil {
				p.users.Store(u)
			}
			return err
		},
		Changed: func() {
			ok.Inc()
			log.Info("htpasswd_file was read again", "path", path)
		},
		Failed: func(err error) {
			failed.Inc()
			log.Error("htpasswd_file: the users read last stay", "error", err)
		},
	})
	if err := p.file.Load(); err != nil {
		return fmt.Errorf("htpasswd_file %w", err)
	}
	return nil
}

// Start implements plugins.Instance.
func (p *plugin) Start(context.Context) error {
	if p.file != nil {
		p.file.Start()
	}
	return nil
}

// Close implements plugins.Instance.
func (p *plugin) Close(context.Context) error {
	if p.file != nil {
		p.file.Close()
	}
	return nil
}

// Handle implements plugins.Instance.
func (p *plugin) Handle(c *fiber.Ctx) error {
	e := exchange.From(c)
	sent, err := p.source.Find(e)
	if err == nil && sent == nil {
		p.missing.Inc()
		if p.cfg.Anonymous {
			return c.Next()
		}
		return p.refuse(c, "no credentials")
	}
	if err != nil {
		p.refused.Inc()
		return p.refuse(c, err.Error())
	}
	d := p.desks.Get().(*desk)
	who, err := p.verify(e, d, sent)
	clear(d.text[:])
	p.desks.Put(d)
	switch {
	case errors.Is(err, errWrong), errors.Is(err, errMalformed):
		p.refused.Inc()
		return p.refuse(c, err.Error())
	case err != nil:
		p.busy.Inc()
		c.Response().Header.Set(fiber.HeaderRetryAfter, "1")
		return err
	}
	if len(p.cfg.Groups) > 0 && !slices.ContainsFunc(who.Groups, p.allows) {
		p.refused.Inc()
		return reason.Forbidden.Because("user %s is in none of the groups %v", who.Name, p.cfg.Groups)
	}
	e.Identity = exchange.Identity{Consumer: who, Method: "basic_auth", Subject: who.Name}
	if !p.cfg.Forward {
		p.source.Remove(e)
	}
	return c.Next()
}

func (p *plugin) allows(group string) bool { return slices.Contains(p.cfg.Groups, group) }

func (p *plugin) refuse(c *fiber.Ctx, detail string) error {
	c.Response().Header.Set(fiber.HeaderWWWAuthenticate, p.challenge)
	return reason.Unauthenticated.Because("%s", detail)
}

// decode splits NAME:PASSWORD (RFC 7617 2). The results point into buf.
func decode(buf, sent []byte) (name, password []byte, err error) {
	if base64.StdEncoding.DecodedLen(len(sent)) > len(buf) {
		return nil, nil, fmt.Errorf("%w: %d bytes", errMalformed, len(sent))
	}
	n, err := base64.StdEncoding.Strict().Decode(buf, sent)
	if err != nil {
		return nil, nil, errMalformed
	}
	name, password, ok := bytes.Cut(buf[:n], []byte{':'})
	if !ok || len(name) == 0 || bytes.ContainsFunc(buf[:n], func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return nil, nil, errMalformed
	}
	return name, password, nil
}

// desk is the memory one check needs, lent from a pool.
type desk struct {
	mac    stdhash.Hash // keyed
	text   [maxCredential]byte
	size   [2]byte
	digest [sha256.Size]byte
}

// seal makes the digest of a name and a password; the name's length keeps
// them apart.
func (d *desk) seal(name, password []byte) {
	d.mac.Reset()
	d.size = [2]byte{byte(len(name)), byte(len(name) >> 8)}
	_, _ = d.mac.Write(d.size[:]) // a hash never fails
	_, _ = d.mac.Write(name)
	_, _ = d.mac.Write(password)
	d.mac.Sum(d.digest[:0])
}

// verify finds out whose password was sent. An unknown user costs one hash
// like a known one, and the error is the same, errWrong; malformed credentials
// are errMalformed, and any other error is a refusal.
func (p *plugin) verify(e *exchange.Exchange, d *desk, sent []byte) (*exchange.Consumer, error) {
	name, password, err := decode(d.text[:], sent)
	if err != nil {
		return nil, err
	}
	all := p.users.Load()
	u := all.byName[string(name)]
	now := int64(time.Since(p.base))
	if p.ttl > 0 {
		d.seal(name, password)
		if u != nil {
			v := u.verified.Load()
			if v != nil && now < v.until && hmac.Equal(v.digest[:], d.digest[:]) {
				p.cached.Inc()
				return u.consumer, nil
			}
		}
	}
	if err := p.turn(e); err != nil {
		return nil, err
	}
	h := all.decoy
	if u != nil {
		h = u.hash
	}
	ok := h.matches(password)
	<-p.turns
	if !ok || u == nil {
		return nil, errWrong
	}
	p.accepted.Inc()
	if p.ttl > 0 {
		u.verified.Store(&verified{d.digest, now + p.ttl})
	}
	return u.consumer, nil
}

// turn waits until a hash may be computed.
func (p *plugin) turn(e *exchange.Exchange) error {
	select {
	case p.turns <- struct{}{}:
		return nil
	default:
	}
	t := time.NewTimer(p.cfg.wait())
	defer t.Stop()
	select {
	case p.turns <- struct{}{}:
		return nil
	case <-t.C:
		return reason.AuthUnavailable.Because("%d password checks are running, and have been for %v", cap(p.turns), p.cfg.MaxWait)
	case <-e.Context().Done():
		if err := e.Context().Err(); !errors.Is(err, context.DeadlineExceeded) {
			return reason.ClientGone.Wrap(err)
		}
		return reason.RequestTimeout.Because("while waiting for a password check")
	}
}
