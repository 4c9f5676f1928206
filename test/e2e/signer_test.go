package e2e

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"testing"
	"time"
)

// signer makes JSON Web Tokens with one Ed25519 key.
type signer struct {
	t   *testing.T
	id  string
	key ed25519.PrivateKey
}

func newSigner(t *testing.T, id string) *signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{t, id, key}
}

var b64 = base64.RawURLEncoding

// jwks is the key set with the public key.
func (s *signer) jwks() string {
	x := b64.EncodeToString(s.key.Public().(ed25519.PublicKey))
	return fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","use":"sig","kid":%q,"x":%q}]}`, s.id, x)
}

// token signs claims; exp is in an hour unless given.
func (s *signer) token(claims map[string]any) string {
	s.t.Helper()
	if claims["exp"] == nil {
		claims["exp"] = time.Now().Add(time.Hour).Unix()
	}
	body, err := json.Marshal(claims)
	if err != nil {
		s.t.Fatal(err)
	}
	head := fmt.Sprintf(`{"alg":"EdDSA","typ":"JWT","kid":%q}`, s.id)
	signed := b64.EncodeToString([]byte(head)) + "." + b64.EncodeToString(body)
	return signed + "." + b64.EncodeToString(ed25519.Sign(s.key, []byte(signed)))
}

// unsigned is a token that says it needs no signature.
func unsigned() string {
	body := fmt.Sprintf(`{"iss":"https://id.example","aud":"api","exp":%d}`, time.Now().Add(time.Hour).Unix())
	return b64.EncodeToString([]byte(`{"alg":"none"}`)) + "." + b64.EncodeToString([]byte(body)) + "."
}

// basic is an Authorization header with a user name and a password.
func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}
