package acme

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/crypto/acme/autocert"

	"github.com/gatehouse-proxy/gatehouse/gateway/seal"
)

// store keeps what must outlive the process. Everything in it is sealed; what
// is below sees names and ciphertext.
type store struct {
	disk   autocert.Cache
	shared Cache // nil: the node is alone; else disk has copies, for when it is away
	key    *seal.Key
	log    *slog.Logger
}

// storeError is of the store, and so of this side.
type storeError struct{ error }

func (e *storeError) Unwrap() error { return e.error }

// get reads from the disk. It returns nil without an error if there is nothing,
// or nothing that can be opened: such an entry is moved aside, so that whoever
// has the right key can put it back.
func (s *store) get(ctx context.Context, name string) ([]byte, error) {
	sealed, err := s.disk.Get(ctx, name)
	if errors.Is(err, autocert.ErrCacheMiss) {
		return nil, nil
	}
	if err != nil {
		return nil, &storeError{fmt.Errorf("reading %s: %w", name, err)}
	}
	plain, err := s.key.Open(name, sealed)
	if err != nil {
		return nil, s.refuse(ctx, name, sealed, err)
	}
	return plain, nil
}

// asideSuffix marks what was found unusable.
const asideSuffix = ".unusable"

// refuse moves an entry aside. Its error is that this did not work: then
// nothing may be put in the entry's place.
func (s *store) refuse(ctx context.Context, name string, content []byte, why error) error {
	s.log.Error("a stored entry cannot be used; it was moved aside and is made anew",
		"entry", name, "aside", name+asideSuffix, "error", why)
	if err := s.disk.Put(ctx, name+asideSuffix, content); err != nil {
		return &storeError{fmt.Errorf("moving %s aside: %w", name, err)}
	}
	if err := s.disk.Delete(ctx, name); err != nil {
		return &storeError{fmt.Errorf("removing %s: %w", name, err)}
	}
	return nil
}

func (s *store) put(ctx context.Context, name string, plain []byte) error {
	if err := s.disk.Put(ctx, name, s.key.Seal(name, plain)); err != nil {
		return &storeError{fmt.Errorf("storing %s: %w", name, err)}
	}
	return nil
}

// ownAccount reads the key of an account from the disk, in DER; nil: there is none.
func (s *store) ownAccount(ctx context.Context, name string) ([]byte, error) {
	plain, err := s.get(ctx, name)
	if err != nil || plain == nil {
		return nil, err
	}
	if _, err := x509.ParseECPrivateKey(plain); err != nil {
		return nil, s.refuse(ctx, name, s.key.Seal(name+asideSuffix, plain), err)
	}
	return plain, nil
}

// accountKey reads the key of an account, making one first if there is none.
// alone does without what the nodes share.
func (s *store) accountKey(ctx context.Context, name string, alone bool) (crypto.Signer, error) {
	der, err := s.ownAccount(ctx, name)
	if err == nil && s.shared != nil && !alone {
		der, err = s.shareAccount(ctx, name, der, true)
	} else if err == nil && der == nil {
		if der, err = newAccount(); err == nil {
			err = s.put(ctx, name, der)
		}
	}
	if err != nil {
		return nil, err
	}
	return x509.ParseECPrivateKey(der)
}

func newAccount() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return x509.MarshalECPrivateKey(key)
}

// stored is a certificate with what was ordered of whom.
type stored struct {
	cert             *tls.Certificate
	directory, hosts string
}

// Headers of the key's PEM block.
const (
	directoryHeader = "Directory"
	hostsHeader     = "Hosts"
)

func certificateEntry(name string) string { return "certificate-" + name }

// certificate reads a certificate from the disk; nil if there is none that is usable.
func (s *store) certificate(ctx context.Context, name string) (*stored, error) {
	entry := certificateEntry(name)
	plain, err := s.get(ctx, entry)
	if err != nil || plain == nil {
		return nil, err
	}
	c, err := parseStored(plain)
	if err != nil {
		return nil, s.refuse(ctx, entry, s.key.Seal(entry+asideSuffix, plain), err)
	}
	return c, nil
}

func parseStored(plain []byte) (*stored, error) {
	block, chain := pem.Decode(plain)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("does not begin with a private key in PEM form")
	}
	c := &stored{directory: block.Headers[directoryHeader], hosts: block.Headers[hostsHeader]}
	block.Headers = nil
	cert, err := tls.X509KeyPair(chain, pem.EncodeToMemory(block))
	if err != nil {
		return nil, err
	}
	c.cert = &cert
	return c, nil
}

// encode is the reverse of parseStored.
func (c *stored) encode() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(c.cert.PrivateKey)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Headers: map[string]string{directoryHeader: c.directory, hostsHeader: c.hosts}, Bytes: der})
	for _, der := range c.cert.Certificate {
		err = errors.Join(err, pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return b.Bytes(), err
}

// putCertificate stores a certificate with its key on disk.
func (s *store) putCertificate(ctx context.Context, name string, c *stored) error {
	plain, err := c.encode()
	if err != nil {
		return err
	}
	return s.put(ctx, certificateEntry(name), plain)
}

// newKey makes the key of a certificate; every certificate has its own.
func newKey(inRSA bool) (crypto.Signer, error) {
	if inRSA {
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}
