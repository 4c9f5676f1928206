package jwt

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
)

const (
	// maxKeySet bounds a key set; the largest public ones have some 100 KiB.
	maxKeySet = 1 << 20
	// maxAuthorities bounds ca_file; those of a whole system have 300 KiB.
	maxAuthorities = 1 << 20
	maxKeys        = 200
	// minRSA is the shortest modulus RFC 7518 3.3 allows.
	minRSA = 2048
)

// key is one key with the algorithms it may be used for. A key is only ever
// used for algorithms of its own type, whatever a token says: a public RSA key
// can never become an HMAC secret (RFC 8725 3.1).
type key struct {
	id   string
	raw  any
	algs []jwa.SignatureAlgorithm
}

// keySet does not change. Tokens are remembered by the set that verified them.
type keySet struct {
	keys   []key
	digest [sha256.Size]byte
}

// parseKeys reads a JSON Web Key Set, or a single key. Keys for encryption, of
// unknown kinds and for other algorithms are left out; a set with no key left
// is an error, and so is a key that is too weak.
func parseKeys(data []byte, allowed []string) (*keySet, error) {
	if len(data) > maxKeySet {
		return nil, fmt.Errorf("key set of more than %d bytes", maxKeySet)
	}
	set, err := jwk.Parse(data, jwk.WithIgnoreParseError(true))
	if err != nil { // perhaps a single key
		k, err := jwk.ParseKey(data)
		if err != nil {
			return nil, fmt.Errorf("neither a JSON Web Key Set nor a key: %w", err)
		}
		set = jwk.NewSet()
		if err := set.AddKey(k); err != nil {
			return nil, err
		}
	}
	if set.Len() > maxKeys {
		return nil, fmt.Errorf("%d keys, the most is %d", set.Len(), maxKeys)
	}
	ks := &keySet{digest: sha256.Sum256(data)}
	var why error
	for i := range set.Len() {
		k, ok := set.Key(i)
		if !ok {
			continue
		}
		made, err := newKey(k, allowed)
		if err != nil {
			why = fmt.Errorf("key %d: %w", i+1, err)
			continue
		}
		ks.keys = append(ks.keys, made)
	}
	if len(ks.keys) == 0 {
		if why == nil {
			why = errors.New("the set is empty or has only keys that are of unknown kinds, malformed or weak")
		}
		return nil, fmt.Errorf("no usable key: %w", why)
	}
	return ks, nil
}

func newKey(k jwk.Key, allowed []string) (key, error) {
	var made key
	made.id, _ = k.KeyID()
	if use, ok := k.KeyUsage(); ok && use != "sig" {
		return made, fmt.Errorf("its use is %q, not sig", use)
	}
	if ops, ok := k.KeyOps(); ok && !slices.Contains(ops, jwk.KeyOpVerify) && !slices.Contains(ops, jwk.KeyOpSign) {
		return made, errors.New("it is not for verifying signatures")
	}
	if k.KeyType() != jwa.OctetSeq() {
		public, err := k.PublicKey()
		if err != nil {
			return made, err
		}
		k = public
	}
	if err := jwk.Export(k, &made.raw); err != nil {
		return made, err
	}
	fits, err := fitting(made.raw)
	if err != nil {
		return made, err
	}
	for _, name := range fits {
		if own, ok := k.Algorithm(); ok && !sameAlgorithm(own.String(), name) || !slices.Contains(allowed, name) {
			continue
		}
		if alg, ok := jwa.LookupSignatureAlgorithm(name); ok {
			made.algs = append(made.algs, alg)
		}
	}
	if len(made.algs) == 0 {
		return made, fmt.Errorf("none of the algorithms %v fits it", allowed)
	}
	return made, nil
}

func sameAlgorithm(a, b string) bool {
	return a == b || a == "EdDSA" && b == "Ed25519" || a == "Ed25519" && b == "EdDSA"
}

// fitting lists the algorithms a raw key can be used for.
func fitting(raw any) ([]string, error) {
	switch k := raw.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSA {
			return nil, fmt.Errorf("an RSA key of %d bits is too weak, the least is %d", n, minRSA)
		}
		return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}, nil
	case *ecdsa.PublicKey:
		switch k.Curve.Params().BitSize {
		case 256:
			return []string{"ES256"}, nil
		case 384:
			return []string{"ES384"}, nil
		case 521:
			return []string{"ES512"}, nil
		}
	case ed25519.PublicKey:
		return []string{"EdDSA", "Ed25519"}, nil
	case []byte:
		var fits []string
		for _, name := range symmetric {
			if len(k) >= hmacBytes(name) {
				fits = append(fits, name)
			}
		}
		if fits == nil {
			return nil, fmt.Errorf("an HMAC key of %d bytes is too weak, the least is %d", len(k), hmacBytes("HS256"))
		}
		return fits, nil
	}
	return nil, fmt.Errorf("keys of type %T are not supported", raw)
}

// hmacBytes is the least length RFC 7518 3.2 allows.
func hmacBytes(alg string) int {
	switch alg {
	case "HS384":
		return 48
	case "HS512":
		return 64
	}
	return 32
}

// secretKeys makes a set of one shared secret.
func secretKeys(secret string, allowed []string) (*keySet, error) {
	k, err := jwk.Import([]byte(secret))
	if err != nil {
		return nil, err
	}
	made, err := newKey(k, allowed)
	if err != nil {
		return nil, err
	}
	return &keySet{keys: []key{made}}, nil
}

// candidate calls f for keys that may have signed a token with this header,
// until f returns true. known is false if the token names a key that the set
// does not have. A token without kid may be signed by any key that fits; a key
// without kid may have signed it only then.
func (s *keySet) candidate(kid, alg string, f func(raw any, alg jwa.SignatureAlgorithm) bool) (known bool) {
	const most = 8 // signatures checked for one token
	tried := 0
	for i := range s.keys {
		k := &s.keys[i]
		if kid != "" && k.id != kid {
			continue
		}
		known = true
		for _, a := range k.algs {
			if a.String() == alg && tried < most {
				tried++
				if f(k.raw, a) {
					return true
				}
			}
		}
	}
	return known
}
