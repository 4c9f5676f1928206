package jwt

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jws"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// maxToken bounds a token; a head may have 64 KiB, tokens some KiB.
const maxToken = 16 << 10

// failure is why a token was refused. What is for the client says no more than
// it can see itself; detail is for the log and never has the token.
type failure struct {
	forClient string
	detail    string
	// unknownKey: fetching the keys again may help.
	unknownKey bool
	// scope: the token is good but grants too little.
	scope bool
}

// Error implements error.
func (f *failure) Error() string { return f.detail }

func fail(forClient, format string, args ...any) *failure {
	return &failure{forClient: forClient, detail: fmt.Sprintf(format, args...)}
}

// header is what matters of a JOSE header. Keys that a token brings or points
// to (jwk, jku, x5c, x5u) are never looked at.
type header struct {
	Algorithm string          `json:"alg"`
	KeyID     string          `json:"kid"`
	Type      string          `json:"typ"`
	Critical  json.RawMessage `json:"crit"`
	Base64    json.RawMessage `json:"b64"`
}

// verify checks the signature and returns the claims.
func verify(token []byte, keys *keySet, allowed []string, wantType string) (map[string]any, *failure) {
	if len(token) > maxToken {
		return nil, fail("the token is too long", "token of %d bytes", len(token))
	}
	head, rest, _ := bytes.Cut(token, []byte{'.'})
	if bytes.Count(rest, []byte{'.'}) != 1 {
		return nil, fail("the token is malformed", "not a JWS in compact form")
	}
	var h header
	raw := make([]byte, base64.RawURLEncoding.DecodedLen(len(head)))
	n, err := base64.RawURLEncoding.Strict().Decode(raw, head)
	if err != nil || json.Unmarshal(raw[:n], &h) != nil {
		return nil, fail("the token is malformed", "malformed header")
	}
	switch {
	case !slices.Contains(allowed, h.Algorithm):
		return nil, fail("the token's algorithm is not accepted", "algorithm %.20q is not one of %v", h.Algorithm, allowed)
	case h.Critical != nil || h.Base64 != nil:
		return nil, fail("the token's header is not accepted", "header with crit or b64")
	case wantType != "" && !sameType(h.Type, wantType):
		return nil, fail("the token's type is not accepted", "type %.40q, not %q", h.Type, wantType)
	}
	var payload []byte
	known := keys.candidate(h.KeyID, h.Algorithm, func(raw any, alg jwa.SignatureAlgorithm) bool {
		p, err := jws.VerifyCompactFast(raw, token, alg)
		payload = p
		return err == nil
	})
	if !known {
		f := fail("the token's key is not known", "unknown key %.64q", h.KeyID)
		f.unknownKey = true
		return nil, f
	}
	if payload == nil {
		return nil, fail("the token's signature is wrong", "no key %.64q with algorithm %s has made this signature", h.KeyID, h.Algorithm)
	}
	claims, ok := decode(payload)
	if !ok {
		return nil, fail("the token is malformed", "the payload is not a JSON object")
	}
	return claims, nil
}

// sameType compares media types as RFC 7515 4.1.9 says.
func sameType(got, want string) bool {
	trim := func(s string) string { return strings.TrimPrefix(strings.ToLower(s), "application/") }
	return trim(got) == trim(want)
}

// rules are what a config asks of claims.
type rules struct {
	issuer        string
	audiences     []string
	requireExpiry bool
	skew          time.Duration
	required      map[string][]string
	scopes        []string
}

// check holds claims against the rules. until is when the token stops being
// good, math.MaxInt64 if never (Unix seconds).
func (r *rules) check(claims map[string]any, now time.Time) (id exchange.Identity, until int64, f *failure) {
	if until, f = r.times(claims, now); f != nil {
		return id, 0, f
	}
	if iss, _ := claims["iss"].(string); r.issuer != "" && iss != r.issuer {
		return id, 0, fail("the token's issuer is not accepted", "issuer %.100q, not %q", iss, r.issuer)
	}
	if len(r.audiences) > 0 && !hasOne(claims["aud"], r.audiences) {
		return id, 0, fail("the token is not for this service", "audience %.100q is not one of %q", fmt.Sprint(claims["aud"]), r.audiences)
	}
	for name, values := range r.required {
		v, ok := claims[name]
		if !ok || v == nil {
			return id, 0, fail("the token lacks a claim", "claim %s is missing", name)
		}
		if len(values) > 0 && !hasOne(v, values) {
			return id, 0, fail("a claim of the token is not accepted", "claim %s is %.100q, not one of %q", name, fmt.Sprint(v), values)
		}
	}
	scopes := scopesOf(claims)
	for _, s := range r.scopes {
		if !slices.Contains(scopes, s) {
			f = fail("the token does not grant this", "scope %s is not granted", s)
			f.scope = true
			return id, 0, f
		}
	}
	subject, _ := claims["sub"].(string)
	return exchange.Identity{Method: "jwt", Subject: subject, Claims: claims, Scopes: scopes}, until, nil
}

func (r *rules) times(claims map[string]any, now time.Time) (until int64, f *failure) {
	exp, hasExp, ok1 := date(claims, "exp")
	nbf, _, ok2 := date(claims, "nbf")
	iat, _, ok3 := date(claims, "iat")
	skew, n := r.skew.Seconds(), float64(now.UnixNano())/1e9
	switch {
	case !ok1 || !ok2 || !ok3:
		return 0, fail("the token is malformed", "exp, nbf or iat is not a number")
	case !hasExp && r.requireExpiry:
		return 0, fail("the token never expires", "no exp claim")
	case hasExp && n >= exp+skew:
		return 0, fail("the token has expired", "expired %.0f s ago", n-exp)
	case n < nbf-skew:
		return 0, fail("the token is not valid yet", "valid in %.0f s", nbf-n)
	case n < iat-skew:
		return 0, fail("the token is not valid yet", "issued in %.0f s", iat-n)
	}
	if !hasExp {
		return math.MaxInt64, nil
	}
	return int64(min(exp+skew, 1<<40)), nil
}

// date reads a NumericDate; ok is false if the claim is something else.
func date(claims map[string]any, name string) (seconds float64, has, ok bool) {
	v, has := claims[name]
	if !has {
		return 0, false, true
	}
	switch v := v.(type) {
	case float64:
		return v, true, true
	case int64:
		return float64(v), true, true
	case uint64:
		return float64(v), true, true
	case json.Number:
		seconds, err := v.Float64()
		return seconds, true, err == nil
	}
	return 0, true, false
}

// hasOne is true if the claim is, or as a list has, one of the values.
func hasOne(claim any, values []string) bool {
	switch v := claim.(type) {
	case string:
		return slices.Contains(values, v)
	case bool:
		return slices.Contains(values, fmt.Sprint(v))
	case float64, int64, uint64, json.Number:
		text, err := json.Marshal(v)
		return err == nil && slices.Contains(values, string(text))
	case []any:
		return slices.ContainsFunc(v, func(x any) bool {
			if _, nested := x.([]any); nested {
				return false
			}
			return hasOne(x, values)
		})
	}
	return false
}

// scopesOf reads scope (RFC 8693 4.2: words) or scp (a list, or words).
func scopesOf(claims map[string]any) []string {
	for _, name := range []string{"scope", "scp"} {
		switch v := claims[name].(type) {
		case string:
			return strings.Fields(v)
		case []any:
			var list []string
			for _, x := range v {
				if s, ok := x.(string); ok {
					list = append(list, s)
				}
			}
			return list
		}
	}
	return nil
}
