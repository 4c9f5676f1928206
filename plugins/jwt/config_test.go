package jwt

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/plugins"
)

func TestBadConfig(t *testing.T) {
	modulus := make([]byte, 128) // 1024 bits
	modulus[0], modulus[127] = 0xc1, 1
	weakSet := `{"kty":"RSA","e":"AQAB","n":"` + base64.RawURLEncoding.EncodeToString(modulus) + `"}`
	keys := published(t, "ed")
	for yaml, want := range map[string]string{
		"{audiences: [a]}": "exactly one of jwks_url, jwks_file, jwks and secret, got 0",
		"{audiences: [a], jwks_url: 'https://x/', jwks_file: f}":                                   "exactly one of",
		"{audiences: [a], jwks_url: 'http://id.example.com/'}":                                     "jwks_url: must be https",
		"{audiences: [a], jwks_url: 'https://u:p@x/'}":                                             "jwks_url: must be https://HOST/PATH",
		"{audiences: [a], jwks_url: 'keys'}":                                                       "jwks_url: must be https://HOST/PATH",
		"{audiences: [a], jwks_url: 'https://x/', algorithms: [HS256]}":                            "algorithms: HS256 needs a secret key",
		"{audiences: [a], jwks_url: 'https://x/', algorithms: [none]}":                             "algorithms",
		"{audiences: [a], secret: '" + hmacSecret + "', algorithms: [RS256]}":                      "algorithms: RS256 does not work with a secret",
		"{audiences: [a], secret: short}":                                                          "secret: must have at least 32 bytes",
		"{audiences: [a], secret: '" + hmacSecret + "', algorithms: [HS512]}":                      "secret: must have at least 64 bytes",
		"{jwks: '" + keys + "'}":                                                                   "audiences: must not be empty",
		"{audiences: [a], any_audience: true, jwks: '" + keys + "'}":                               "any_audience: cannot be given beside",
		"{audiences: [a], jwks: '{}'}":                                                             "jwks: neither",
		"{audiences: [a], jwks: 'x'}":                                                              "jwks: neither a JSON Web Key Set nor a key",
		"{audiences: [a], jwks: '{\"keys\":[]}'}":                                                  "jwks: no usable key",
		"{audiences: [a], jwks: '" + keys + "', algorithms: [RS256]}":                              "none of the algorithms [RS256] fits it",
		"{audiences: [a], jwks: '" + weakSet + "'}":                                                "rsa modulus too small",
		"{audiences: [a], jwks: '{\"kty\":\"oct\",\"k\":\"c2hvcnQ\"}', algorithms: [HS256]}":       "an HMAC key of 5 bytes is too weak",
		"{audiences: [a], jwks: '{\"kty\":\"oct\",\"k\":\"" + strings.Repeat("A", 64) + "\"}'}":    "none of the algorithms",
		"{audiences: [a], jwks: '" + strings.Replace(keys, `"kty"`, `"use":"enc","kty"`, 1) + "'}": `its use is "enc"`,
		"{audiences: [a], header: off, jwks: '" + keys + "'}":                                      "header: is off",
		"{audiences: [a], cookie: 'a b', jwks: '" + keys + "'}":                                    "cookie: must be a cookie name",
		"{audiences: [a], scopes: ['a b'], jwks: '" + keys + "'}":                                  "scopes: must be words",
		"{audiences: [a], realm: '\"', jwks: '" + keys + "'}":                                      "realm: must be text",
		"{audiences: [a], skew: 1h, jwks: '" + keys + "'}":                                         "skew: must be at most 10m",
		"{audiences: [a], ca_file: x, jwks: '" + keys + "'}":                                       "ca_file: has no meaning",
		"{audiences: [a], jwk: '" + keys + "'}":                                                    "jwk: ",
	} {
		err := strict.Unmarshal([]byte(yaml), new(Config))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: got %v, want %q", yaml, err, want)
		} else if strings.Contains(err.Error(), hmacSecret) {
			t.Errorf("the error tells the secret: %v", err)
		}
	}
	if _, err := Factory().New(&Config{JWKSFile: "/nonexistent"}, plugins.Settings{}); err == nil || !strings.Contains(err.Error(), "jwks_file") {
		t.Errorf("missing file: %v", err)
	}
}
