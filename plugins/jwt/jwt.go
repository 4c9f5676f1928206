package jwt

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
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

// Factory makes the plugin jwt.
func Factory() plugins.Factory { return plugins.Define("jwt", build).NeedsConsumers() }

type plugin struct {
	cfg       *Config
	source    *credential.Source
	keys      atomic.Pointer[keySet] // nil until there are any
	remote    *remote                // nil without jwks_url
	file      *filewatch.File        // nil without jwks_file
	algs      []string
	rules     rules
	cache     *cache // nil: none
	consumers *plugins.Directory
	challenge string

	accepted, cached, missing, refused, unavailable prometheus.Counter
}

func build(c *Config, s plugins.Settings) (plugins.Instance, error) {
	count := s.Counter("gatehouse_jwt_requests_total", "Requests by what became of their token.", "route", "result")
	p := &plugin{
		cfg: c, algs: c.algorithms(), cache: newCache(c.CacheSize), consumers: s.Consumers,
		source: credential.New(c.header(), c.Scheme, c.Query, c.Cookie),
		rules: rules{
			issuer: c.Issuer, audiences: c.Audiences, requireExpiry: c.RequireExpiry,
			skew: c.Skew.D(), required: c.RequiredClaims, scopes: c.Scopes,
		},
		challenge:   `Bearer realm="` + c.Realm + `"`,
		accepted:    count.WithLabelValues(s.Route.Name, "accepted"),
		cached:      count.WithLabelValues(s.Route.Name, "accepted_cached"),
		missing:     count.WithLabelValues(s.Route.Name, "missing"),
		refused:     count.WithLabelValues(s.Route.Name, "refused"),
		unavailable: count.WithLabelValues(s.Route.Name, "unavailable"),
	}
	if p.consumers == nil {
		p.consumers = plugins.NewDirectory(nil)
	}
	return p, p.load(s)
}

// load gets the keys, or prepares to.
func (p *plugin) load(s plugins.Settings) (err error) {
	log := s.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	reloads := s.Counter("gatehouse_jwt_key_fetches_total", "Times the keys were fetched or read again.", "route", "result")
	ok, failed := reloads.WithLabelValues(s.Route.Name, "ok"), reloads.WithLabelValues(s.Route.Name, "failed")
	var set *keySet
	switch {
	case p.cfg.JWKSURL != "":
		if p.remote, err = newRemote(p.cfg, resolve(s.Dir, p.cfg.CAFile), log, &p.keys); err == nil {
			p.remote.ok, p.remote.failed = ok, failed
		}
		return err
	case p.cfg.JWKSFile != "":
		p.file = filewatch.New(filewatch.Settings{
			Path: resolve(s.Dir, p.cfg.JWKSFile), Limit: maxKeySet,
			Load: func(content []byte) error {
				set, err := parseKeys(content, p.algs)
				if err == nil {
					p.keys.Store(set)
				}
				return err
			},
			Changed: ok.Inc,
			Failed: func(err error) {
				failed.Inc()
				log.Error("jwks_file: the keys read last stay", "error", err)
			},
		})
		if err := p.file.Load(); err != nil {
			return fmt.Errorf("jwks_file %w", err)
		}
		return nil
	case p.cfg.JWKS != "":
		if set, err = parseKeys([]byte(p.cfg.JWKS), p.algs); err != nil {
			return fmt.Errorf("jwks: %w", err)
		}
	default:
		if set, err = secretKeys(p.cfg.Secret.Reveal(), p.algs); err != nil {
			return fmt.Errorf("secret: %w", err)
		}
	}
	p.keys.Store(set)
	return nil
}

