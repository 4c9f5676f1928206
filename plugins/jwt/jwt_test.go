package jwt

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

const (
	hmacSecret = "0123456789abcdef0123456789abcdef"
	issuer     = "https://id.example.com"
)

// pair is a private key with what is published of it.
type pair struct {
	alg, kid string
	private  any
}

var pairs = sync.OnceValue(func() map[string]pair {
	r, err1 := rsa.GenerateKey(rand.Reader, 2048)
	e, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, d, err3 := ed25519.GenerateKey(rand.Reader)
	other, err4 := rsa.GenerateKey(rand.Reader, 2048)
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			panic(err)
		}
	}
	return map[string]pair{
		"rsa": {"RS256", "rsa-1", r}, "ec": {"ES256", "ec-1", e}, "ed": {"EdDSA", "ed-1", d}, "other": {"RS256", "rsa-1", other},
	}
})

func published(t testing.TB, names ...string) string {
	t.Helper()
	set := jwk.NewSet()
	for _, n := range names {
		p := pairs()[n]
		k, err := jwk.Import(p.private)
		if err != nil {
			t.Fatal(err)
		}
		public, err := k.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		if err := public.Set(jwk.KeyIDKey, p.kid); err != nil {
			t.Fatal(err)
		}
		if err := set.AddKey(public); err != nil {
			t.Fatal(err)
		}
	}
	b, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

type m = map[string]any

// claims are good ones, changed by edit; a nil value removes a claim.
func claims(edit m) m {
	c := m{"iss": issuer, "aud": "api", "sub": "alice", "exp": time.Now().Add(time.Hour).Unix(), "scope": "read write"}
	for k, v := range edit {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	return c
}

func sign(t testing.TB, p pair, c m, head m) string {
	t.Helper()
	payload, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	h := jws.NewHeaders()
	if p.kid != "" {
		head = merge(m{"kid": p.kid}, head)
	}
	for k, v := range head {
		if v == nil {
			continue
		}
		if err := h.Set(k, v); err != nil {
			t.Fatal(err)
		}
	}
	alg, ok := jwa.LookupSignatureAlgorithm(p.alg)
	if !ok {
		t.Fatalf("no algorithm %s", p.alg)
	}
	b, err := jws.Sign(payload, jws.WithKey(alg, p.private, jws.WithProtectedHeaders(h)))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func merge(a, b m) m {
	for k, v := range b {
		a[k] = v
	}
	return a
}

// forge makes a token by hand, with any header, signed by an HMAC if key is given.
func forge(head, payload string, key []byte) string {
	enc := base64.RawURLEncoding
	input := enc.EncodeToString([]byte(head)) + "." + enc.EncodeToString([]byte(payload))
	if key == nil {
		return input + "."
	}
	h := hmac.New(sha256.New, key)
	h.Write([]byte(input))
	return input + "." + enc.EncodeToString(h.Sum(nil))
}

func consumers() *plugins.Directory {
	return plugins.NewDirectory([]*plugins.Consumer{{Consumer: exchange.Consumer{Name: "alice", Groups: []string{"staff"}}}})
}

func start(t testing.TB, yaml string, dir string) *plugin {
	t.Helper()
	c := Factory().Config()
	if err := strict.Unmarshal([]byte(yaml), c); err != nil {
		t.Fatal(err)
	}
	i, err := Factory().New(c, plugins.Settings{Route: plugins.Route{Name: "r"}, Dir: dir, Consumers: consumers()})
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := i.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	return i.(*plugin)
}

// inline is a config with the keys in place.
func inline(t testing.TB, rest string, names ...string) string {
	t.Helper()
	return "{issuer: '" + issuer + "', audiences: [api], " + rest + "jwks: '" + published(t, names...) + "'}"
}

func upstream(c *fiber.Ctx) error {
	id := exchange.From(c).Identity
	who := "-"
	if id.Consumer != nil {
		who = id.Consumer.Name
	}
	return c.SendString(fmt.Sprintf("%s %s %s %v %s", id.Method, id.Subject, who, id.Scopes, c.Get("Authorization")))
}

func ask(t testing.TB, p *plugin, head string) plugintest.Reply {
	t.Helper()
	return plugintest.Do(t, plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\n" + head + "\r\n"}, p.Handle, upstream)
}

func bearer(token string) string { return "Authorization: Bearer " + token + "\r\n" }

func value(t testing.TB, c prometheus.Counter) float64 {
	t.Helper()
	var out dto.Metric
	if err := c.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.GetCounter().GetValue()
}

func TestEveryKindOfKey(t *testing.T) {
	p := start(t, inline(t, "", "rsa", "ec", "ed"), "")
	for _, name := range []string{"rsa", "ec", "ed"} {
		for range 2 { // the second is remembered
			if r := ask(t, p, bearer(sign(t, pairs()[name], claims(nil), nil))); r.Status != 200 || r.Body != "jwt alice - [read write] " {
				t.Errorf("%s: %d %q %v", name, r.Status, r.Body, r.Refusal)
			}
		}
	}
	ps := pairs()["rsa"]
	ps.alg = "PS384"
	if r := ask(t, p, bearer(sign(t, ps, claims(nil), nil))); r.Status != 200 {
		t.Errorf("PS384: %v", r.Refusal)
	}
	noKid := pairs()["ec"]
	noKid.kid = ""
	if r := ask(t, p, bearer(sign(t, noKid, claims(nil), nil))); r.Status != 200 {
		t.Errorf("without kid: %v", r.Refusal)
	}
	h := start(t, "{audiences: [api], secret: '"+hmacSecret+"'}", "")
	if r := ask(t, h, bearer(sign(t, pair{"HS256", "", []byte(hmacSecret)}, claims(nil), nil))); r.Status != 200 {
		t.Errorf("HS256: %v", r.Refusal)
	}
	if r := ask(t, h, bearer(sign(t, pair{"HS384", "", []byte(hmacSecret + hmacSecret)}, claims(nil), nil))); r.Status != 401 {
		t.Errorf("HS384 is not on the default list: %d", r.Status)
	}
}

// One coordinate in 256 begins with a zero, which belongs to it (RFC 7518, 6.2.1.2);
// what begins a modulus and does not belong there some servers write all the same.
func TestKeysThatBeginWithZero(t *testing.T) {
	enc := base64.RawURLEncoding
	accepted := func(name, jwks, alg string, private any) {
		t.Helper()
		p := start(t, "{audiences: [api], jwks: '"+jwks+"'}", "")
		if r := ask(t, p, bearer(sign(t, pair{alg, "", private}, claims(nil), nil))); r.Status != 200 {
			t.Errorf("%s: %d %v", name, r.Status, r.Refusal)
		}
	}
	for at, name := range map[int]string{1: "x", 33: "y"} { // of the point 4, x, y
		for {
			k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			b, err := k.PublicKey.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			if b[at] == 0 {
				accepted(name, fmt.Sprintf(`{"kty":"EC","crv":"P-256","x":%q,"y":%q}`, enc.EncodeToString(b[1:33]), enc.EncodeToString(b[33:])), "ES256", k)
				break
			}
		}
	}
	k := pairs()["rsa"].private.(*rsa.PrivateKey)
	accepted("modulus", fmt.Sprintf(`{"kty":"RSA","e":"AQAB","n":%q}`, enc.EncodeToString(append([]byte{0}, k.N.Bytes()...))), "RS256", k)
}

// The attacks of RFC 8725, section 2, and their relatives.
func TestForgedTokensAreRefused(t *testing.T) {
	p := start(t, inline(t, "", "rsa", "ec", "ed"), "")
	good := sign(t, pairs()["rsa"], claims(nil), nil)
	parts := strings.Split(good, ".")
	body, err := json.Marshal(claims(nil))
	if err != nil {
		t.Fatal(err)
	}
	rsaKey := pairs()["rsa"].private.(*rsa.PrivateKey)
	der, err := x509.MarshalPKIXPublicKey(&rsaKey.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	pemKey := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	own := published(t, "other")
	for name, tc := range map[string]struct{ token, want string }{
		"alg none":              {forge(`{"alg":"none"}`, string(body), nil), `algorithm "none"`},
		"alg None":              {forge(`{"alg":"None"}`, string(body), nil), `algorithm "None"`},
		"no alg":                {forge(`{}`, string(body), nil), `algorithm ""`},
		"public key as secret":  {forge(`{"alg":"HS256","kid":"rsa-1"}`, string(body), pemKey), `algorithm "HS256"`},
		"DER key as secret":     {forge(`{"alg":"HS256","kid":"rsa-1"}`, string(body), der), `algorithm "HS256"`},
		"RS256 with a MAC":      {forge(`{"alg":"RS256","kid":"rsa-1"}`, string(body), pemKey), "has made this signature"},
		"other type's alg":      {forge(`{"alg":"ES256","kid":"rsa-1"}`, string(body), pemKey), "has made this signature"},
		"key in the token":      {sign(t, pairs()["other"], claims(nil), m{"jku": "https://evil.test/keys"}), "has made this signature"},
		"jwk in the header":     {forge(`{"alg":"RS256","jwk":`+strings.TrimSuffix(strings.TrimPrefix(own, `{"keys":[`), "]}")+`}`, string(body), pemKey), "has made this signature"},
		"unknown kid":           {sign(t, pairs()["rsa"], claims(nil), m{"kid": "../../etc/passwd"}), "unknown key"},
		"changed payload":       {parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"root"}`)) + "." + parts[2], "has made this signature"},
		"cut signature":         {parts[0] + "." + parts[1] + "." + parts[2][:20], "has made this signature"},
		"no signature":          {parts[0] + "." + parts[1] + ".", "has made this signature"},
		"empty signature":       {parts[0] + "." + parts[1], "compact form"},
		"five parts":            {good + ".a.b", "compact form"},
		"JSON form":             {`{"payload":"e30","signatures":[]}`, "compact form"},
		"crit":                  {forge(`{"alg":"RS256","kid":"rsa-1","crit":["exp"]}`, string(body), pemKey), "crit or b64"},
		"b64":                   {forge(`{"alg":"RS256","kid":"rsa-1","b64":false}`, string(body), pemKey), "crit or b64"},
		"two algs":              {forge(`{"alg":"HS256","alg":"RS256","kid":"rsa-1"}`, string(body), pemKey), "has made this signature"},
		"header not an object":  {forge(`[]`, string(body), nil), "malformed header"},
		"header not base64":     {"!!." + parts[1] + "." + parts[2], "malformed header"},
		"zero-length parts":     {"..", "malformed header"},
		"endless":               {good + strings.Repeat("A", maxToken), "bytes"},
		"EC zero signature":     {forge(`{"alg":"ES256","kid":"ec-1"}`, string(body), nil) + base64.RawURLEncoding.EncodeToString(make([]byte, 64)), "has made this signature"},
		"payload not an object": {sign(t, pairs()["ed"], nil, nil), "not a JSON object"},
	} {
		r := ask(t, p, bearer(tc.token))
		if r.Status != 401 || !strings.Contains(r.Refusal.Detail, tc.want) {
			t.Errorf("%s: %d %v, want 401 with %q", name, r.Status, r.Refusal, tc.want)
		}
		if www := string(r.Header.Peek("WWW-Authenticate")); !strings.HasPrefix(www, `Bearer realm="gatehouse", error="invalid_token", error_description="`) {
			t.Errorf("%s: WWW-Authenticate %q", name, www)
		}
	}
}

func TestClaims(t *testing.T) {
	now := time.Now().Unix()
	config := inline(t, "type: at+jwt, required_claims: {tenant: [acme, umbrella], email: []}, scopes: [read], skew: 5m, ", "ed")
	p := start(t, config, "")
	ok := m{"tenant": "acme", "email": "a@b"}
	for name, tc := range map[string]struct {
		edit, head m
		status     int
		want       string
	}{
		"good":              {nil, nil, 200, ""},
		"type in full":      {nil, m{"typ": "application/AT+JWT"}, 200, ""},
		"audience list":     {m{"aud": []string{"x", "api"}}, nil, 200, ""},
		"list claim":        {m{"tenant": []string{"x", "umbrella"}}, nil, 200, ""},
		"scp list":          {m{"scope": nil, "scp": []string{"read"}}, nil, 200, ""},
		"within skew":       {m{"exp": now - 100, "nbf": now + 100, "iat": now + 100}, nil, 200, ""},
		"fractional expiry": {m{"exp": float64(now) + 0.5}, nil, 200, ""},
		"expired":           {m{"exp": now - 301}, nil, 401, "expired"},
		"no expiry":         {m{"exp": nil}, nil, 401, "no exp"},
		"text expiry":       {m{"exp": "tomorrow"}, nil, 401, "not a number"},
		"not yet":           {m{"nbf": now + 600}, nil, 401, "valid in"},
		"from the future":   {m{"iat": now + 600}, nil, 401, "issued in"},
		"issuer":            {m{"iss": issuer + "/"}, nil, 401, "issuer"},
		"no issuer":         {m{"iss": nil}, nil, 401, "issuer"},
		"list issuer":       {m{"iss": []string{issuer}}, nil, 401, "issuer"},
		"audience":          {m{"aud": "apix"}, nil, 401, "audience"},
		"no audience":       {m{"aud": nil}, nil, 401, "audience"},
		"nested audience":   {m{"aud": []any{[]string{"api"}}}, nil, 401, "audience"},
		"type":              {nil, m{"typ": "JWT"}, 401, "type"},
		"no type":           {nil, m{"typ": nil}, 401, "type"},
		"claim value":       {m{"tenant": "evil"}, nil, 401, "claim tenant"},
		"claim missing":     {m{"email": nil}, nil, 401, "claim email is missing"},
		"scope":             {m{"scope": "readx write"}, nil, 403, "scope read"},
		"no scope":          {m{"scope": nil}, nil, 403, "scope read"},
		"scope of numbers":  {m{"scope": 7}, nil, 403, "scope read"},
	} {
		token := sign(t, pairs()["ed"], claims(merge(merge(m{}, ok), tc.edit)), merge(m{"typ": "at+jwt"}, tc.head))
		r := ask(t, p, bearer(token))
		if r.Status != tc.status || tc.status != 200 && !strings.Contains(r.Refusal.Detail, tc.want) {
			t.Errorf("%s: %d %v, want %d with %q", name, r.Status, r.Refusal, tc.status, tc.want)
		}
		if tc.status == 403 {
			if www := string(r.Header.Peek("WWW-Authenticate")); www != `Bearer realm="gatehouse", error="insufficient_scope", scope="read"` {
				t.Errorf("%s: WWW-Authenticate %q", name, www)
			}
		}
	}
}

func TestPlacesAndForwarding(t *testing.T) {
	token := sign(t, pairs()["ed"], claims(nil), nil)
	for name, tc := range map[string]struct {
		config, target, head string
		status               int
		body                 string
	}{
		"removed":         {"", "/", bearer(token), 200, "jwt alice - [read write] "},
		"forwarded":       {"forward: true, ", "/", bearer(token), 200, "jwt alice - [read write] Bearer " + token},
		"query":           {"query: t, ", "/?t=" + token, "", 200, "jwt alice - [read write] "},
		"cookie":          {"cookie: t, ", "/", "Cookie: t=" + token + "\r\n", 200, "jwt alice - [read write] "},
		"own header":      {"header: X-Token, scheme: '', ", "/", "X-Token: " + token + "\r\n", 200, "jwt alice - [read write] "},
		"anonymous":       {"anonymous: true, ", "/", "", 200, "  - [] "},
		"anonymous basic": {"anonymous: true, ", "/", "Authorization: Basic x\r\n", 200, "  - [] Basic x"},
		"anonymous bad":   {"anonymous: true, ", "/", bearer("x"), 401, ""},
		"two":             {"query: t, ", "/?t=" + token, bearer(token), 401, ""},
		"none":            {"", "/", "", 401, ""},
		"consumer":        {"consumer_claim: sub, ", "/", bearer(token), 200, "jwt alice alice [read write] "},
		"no consumer":     {"consumer_claim: iss, ", "/", bearer(token), 403, ""},
		"ignored":         {"consumer_claim: iss, consumer_required: false, ", "/", bearer(token), 200, "jwt alice - [read write] "},
	} {
		p := start(t, inline(t, tc.config, "ed"), "")
		r := plugintest.Do(t, plugintest.Request{Raw: "GET " + tc.target + " HTTP/1.1\r\nHost: a.test\r\n" + tc.head + "\r\n"}, p.Handle, upstream)
		if r.Status != tc.status || tc.status == 200 && r.Body != tc.body {
			t.Errorf("%s: %d %q %v, want %d %q", name, r.Status, r.Body, r.Refusal, tc.status, tc.body)
		}
		if www := string(r.Header.Peek("WWW-Authenticate")); name == "none" && www != `Bearer realm="gatehouse"` {
			t.Errorf("%s: WWW-Authenticate %q", name, www)
		}
	}
}

func TestRememberedTokens(t *testing.T) {
	p := start(t, inline(t, "cache_size: 32, ", "ed"), "")
	token := sign(t, pairs()["ed"], claims(nil), nil)
	for range 3 {
		ask(t, p, bearer(token))
	}
	if a, c := value(t, p.accepted), value(t, p.cached); a != 1 || c != 2 {
		t.Fatalf("verified %v, remembered %v; want 1, 2", a, c)
	}
	for i := range 200 {
		ask(t, p, bearer(sign(t, pairs()["ed"], claims(m{"jti": i}), nil)))
	}
	n := 0
	for i := range p.cache.shards {
		n += len(p.cache.shards[i].entries)
	}
	if n > 32 {
		t.Fatalf("%d tokens are remembered, the most is 32", n)
	}
	// With other keys, what was remembered does not count.
	set, err := parseKeys([]byte(published(t, "ec")), p.algs)
	if err != nil {
		t.Fatal(err)
	}
	p.keys.Store(set)
	if r := ask(t, p, bearer(token)); r.Status != 401 {
		t.Fatalf("a token outlived its key: %d", r.Status)
	}
	digest := sha256.Sum256([]byte("x"))
	p.cache.put(&digest, entry{until: 100, keys: set}, 50)
	if _, ok := p.cache.get(&digest, set, 99); !ok {
		t.Fatal("forgotten before its time")
	}
	if _, ok := p.cache.get(&digest, set, 100); ok {
		t.Fatal("remembered after its time")
	}
	if none := start(t, inline(t, "cache_size: 0, ", "ed"), ""); none.cache != nil || ask(t, none, bearer(token)).Status != 200 {
		t.Fatal("cache_size: 0 does not switch it off")
	}
}

func TestKeyFileIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keys.json")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(published(t, "rsa"))
	p := start(t, "{issuer: '"+issuer+"', audiences: [api], jwks_file: keys.json}", dir)
	rsaToken, ecToken := bearer(sign(t, pairs()["rsa"], claims(nil), nil)), bearer(sign(t, pairs()["ec"], claims(nil), nil))
	if a, b := ask(t, p, rsaToken).Status, ask(t, p, ecToken).Status; a != 200 || b != 401 {
		t.Fatalf("%d %d", a, b)
	}
	write(published(t, "ec"))
	deadline := time.Now().Add(time.Minute)
	for ask(t, p, ecToken).Status != 200 {
		if time.Now().After(deadline) {
			t.Fatal("the new file was not read")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if r := ask(t, p, rsaToken); r.Status != 401 {
		t.Fatalf("the old key still counts: %d", r.Status)
	}
}

func TestUnusableKeysDoNotSpoilASet(t *testing.T) {
	set := strings.Replace(published(t, "ed"), `{"keys":[`, `{"keys":[{"kty":"future","x":1},{"kty":"RSA","n":"AQAB","e":"AQAB"},`, 1)
	p := start(t, "{audiences: [api], jwks: '"+set+"'}", "")
	if r := ask(t, p, bearer(sign(t, pairs()["ed"], claims(nil), nil))); r.Status != 200 {
		t.Fatalf("%d %v", r.Status, r.Refusal)
	}
}

func TestNoKeysYetIsUnavailable(t *testing.T) {
	c := new(Config)
	if err := strict.Unmarshal([]byte("{audiences: [api], jwks_url: 'https://id.example.com/keys'}"), c); err != nil {
		t.Fatal(err)
	}
	i, err := Factory().New(c, plugins.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	r := ask(t, i.(*plugin), bearer(sign(t, pairs()["ed"], claims(nil), nil)))
	if r.Status != 503 || r.Refusal.Reason != reason.AuthUnavailable || string(r.Header.Peek("Retry-After")) != "1" {
		t.Fatalf("%d %v", r.Status, r.Refusal)
	}
	if err := i.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}
