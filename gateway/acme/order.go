package acme

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
)

// orderTimeout is for a whole order. Authorities validate within seconds, but
// may queue.
const orderTimeout = 10 * time.Minute

// order gets a certificate by one kind of challenge. The caller holds the lock.
func (s *Source) order(ctx context.Context, c *acme.Client, kind Kind, alone bool) (*tls.Certificate, error) {
	o, err := c.AuthorizeOrder(ctx, acme.DomainIDs(s.s.Hosts...))
	if err != nil {
		return nil, err
	}
	if err := s.prove(ctx, c, o.AuthzURLs, kind, alone); err != nil {
		if s.running.Err() == nil { // a node that stops does not wait for this
			s.giveUp(ctx, c, o.AuthzURLs)
		}
		return nil, err
	}
	if o, err = c.WaitOrder(ctx, o.URI); err != nil {
		return nil, err
	}
	key, err := newKey(s.s.RSA)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: s.s.Hosts}, key)
	if err != nil {
		return nil, err
	}
	chain, _, err := c.CreateCertFromOrder(ctx, o, csr, true)
	if err != nil {
		return nil, err
	}
	return s.accept(chain, key)
}

// errNoKind: the authority has no such challenge for this host.
var errNoKind = errors.New("the authority does not offer this challenge")

// prove proves that the hosts are ours: the authority looks at all of them at
// the same time, once every node can answer it.
func (s *Source) prove(ctx context.Context, c *acme.Client, urls []string, kind Kind, alone bool) error {
	var asked []*acme.Challenge
	shared := map[string][]byte{}
	for _, url := range urls {
		z, err := c.GetAuthorization(ctx, url)
		if err != nil {
			return err
		}
		if z.Status == acme.StatusValid {
			continue // it has looked lately
		}
		p, challenge, err := prepare(c, z, kind)
		if err != nil {
			return err
		}
		defer s.node.challenges.add(p)() // when the authority has seen all
		asked = append(asked, challenge)
		if s.node.s.Shared != nil && !alone {
			if err := s.node.sealChallenge(shared, p); err != nil {
				return err
			}
		}
	}
	if len(shared) > 0 {
		defer s.node.remote.mine(shared)()
		withdraw, err := s.node.s.Shared.Announce(ctx, shared)
		if err != nil {
			return away(ctx, err)
		}
		defer withdraw()
	}
	for _, challenge := range asked {
		if _, err := c.Accept(ctx, challenge); err != nil {
			return err
		}
	}
	for _, url := range urls {
		if _, err := c.WaitAuthorization(ctx, url); err != nil {
			return err
		}
	}
	return nil
}

// prepare makes the answer to an authority's challenge.
func prepare(c *acme.Client, z *acme.Authorization, kind Kind) (pending, *acme.Challenge, error) {
	host := strings.ToLower(z.Identifier.Value)
	for _, challenge := range z.Challenges {
		if challenge.Type != string(kind) {
			continue
		}
		if kind == HTTP01 {
			answer, err := c.HTTP01ChallengeResponse(challenge.Token)
			return pending{kind: kind, name: challenge.Token, answer: answer}, challenge, err
		}
		cert, err := c.TLSALPN01ChallengeCert(challenge.Token, host)
		return pending{kind: kind, name: host, cert: &cert}, challenge, err
	}
	return pending{}, nil, fmt.Errorf("%s for %q: %w", kind, host, errNoKind)
}

// giveUp takes back what was asked of the authority: pending authorizations
// count against its limits. That it worked does not matter.
func (s *Source) giveUp(ctx context.Context, c *acme.Client, urls []string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	for _, url := range urls {
		if z, err := c.GetAuthorization(ctx, url); err == nil && z.Status == acme.StatusPending {
			_ = c.RevokeAuthorization(ctx, url) // see above
		}
	}
}

// accept makes sure that the authority issued what was ordered.
func (s *Source) accept(chain [][]byte, key crypto.Signer) (*tls.Certificate, error) {
	leaf, err := x509.ParseCertificate(chain[0]) // the client has seen that there is one
	if err != nil {
		return nil, fmt.Errorf("the authority issued a malformed certificate: %w", err)
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(leaf.PublicKey) {
		return nil, errors.New("the authority issued a certificate for another key")
	}
	for _, host := range s.s.Hosts {
		if err := leaf.VerifyHostname(host); err != nil {
			return nil, fmt.Errorf("the authority issued a certificate for other names: %w", err)
		}
	}
	if !time.Now().Before(leaf.NotAfter) {
		return nil, fmt.Errorf("the authority issued a certificate that ended on %s; is this clock right?", leaf.NotAfter)
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}, nil
}
