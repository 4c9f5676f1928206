package tlsterm

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/filewatch"
)

// ExpiresSoon is how long before its end a certificate is worth a warning; of
// one that lives less than three times that, a third of its life.
const ExpiresSoon = 14 * 24 * time.Hour

// maxFile bounds a PEM file. A chain has a few KiB.
const maxFile = 1 << 20

// CertificateSettings describe a certificate; all but OCSPFile are required.
type CertificateSettings struct {
	// Name in the log.
	Name string
	// CertFile and KeyFile are PEM files.
	CertFile, KeyFile string
	// OCSPFile has an OCSP response, DER or PEM, that is shown as long as it is
	// good for the certificate; empty: none is shown.
	OCSPFile string
	// Changes is counted up whenever a certificate changes. All certificates
	// and terminators of a node share it.
	Changes *atomic.Uint64
	Log     *slog.Logger
}

// Certificate is a certificate chain with its key, kept up to date with two
// files. Its methods are safe for concurrent use.
type Certificate struct {
	s       CertificateSettings
	current atomic.Pointer[tls.Certificate] // nil: nothing usable yet

	stapled atomic.Pointer[staple] // nil: no OCSP response is shown

	loaded, failed atomic.Uint64

	mu            sync.Mutex // guards all below
	chain, key    []byte     // the newest readable content, fitting or not
	response      []byte     // the same, of the OCSP response
	shown         []byte     // the newest response that was good
	certs, keyPEM *filewatch.File
	ocsp          *filewatch.File // nil: there is none

	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup
}

// NewCertificate returns a certificate that has read nothing yet.
func NewCertificate(s CertificateSettings) *Certificate {
	c := &Certificate{s: s, stop: make(chan struct{})}
	c.keyPEM = c.watch(s.KeyFile, c.takeKey)
	c.certs = c.watch(s.CertFile, c.takeChain)
	if s.OCSPFile != "" {
		c.ocsp = filewatch.New(filewatch.Settings{Path: s.OCSPFile, Limit: maxFile, Load: c.takeResponse, Failed: c.failedOCSP})
	}
	return c
}

func (c *Certificate) watch(path string, load func([]byte) error) *filewatch.File {
	return filewatch.New(filewatch.Settings{
		Path: path, Limit: maxFile, Load: load,
		Failed: func(err error) {
			c.failed.Add(1)
			c.s.Log.Error("a certificate cannot be loaded; what was loaded before stays in use",
				"certificate", c.s.Name, "usable", c.current.Load() != nil, "error", err)
		},
	})
}

// FileError says which of a certificate's files cannot be used: Setting is
// "cert_file" or "key_file".
type FileError struct {
	Setting string
	Err     error
}

// Error names the file.
func (e *FileError) Error() string { return e.Err.Error() }

// Unwrap returns what is wrong with it.
func (e *FileError) Unwrap() error { return e.Err }

// Load reads the files for the first time, before Start. Its error is a
// *FileError. A certificate that has expired loads, with a warning in the log: its
// clients will see, and it is better than none. So does one whose OCSP response
// cannot be used.
func (c *Certificate) Load() error {
	if err := c.keyPEM.Load(); err != nil {
		return &FileError{"key_file", err}
	}
	if err := c.certs.Load(); err != nil {
		return &FileError{"cert_file", err}
	}
	if c.ocsp != nil {
		if err := c.ocsp.Load(); err != nil {
			c.failedOCSP(err)
		}
	}
	return nil
}

// Start begins to follow the files. It never fails: a certificate that could
// not be loaded is served as soon as it can be.
func (c *Certificate) Start(context.Context) error {
	c.keyPEM.Start()
	c.certs.Start()
	if c.ocsp != nil {
		c.ocsp.Start()
		c.wg.Go(c.watchOCSP)
	}
	return nil
}

// Close ends what Start began. What is loaded stays usable.
func (c *Certificate) Close(context.Context) error {
	c.keyPEM.Close()
	c.certs.Close()
	if c.ocsp != nil {
		c.ocsp.Close()
	}
	c.once.Do(func() { close(c.stop) })
	c.wg.Wait()
	return nil
}

// Current implements CertSource.
func (c *Certificate) Current() *tls.Certificate { return c.current.Load() }

// Stats tell of a certificate.
type Stats struct {
	Name string
	// Source is where it comes from: "file" or "acme".
	Source string
	// Hosts are the names it is for; of a file that could not be read, none.
	Hosts []string
	// Loaded counts the times new content was put in use, Failed the errors met
	// while following the files or asking the authority.
	Loaded, Failed uint64
	// NotBefore and NotAfter are when it is valid; zero while there is none.
	NotBefore, NotAfter time.Time
	// OCSP says that a file with an OCSP response is given, OCSPUntil how long
	// the one shown is valid; zero: none is shown.
	OCSP      bool
	OCSPUntil time.Time
	// Fault is why there is nothing newer, or nothing at all, since FaultSince;
	// empty: all is well.
	Fault      string
	FaultSince time.Time
	// Next is when a source that fetches certificates itself tries next; zero:
	// it follows files.
	Next time.Time
	// Ordered is when such a source last got one; zero: not since the node started.
	Ordered time.Time
	// Orders counts what became of its orders by outcome; nil: it follows files.
	Orders map[string]uint64
}

