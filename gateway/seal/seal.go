// Package seal encrypts what a node keeps on disk, or in a store that several
// nodes share: private keys above all. The key never lies where the
// sealed data does, unless that is the node's own folder.
package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/gateway/filewatch"
)

// maxSecretFile bounds the file of a secret.
const maxSecretFile = 64 << 10

// MinSecret is the least length of a secret, in bytes.
const MinSecret = 32

// magic begins sealed data, so that its format can change some day.
var magic = []byte("GHS1")

// ErrForeign says that data was not sealed with this key and for this name: it
// is damaged, or somebody else's.
var ErrForeign = errors.New("is damaged, or was encrypted with another key")

// Key seals and opens. It is safe for concurrent use.
type Key struct {
	aead cipher.AEAD
	id   string
}

// New derives a key from a secret of at least MinSecret bytes.
func New(secret string) (*Key, error) {
	if len(secret) < MinSecret {
		return nil, fmt.Errorf("must have at least %d bytes, has %d", MinSecret, len(secret))
	}
	raw, err := hkdf.Key(sha256.New, []byte(secret), nil, "gatehouse seal 1", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	id, err := hkdf.Key(sha256.New, []byte(secret), nil, "gatehouse seal id 1", 16)
	if err != nil {
		return nil, err
	}
	return &Key{aead, hex.EncodeToString(id)}, nil
}

// ID tells keys apart, 32 hexadecimal digits: those of one secret have the same.
// It may be known to everybody.
func (k *Key) ID() string { return k.id }

// Load reads the secret in a file that only its owner may read. If there is
// none, one is made.
func Load(path string) (*Key, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return create(path)
	}
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s may be read by others (mode %04o): chmod 600 it, and have the certificates replaced if that matters", path, mode)
	}
	content, err := filewatch.Read(path, maxSecretFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	key, err := New(strings.TrimSpace(string(content)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w; put the right file back, or delete it to start anew", path, err)
	}
	return key, nil
}

func create(path string) (*Key, error) {
	var raw [32]byte
	rand.Read(raw[:])
	secret := hex.EncodeToString(raw[:])
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	// Another node of the same folder may be doing the same: Link lets one win,
	// and nobody ever reads half a file.
	f, err := os.CreateTemp(filepath.Dir(path), ".secret-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // nothing depends on it
	_, err = f.WriteString(secret + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	if err := os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) {
		return Load(path)
	} else if err != nil {
		return nil, err
	}
	return New(secret)
}

// Seal encrypts data that can be opened under the same name only: what is
// stored for one cannot be passed off as another's.
func (k *Key) Seal(name string, data []byte) []byte {
	return k.aead.Seal(bytes.Clone(magic), nil, data, []byte(name))
}

// Open is the reverse of Seal; its error is ErrForeign.
func (k *Key) Open(name string, sealed []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(sealed, magic)
	if !ok {
		return nil, ErrForeign
	}
	data, err := k.aead.Open(nil, nil, rest, []byte(name))
	if err != nil {
		return nil, ErrForeign
	}
	return data, nil
}
