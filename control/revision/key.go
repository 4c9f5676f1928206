package revision

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gatehouse-proxy/gatehouse/gateway/filewatch"
)

const keyBlock = "PRIVATE KEY"

// maxKeyFile bounds the file of a key, which has 119 bytes.
const maxKeyFile = 64 << 10

// LoadKey reads an Ed25519 key in PKCS #8 PEM. A file that others may read is an
// error: whoever has the key decides what every node runs.
func LoadKey(path string) (*Key, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o: others could read it; want 0600", path, st.Mode().Perm())
	}
	text, err := filewatch.Read(path, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != keyBlock {
		return nil, fmt.Errorf("%s has no %s in PEM form", path, keyBlock)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s has a key of type %T; want Ed25519", path, parsed)
	}
	return &Key{private}, nil
}

// LoadOrCreateKey is LoadKey, and makes the key where there is no file. The file
// appears whole or not at all, also when two processes make it at once.
func LoadOrCreateKey(path string) (k *Key, created bool, err error) {
	k, err = LoadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, false, err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, false, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, false, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, false, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*") // with mode 0600
	if err != nil {
		return nil, false, err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // the link below is what stays
	_, err = f.Write(pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, false, err
	}
	if err := os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) {
		k, err = LoadKey(path)
		return k, false, err
	} else if err != nil {
		return nil, false, err
	}
	return &Key{private}, true, nil
}
