package config

import (
	"encoding/base64"
	"regexp"
	"strconv"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

// consumers checks credentials, and that no two consumers share one.
func (v *validator) consumers(p *problem.List) {
	keys, users := make(map[string]string), make(map[string]string)
	certificates := owners{}
	for name, c := range each(v.c.Consumers) {
		cp := under(p, "consumers", name)
		cp.Check(isName(name), "", "a consumer's name %s", nameRule)
		for i, k := range c.APIKeys {
			at := index("api_keys", i)
			if !apiKey.MatchString(k) {
				cp.Add(at, "must be sha256: and 64 hexadecimal digits in lower case, the SHA-256 of the key")
				continue
			}
			if owner, taken := keys[k]; taken {
				cp.Add(at, "is already a key of consumer %q", owner)
			}
			keys[k] = name
		}
		for i, g := range c.Groups {
			cp.Check(isName(g), index("groups", i), "%s, got %q", nameRule, g)
		}
		cp.Check(c.Plan == "" || isName(c.Plan), "plan", "%s, got %q", nameRule, c.Plan)
		certificates.check(c.Certificates, name, cp.Under("certificates"))
		if b := c.BasicAuth; b != nil {
			user := b.Username
			if user == "" {
				user = name
			}
			cp.Check(!strings.Contains(user, ":"), "basic_auth.username", "must not have a colon, got %q", user)
			if owner, taken := users[user]; taken {
				cp.Add("basic_auth.username", "%q is already the user name of consumer %q", user, owner)
			}
			users[user] = name
			if why := badHash(b.PasswordHash.Reveal()); why != "" {
				cp.Add("basic_auth.password_hash", "%s; gatehouse hash-password makes one", why)
			}
		}
	}
}

// owners are the consumers whose certificates are known by something.
type owners map[string]string

// check makes sure that no certificate can be two consumers'.
func (o owners) check(c ConsumerCertificates, consumer string, p *problem.List) {
	for _, list := range []struct {
		key    string
		values []string
		valid  func(string) bool
		want   string
	}{
		{"subjects", c.Subjects, distinguishedName.MatchString, wantSubject},
		{"spiffe_ids", c.SPIFFEIDs, func(s string) bool { return spiffeID.MatchString(s) }, "must be spiffe://TRUST-DOMAIN/PATH"},
		{"fingerprints", c.Fingerprints, apiKey.MatchString, "must be sha256: and 64 hexadecimal digits in lower case, the SHA-256 of the certificate"},
	} {
		for i, v := range list.values {
			at := index(list.key, i)
			if !list.valid(v) {
				p.Add(at, "%s, got %q", list.want, v)
				continue
			}
			if owner, taken := o[list.key+v]; taken {
				p.Add(at, "is already listed by consumer %q", owner)
			}
			o[list.key+v] = consumer
		}
	}
}

// wantSubject names the order too, which no syntax shows: openssl's own is the
// other way round, with blanks.
const wantSubject = `must be a distinguished name as RFC 2253 writes it, such as "CN=billing,O=Example" ` +
	`(openssl x509 -in FILE -noout -subject -nameopt RFC2253)`

// distinguishedName is the syntax of RFC 2253, 2, as certificates' subjects are
// written for comparison: no blanks around "," and "=", no "/".
var distinguishedName = regexp.MustCompile(`^` + attributeValue + `(?:[,+]` + attributeValue + `)*$`)

const attributeValue = `[A-Za-z0-9.]+=(?:(?:\\.|[^\\,+"<>; ])(?:\\.|[^\\,+"<>;])*)?`

// spiffeID is the syntax of the SPIFFE ID specification, 2.
var spiffeID = regexp.MustCompile(`^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)*$`)

var (
	apiKey = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	bcrypt = regexp.MustCompile(`^\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}$`)
	argon2 = regexp.MustCompile(`^\$argon2id\$v=19\$m=(\d{1,7}),t=(\d{1,3}),p=(\d{1,3})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)$`)
)

// badHash says why s is no hash of a password, without telling s.
func badHash(s string) string {
	if m := bcrypt.FindStringSubmatch(s); m != nil {
		if cost, _ := strconv.Atoi(m[1]); cost < 4 || cost > 16 {
			return "has a bcrypt cost outside 4 to 16: " + m[1]
		}
		return ""
	}
	m := argon2.FindStringSubmatch(s)
	if m == nil {
		return "must be a bcrypt ($2b$…) or argon2id ($argon2id$v=19$m=…,t=…,p=…$SALT$HASH) hash"
	}
	memory, _ := strconv.Atoi(m[1])
	passes, _ := strconv.Atoi(m[2])
	lanes, _ := strconv.Atoi(m[3])
	salt, err1 := base64.RawStdEncoding.DecodeString(m[4])
	sum, err2 := base64.RawStdEncoding.DecodeString(m[5])
	switch {
	case err1 != nil || err2 != nil || len(salt) < 8 || len(sum) < 16:
		return "has a salt or hash that is too short or not base64"
	case memory < 8*lanes || memory > 1<<20 || passes < 1 || lanes < 1:
		return "has argon2 parameters out of range (m from 8×p to 1048576 KiB, t and p from 1)"
	}
	return ""
}

// dated is a date as patches have it.
var dated = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}$`)
