// Package acme gets certificates from an authority that speaks ACME (RFC 8555)
// and keeps them fresh. Handshakes and requests only read what is there: a
// certificate, the answer to a challenge. Everything that waits for the
// authority is done by one worker per certificate, which lives and dies with
// the certificate's place in the config.
package acme

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/acme/autocert"

	"github.com/gatehouse-proxy/gatehouse/gateway/seal"
)

// NodeSettings are what all sources of a node have in common.
type NodeSettings struct {
	// Dir is where certificates and account keys are kept, sealed.
	Dir string
	// Secret seals them; empty: KeyFile is read, and made if there is none.
	Secret  string
	KeyFile string
	// Version of the program, told to the authority.
	Version string
	// Shared is what this node shares with the others of its fleet, who then all
	// have the same Secret; nil: it is alone.
	Shared Shared
	Log    *slog.Logger
}

// Node is what the sources of one node share: the store, the lock, and the
// challenges that are pending. It is safe for concurrent use.
type Node struct {
	s          NodeSettings
	id         string // of this life of the node
	challenges *Challenges
	locker     *localLocker
	mu         sync.Mutex // guards store and sources
	store      *store     // nil: not opened yet
	sources    map[*Source]struct{}
	remote     remote
}

// NewNode returns a node that has opened nothing yet.
func NewNode(s NodeSettings) *Node {
	return &Node{s: s, id: rand.Text(), challenges: NewChallenges(), locker: newLocalLocker(), sources: map[*Source]struct{}{}}
}

// Challenges are the challenges pending on this node.
func (n *Node) Challenges() *Challenges { return n.challenges }

// Open prepares the store and says what is wrong with it. Doing it again after
// success does nothing.
func (n *Node) Open() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.store != nil {
		return nil
	}
	if n.s.Dir == "" {
		return errNotOpen
	}
	key, err := n.key()
	if err != nil {
		return err
	}
	if err := writable(n.s.Dir); err != nil {
		return fmt.Errorf("node.data_dir: certificates cannot be stored: %w", err)
	}
	n.store = &store{disk: autocert.DirCache(n.s.Dir), shared: n.s.Shared, key: key, log: n.s.Log}
	return nil
}

func (n *Node) key() (*seal.Key, error) {
	if n.s.Secret != "" {
		key, err := seal.New(n.s.Secret)
		if err != nil {
			return nil, fmt.Errorf("node.secret_key: %w", err)
		}
		return key, nil
	}
	key, err := seal.Load(n.s.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("node.data_dir: the key that encrypts stored keys: %w", err)
	}
	return key, nil
}

// writable makes the folder and tries it.
func writable(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".probe-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

var errNotOpen = errors.New("the store of certificates is not open")

// opened is the store, once Open has succeeded.
func (n *Node) opened() (*store, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.store == nil {
		return nil, errNotOpen
	}
	return n.store, nil
}

// Settings describe one certificate.
type Settings struct {
	// Name in the config, the log and the store.
	Name string
	// Hosts are the DNS names it is for, in lower case; not empty.
	Hosts []string
	// Directory is the authority's URL.
	Directory string
	// CAFile has the authorities that the directory's own certificate is
	// checked against; empty: the system's.
	CAFile string
	// Email is where the authority sends warnings; empty: nowhere.
	Email string
	// TermsAgreed says that the user agrees to the authority's terms.
	TermsAgreed bool
	// Challenges are the kinds to use, the preferred one first; not empty.
	Challenges []Kind
	// RSA asks for a key of 2048 bits instead of ECDSA P-256.
	RSA bool
	// BindingID and BindingKey tie the account to one at the authority (RFC
	// 8555, 7.3.4); empty: not wanted.
	BindingID  string
	BindingKey []byte
	// Changes is counted up whenever the certificate changes.
	Changes *atomic.Uint64
}

// account is the name of the account's key in the store: one for each
// authority, address and binding.
func (s *Settings) account() string {
	sum := sha256.Sum256([]byte(s.Directory + "\n" + s.Email + "\n" + s.BindingID))
	return "account-" + hex.EncodeToString(sum[:8])
}

// KeyFileIn is where a node with this folder keeps its key, DirIn where it
// keeps what the key seals.
func KeyFileIn(dataDir string) string { return filepath.Join(dataDir, "secret.key") }

// DirIn is where a node with this folder keeps certificates.
func DirIn(dataDir string) string { return filepath.Join(dataDir, "acme") }
