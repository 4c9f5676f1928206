package jwt

import (
	"strings"
	"testing"
)

// Whatever is made of a token, only what the key has signed is accepted.
func FuzzVerify(f *testing.F) {
	signed := sign(f, pairs()["ed"], m{"aud": "api", "exp": 4e9}, nil)
	keys, err := parseKeys([]byte(published(f, "rsa", "ec", "ed")), asymmetric)
	if err != nil {
		f.Fatal(err)
	}
	parts := strings.Split(signed, ".")
	f.Add(parts[0], parts[1], parts[2])
	f.Add("eyJhbGciOiJub25lIn0", "e30", "")
	f.Fuzz(func(t *testing.T, head, payload, signature string) {
		token := head + "." + payload + "." + signature
		claims, fault := verify([]byte(token), keys, asymmetric, "")
		if (claims == nil) == (fault == nil) {
			t.Fatalf("claims %v and failure %v", claims, fault)
		}
		// A signature may be written in several ways; what is signed may not.
		if fault == nil && (head != parts[0] || payload != parts[1]) {
			t.Fatalf("accepted %q", token)
		}
		if fault == nil {
			return
		}
		if strings.ContainsAny(fault.forClient, "\"\\\r\n") {
			t.Fatalf("%q cannot stand in WWW-Authenticate", fault.forClient)
		}
	})
}
