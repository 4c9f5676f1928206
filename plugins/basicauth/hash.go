package basicauth

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// Bounds that keep one check below about a second and 256 MiB: a hash is
// config, but a typing error in it must not take the node down.
const (
	maxBcryptCost   = 15
	maxArgonMemory  = 256 << 10 // KiB
	maxArgonTime    = 16
	maxArgonThreads = 16
)

// hash is a parsed password hash. It does not change.
type hash struct {
	text string // as configured, for bcrypt
	// argon2id, if sum is not nil
	salt, sum    []byte
	time, memory uint32
	threads      uint8
	// work orders hashes by how long they take, roughly.
	work uint64
}

// parseHash reads a bcrypt or argon2id hash. Errors never repeat it.
func parseHash(s string) (*hash, error) {
	switch {
	case strings.HasPrefix(s, "$2a$"), strings.HasPrefix(s, "$2b$"), strings.HasPrefix(s, "$2y$"):
		return parseBcrypt(s)
	case strings.HasPrefix(s, "$argon2id$"):
		return parseArgon(s)
	case strings.HasPrefix(s, "$argon2"):
		return nil, errors.New("argon2i and argon2d are not supported, only argon2id")
	case strings.HasPrefix(s, "$apr1$"), strings.HasPrefix(s, "$1$"):
		return nil, errors.New("MD5 hashes are refused, they can be reversed; use bcrypt (htpasswd -B) or argon2id")
	case strings.HasPrefix(s, "{SHA}"), strings.HasPrefix(s, "{SSHA}"):
		return nil, errors.New("SHA-1 hashes are refused, they can be reversed; use bcrypt (htpasswd -B) or argon2id")
	case strings.HasPrefix(s, "$"):
		return nil, errors.New("unknown kind of hash; use bcrypt ($2b$…) or argon2id ($argon2id$…)")
	default:
		return nil, errors.New("passwords in plain text and crypt(3) hashes are refused; use bcrypt (htpasswd -B) or argon2id")
	}
}

const bcryptAlphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

func parseBcrypt(s string) (*hash, error) {
	if len(s) != 60 || s[6] != '$' || strings.Trim(s[7:], bcryptAlphabet) != "" {
		return nil, errors.New("malformed bcrypt hash")
	}
	cost, err := bcrypt.Cost([]byte(s))
	if err != nil {
		return nil, fmt.Errorf("malformed bcrypt hash: %w", err)
	}
	if cost > maxBcryptCost {
		return nil, fmt.Errorf("bcrypt cost %d: one check would take seconds, the most is %d", cost, maxBcryptCost)
	}
	return &hash{text: s, work: 1 << cost * 64}, nil
}

// parseArgon reads the PHC form $argon2id$v=19$m=65536,t=3,p=4$SALT$SUM.
func parseArgon(s string) (*hash, error) {
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[2] != "v=19" {
		return nil, errors.New("malformed argon2id hash, want $argon2id$v=19$m=…,t=…,p=…$SALT$HASH")
	}
	h := &hash{}
	params := strings.Split(parts[3], ",")
	if len(params) != 3 {
		return nil, errors.New("malformed argon2id parameters, want m=…,t=…,p=…")
	}
	var values [3]uint64
	for i, f := range []struct {
		name     string
		min, max uint64
	}{{"m=", 8, maxArgonMemory}, {"t=", 1, maxArgonTime}, {"p=", 1, maxArgonThreads}} {
		text, ok := strings.CutPrefix(params[i], f.name)
		v, err := strconv.ParseUint(text, 10, 32)
		if !ok || err != nil || v < f.min || v > f.max {
			return nil, fmt.Errorf("argon2id parameter %s must be from %d to %d", f.name, f.min, f.max)
		}
		values[i] = v
	}
	h.memory, h.time, h.threads = uint32(values[0]), uint32(values[1]), uint8(values[2])
	var err1, err2 error
	h.salt, err1 = base64.RawStdEncoding.Strict().DecodeString(parts[4])
	h.sum, err2 = base64.RawStdEncoding.Strict().DecodeString(parts[5])
	if err1 != nil || err2 != nil || len(h.salt) < 8 || len(h.salt) > 64 || len(h.sum) < 16 || len(h.sum) > 128 {
		return nil, errors.New("malformed argon2id salt or hash")
	}
	h.work = values[0] * values[1]
	return h, nil
}

// matches computes the hash of password and compares in constant time.
func (h *hash) matches(password []byte) bool {
	if h.sum == nil {
		return bcrypt.CompareHashAndPassword([]byte(h.text), password) == nil
	}
	sum := argon2.IDKey(password, h.salt, h.time, h.memory, h.threads, uint32(len(h.sum)))
	return subtle.ConstantTimeCompare(sum, h.sum) == 1
}

// decoy is a hash that takes as long as h to check and that nothing matches.
func (h *hash) decoy() *hash {
	d := *h
	if h.sum == nil {
		var b strings.Builder
		b.WriteString(h.text[:7])
		random := make([]byte, 53)
		_, _ = rand.Read(random) // never fails
		for i, c := range random {
			if i == 21 {
				c = 0 // the last digit of a salt has two meaningful bits
			}
			b.WriteByte(bcryptAlphabet[c%64])
		}
		d.text = b.String()
		return &d
	}
	d.salt, d.sum = make([]byte, len(h.salt)), make([]byte, len(h.sum))
	_, _ = rand.Read(d.salt) // never fails
	_, _ = rand.Read(d.sum)
	return &d
}

// standIn is what unknown users are checked against while no user is known.
const standIn = "$2b$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy"
