// Package revision makes a published config something that can be trusted
// wherever it was kept: packed into one piece, signed by the control role, and
// verified by every node that is to run it.
package revision

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// MaxSize of a packed config in bytes. The config itself may have 64 MiB
// uncompressed, of which nobody has yet come near; Redis takes 512 MB.
const MaxSize = store.MaxRevision

// packed is the form of a config in the store.
type packed struct {
	Files []packedFile `json:"files"`
}

// packedFile has a file's content as text where it is some, else as data.
type packedFile struct {
	Name string `json:"name"`
	Text string `json:"text,omitempty"`
	Data []byte `json:"data,omitempty"`
}

// Pack makes files one piece. Names lose their folders: a node has no use for
// the publisher's, and they are nobody's business.
func Pack(files []config.File) ([]byte, error) {
	p := packed{Files: make([]packedFile, len(files))}
	seen := map[string]string{}
	for i, f := range files {
		name := path.Base(strings.ReplaceAll(f.Name, "\\", "/"))
		if other, twice := seen[name]; twice {
			return nil, fmt.Errorf("%s and %s have the same name; a revision keeps names without their folders", other, f.Name)
		}
		seen[name] = f.Name
		p.Files[i] = packedFile{Name: name, Data: f.Data}
		if utf8.Valid(f.Data) {
			p.Files[i] = packedFile{Name: name, Text: string(f.Data)}
		}
	}
	return json.Marshal(p)
}

// Unpack undoes Pack. It trusts nothing, since it may be asked before Verify.
func Unpack(data []byte) ([]config.File, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("a revision of %d bytes: at most %d are read", len(data), MaxSize)
	}
	p, ok := quick(data)
	if !ok {
		var err error
		if p, err = decode(data); err != nil {
			return nil, err
		}
	}
	var files []config.File
	for _, f := range p.Files {
		if f.Name == "" || f.Name == "." || f.Name == ".." || strings.ContainsAny(f.Name, "/\\\x00") || !utf8.ValidString(f.Name) {
			return nil, fmt.Errorf("a revision has a file called %q", f.Name)
		}
		if slices.ContainsFunc(files, func(o config.File) bool { return o.Name == f.Name }) {
			return nil, fmt.Errorf("a revision has two files called %q", f.Name)
		}
		if f.Text != "" && f.Data != nil {
			return nil, fmt.Errorf("a revision has two contents for the file %q", f.Name)
		}
		if f.Text != "" {
			f.Data = []byte(f.Text)
		}
		files = append(files, config.File{Name: f.Name, Data: f.Data})
	}
	if len(files) == 0 {
		return nil, errors.New("a revision has no file")
	}
	return files, nil
}

// decode reads any form of packed that is valid JSON.
func decode(data []byte) (p packed, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return p, fmt.Errorf("a revision is not packed as it should be: %w", err)
	}
	if d.More() {
		return p, errors.New("a revision has something behind its end")
	}
	return p, nil
}

// Digest of packed data: SHA-256 in lower-case hex.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// message is what is signed: everything that is shown to people or acted upon.
// Each part has its length before it, so that nothing can be moved from one
// part to the next.
func message(r *store.Revision, sum [sha256.Size]byte) []byte {
	m := binary.BigEndian.AppendUint64([]byte("gatehouse revision 1\x00"), r.Number)
	m = binary.BigEndian.AppendUint64(m, uint64(r.Time.UnixNano()))
	for _, part := range [][]byte{[]byte(r.Author), []byte(r.Message), sum[:]} {
		m = append(binary.BigEndian.AppendUint64(m, uint64(len(part))), part...)
	}
	return m
}

// The reasons not to run a revision.
var (
	// ErrUnknownKey: it was signed with a key that this node does not trust.
	ErrUnknownKey = errors.New("it is signed with a key that this node does not trust")
	// ErrBadSignature: it is not what was signed.
	ErrBadSignature = errors.New("its signature is wrong: it is not what was published")
)

// Key signs revisions. It never changes.
type Key struct{ private ed25519.PrivateKey }

// Public is what nodes need to verify what the key has signed.
func (k *Key) Public() PublicKey { return PublicKey(k.private.Public().(ed25519.PublicKey)) }

// New makes the revision that follows number-1 and signs it.
func (k *Key) New(number uint64, data []byte, author, why string, now time.Time) *store.Revision {
	sum := sha256.Sum256(data)
	r := &store.Revision{
		Number: number, Digest: hex.EncodeToString(sum[:]), Author: author, Message: why,
		Time: now.UTC().Truncate(time.Millisecond), KeyID: k.Public().ID(), Data: data,
	}
	r.Signature = ed25519.Sign(k.private, message(r, sum))
	return r
}

// PublicKey verifies.
type PublicKey ed25519.PublicKey

const publicPrefix = "ed25519:"

// ParsePublicKey reads what String writes.
func ParsePublicKey(text string) (PublicKey, error) {
	rest, ok := strings.CutPrefix(text, publicPrefix)
	b, err := base64.StdEncoding.Strict().DecodeString(rest)
	if !ok || err != nil || len(b) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("%q is not a public key: want ed25519: and 44 characters of base64", text)
	}
	return b, nil
}

// String is the key as it stands in a config.
func (p PublicKey) String() string { return publicPrefix + base64.StdEncoding.EncodeToString(p) }

// ID is a short name for the key.
func (p PublicKey) ID() string {
	sum := sha256.Sum256(p)
	return hex.EncodeToString(sum[:6])
}

// Keyring is the keys that a node trusts. It never changes.
type Keyring []PublicKey

// Verify is nil for a revision that is what one of the keys has signed. Its
// error says why the revision must not run.
func (ring Keyring) Verify(r *store.Revision) error {
	sum := sha256.Sum256(r.Data)
	i := slices.IndexFunc(ring, func(p PublicKey) bool { return p.ID() == r.KeyID })
	switch {
	case i < 0:
		return fmt.Errorf("revision %d: %w: key %.40q is not in node.control.trusted_keys", r.Number, ErrUnknownKey, r.KeyID)
	case !ed25519.Verify(ed25519.PublicKey(ring[i]), message(r, sum), r.Signature), hex.EncodeToString(sum[:]) != r.Digest:
		return fmt.Errorf("revision %d: %w", r.Number, ErrBadSignature)
	}
	return nil
}