// Stats implements CertSource.
func (c *Certificate) Stats() Stats {
	s := Stats{Name: c.s.Name, Source: "file", Loaded: c.loaded.Load(), Failed: c.failed.Load()}
	if l := c.current.Load(); l != nil {
		s.Hosts, s.NotBefore, s.NotAfter = l.Leaf.DNSNames, l.Leaf.NotBefore, l.Leaf.NotAfter
	}
	files := []*filewatch.File{c.keyPEM, c.certs}
	if c.ocsp != nil {
		s.OCSP = true
		if r := c.stapled.Load(); r != nil {
			s.OCSPUntil = r.until
		}
		files = append([]*filewatch.File{c.ocsp}, files...) // the others' faults count for more
	}
	for _, f := range files {
		if fault := f.Fault(); fault != nil {
			s.Fault, s.FaultSince = fault.Err.Error(), fault.Since
		}
	}
	if s.OCSP && s.OCSPUntil.IsZero() && s.Fault == "" {
		s.Fault = fmt.Sprintf("%q: there is no OCSP response to show any more", c.s.OCSPFile)
	}
	return s
}

func (c *Certificate) takeKey(content []byte) error {
	switch block := keyBlock(content); {
	case block == nil:
		return errors.New("has no private key in PEM form")
	case block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
		return errors.New("is encrypted; store it decrypted, readable for the gateway only")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.key = content
	if c.pair() == nil {
		return nil
	}
	// The other file may have been replaced as well and not been looked at yet.
	if chain, err := filewatch.Read(c.s.CertFile, maxFile); err == nil {
		c.chain = chain
	}
	if err := c.pair(); err != nil {
		return fmt.Errorf("does not go with the certificate in %q: %w", c.s.CertFile, err)
	}
	return nil
}

func (c *Certificate) takeChain(content []byte) error {
	if _, err := certificates(content); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.chain = content
	if c.pair() == nil {
		return nil
	}
	if key, err := filewatch.Read(c.s.KeyFile, maxFile); err == nil { // see takeKey
		c.key = key
	}
	if err := c.pair(); err != nil {
		return fmt.Errorf("does not go with the key in %q: %w", c.s.KeyFile, err)
	}
	return nil
}

// pair puts chain and key in use once both are there and fit. Whoever replaces
// the two files one after the other is not in the way: the second completes
// the pair. c.mu is held.
func (c *Certificate) pair() error {
	if c.chain == nil || c.key == nil {
		return nil
	}
	pair, err := tls.X509KeyPair(c.chain, c.key)
	if err != nil {
		return err
	}
	if old := c.current.Load(); old != nil && same(old, &pair) {
		return nil
	}
	replaced := c.current.Swap(&pair) != nil
	if err := c.attach(time.Now()); err != nil {
		c.s.Log.Warn("the OCSP response is not for the new certificate; none is shown until it is replaced", "certificate", c.s.Name, "error", err)
	}
	c.loaded.Add(1)
	c.s.Changes.Add(1)
	c.tell(pair.Leaf, replaced)
	return nil
}

func same(a, b *tls.Certificate) bool {
	if len(a.Certificate) != len(b.Certificate) {
		return false
	}
	for i := range a.Certificate {
		if !bytes.Equal(a.Certificate[i], b.Certificate[i]) {
			return false
		}
	}
	return true
}

func (c *Certificate) tell(leaf *x509.Certificate, replaced bool) {
	log := c.s.Log.With("certificate", c.s.Name, "names", leaf.DNSNames, "not_after", leaf.NotAfter)
	switch now := time.Now(); {
	case now.After(leaf.NotAfter):
		log.Warn("a certificate has expired; clients will refuse it")
	case now.Before(leaf.NotBefore):
		log.Warn("a certificate is not valid yet; clients will refuse it", "not_before", leaf.NotBefore)
	case leaf.NotAfter.Sub(now) < min(ExpiresSoon, leaf.NotAfter.Sub(leaf.NotBefore)/3):
		log.Warn("a certificate expires soon")
	case replaced:
		log.Info("a new certificate is in use")
	}
}

// keyBlock finds the private key in a PEM file; nil if there is none.
func keyBlock(content []byte) *pem.Block {
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return block
		}
	}
	return nil
}

// certificates reads all certificates in a PEM file; none is an error.
func certificates(content []byte) (list []*x509.Certificate, err error) {
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("has a malformed certificate: %w", err)
		}
		list = append(list, cert)
	}
	if len(list) == 0 {
		return nil, errors.New("has no certificate in PEM form")
	}
	return list, nil
}