func resolve(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// Start implements plugins.Instance. It waits a moment for the first keys of a
// URL; without them requests are refused with 503 until they come.
func (p *plugin) Start(ctx context.Context) error {
	if p.remote != nil {
		p.remote.start(ctx)
	}
	if p.file != nil {
		p.file.Start()
	}
	return nil
}

// Close implements plugins.Instance.
func (p *plugin) Close(context.Context) error {
	if p.remote != nil {
		p.remote.close()
	}
	if p.file != nil {
		p.file.Close()
	}
	return nil
}

// Handle implements plugins.Instance.
func (p *plugin) Handle(c *fiber.Ctx) error {
	e := exchange.From(c)
	token, err := p.source.Find(e)
	switch {
	case err != nil:
		p.refused.Inc()
		return p.refuse(c, "invalid_request", "more than one token was sent", err.Error())
	case token == nil && p.cfg.Anonymous:
		p.missing.Inc()
		return c.Next()
	case token == nil:
		p.missing.Inc()
		c.Response().Header.Set(fiber.HeaderWWWAuthenticate, p.challenge) // RFC 6750 3.1: no error code
		return reason.Unauthenticated.Because("no token")
	}
	id, err := p.authenticate(e, token)
	if err != nil {
		return p.denied(c, err)
	}
	if err := p.mapConsumer(&id); err != nil {
		p.refused.Inc()
		return err
	}
	e.Identity = id
	if !p.cfg.Forward {
		p.source.Remove(e)
	}
	return c.Next()
}

// denied answers what authenticate found wrong.
func (p *plugin) denied(c *fiber.Ctx, err error) error {
	var f *failure
	switch {
	case !errors.As(err, &f):
		p.unavailable.Inc()
		c.Response().Header.Set(fiber.HeaderRetryAfter, "1")
		return err
	case f.scope:
		p.refused.Inc()
		c.Response().Header.Set(fiber.HeaderWWWAuthenticate,
			p.challenge+`, error="insufficient_scope", scope="`+strings.Join(p.cfg.Scopes, " ")+`"`)
		return reason.Forbidden.Because("%s", f.detail)
	default:
		p.refused.Inc()
		return p.refuse(c, "invalid_token", f.forClient, f.detail)
	}
}

// authenticate returns a *failure, or a refusal if there are no keys.
func (p *plugin) authenticate(e *exchange.Exchange, token []byte) (exchange.Identity, error) {
	keys := p.keys.Load()
	if keys == nil {
		return exchange.Identity{}, reason.AuthUnavailable.Because("the keys of %s have not been fetched yet", p.cfg.JWKSURL)
	}
	now := time.Now()
	remember := p.cache != nil && len(token) <= maxCachedToken
	var digest [sha256.Size]byte
	if remember {
		digest = sha256.Sum256(token)
		if id, ok := p.cache.get(&digest, keys, now.Unix()); ok {
			p.cached.Inc()
			return id, nil
		}
	}
	claims, f := verify(token, keys, p.algs, p.cfg.Type)
	if f != nil && f.unknownKey && p.remote != nil && p.remote.ask(e.Context()) {
		keys = p.keys.Load()
		claims, f = verify(token, keys, p.algs, p.cfg.Type)
	}
	if f != nil {
		return exchange.Identity{}, f
	}
	id, until, f := p.rules.check(claims, now)
	if f != nil {
		return exchange.Identity{}, f
	}
	p.accepted.Inc()
	if remember {
		p.cache.put(&digest, entry{id, until, keys}, now.Unix())
	}
	return id, nil
}

// mapConsumer finds the configured consumer a claim names.
func (p *plugin) mapConsumer(id *exchange.Identity) error {
	if p.cfg.ConsumerClaim == "" {
		return nil
	}
	name, _ := id.Claims[p.cfg.ConsumerClaim].(string)
	if who := p.consumers.ByName(name); who != nil {
		id.Consumer = &who.Consumer
		return nil
	}
	if p.cfg.ConsumerRequired {
		return reason.Forbidden.Because("claim %s names no consumer: %.100q", p.cfg.ConsumerClaim, name)
	}
	return nil
}

func (p *plugin) refuse(c *fiber.Ctx, code, forClient, detail string) error {
	c.Response().Header.Set(fiber.HeaderWWWAuthenticate,
		p.challenge+`, error="`+code+`", error_description="`+forClient+`"`)
	return reason.Unauthenticated.Because("%s", detail)
}
