package plugins

import (
	"crypto/sha256"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// Consumer is a configured caller with the credentials that prove it.
type Consumer struct {
	exchange.Consumer
	// APIKeys are SHA-256 digests of the keys.
	APIKeys [][sha256.Size]byte
	// Username and PasswordHash (bcrypt "$2…" or argon2id "$argon2id$…") are
	// for basic_auth; empty without one. Username defaults to the name.
	Username, PasswordHash string
	// Subjects, SPIFFEIDs and Fingerprints (64 hexadecimal digits) are what
	// client certificates are known by.
	Subjects, SPIFFEIDs, Fingerprints []string
}

// Directory finds consumers by what they present. It never changes.
type Directory struct {
	byName map[string]*Consumer
	byKey  map[[sha256.Size]byte]*Consumer
	// Of client certificates.
	bySubject, bySPIFFEID, byFingerprint map[string]*Consumer
}

// NewDirectory indexes consumers. Config has made sure that names and keys are
// unique.
func NewDirectory(list []*Consumer) *Directory {
	d := &Directory{
		byName: make(map[string]*Consumer, len(list)),
		byKey:  make(map[[sha256.Size]byte]*Consumer, len(list)),

		bySubject: map[string]*Consumer{}, bySPIFFEID: map[string]*Consumer{}, byFingerprint: map[string]*Consumer{},
	}
	for _, c := range list {
		d.byName[c.Name] = c
		for _, k := range c.APIKeys {
			d.byKey[k] = c
		}
		for _, s := range c.Subjects {
			d.bySubject[s] = c
		}
		for _, s := range c.SPIFFEIDs {
			d.bySPIFFEID[s] = c
		}
		for _, s := range c.Fingerprints {
			d.byFingerprint[s] = c
		}
	}
	return d
}

// ByName finds a consumer by its key in the config; nil if there is none.
func (d *Directory) ByName(name string) *Consumer { return d.byName[name] }

// ByAPIKey finds who owns a key. Looking up a digest, not the key, makes the
// time taken tell nothing about the key.
func (d *Directory) ByAPIKey(key []byte) *Consumer { return d.byKey[sha256.Sum256(key)] }

// ByCertificate finds whose a verified client certificate is: by itself, else
// by its SPIFFE ID, else by its subject. It is nil for nobody's.
func (d *Directory) ByCertificate(t *exchange.TLS) *Consumer {
	if c := d.byFingerprint[t.Fingerprint]; c != nil {
		return c
	}
	if c := d.bySPIFFEID[t.SPIFFEID]; c != nil {
		return c
	}
	return d.bySubject[t.Subject]
}

// Each calls f for every consumer, in no particular order.
func (d *Directory) Each(f func(*Consumer)) {
	for _, c := range d.byName {
		f(c)
	}
}
