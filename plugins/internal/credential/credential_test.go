package credential_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/plugins/internal/credential"
)

// request has an Authorization line for every line of auth, and one Cookie.
func request(auth, query, cookie string) *exchange.Exchange {
	var ctx fasthttp.RequestCtx
	for l := range strings.SplitSeq(auth, "\n") {
		if l != "" {
			ctx.Request.Header.Add("Authorization", l)
		}
	}
	if cookie != "" {
		ctx.Request.Header.Set("Cookie", cookie)
	}
	return &exchange.Exchange{Ctx: &ctx, Query: query}
}

func TestFindAndRemove(t *testing.T) {
	s := credential.New("authorization", "Key", "key", "k")
	for name, tc := range map[string]struct {
		auth, query, cookie string
		want                string
		repeated            bool
		left                string // auth|query|cookie after Remove
	}{
		"nothing":             {"", "a=1", "b=2", "", false, "|a=1|b=2"},
		"header":              {"KEY  x", "", "", "x", false, "||"},
		"other scheme stays":  {"Basic x", "", "", "", false, "Basic x||"},
		"scheme alone":        {"Key", "", "", "", false, "||"},
		"tab":                 {"Key\tx", "", "", "x", false, "||"},
		"tab and spaces":      {"key \t x", "", "", "x", false, "||"},
		"longer scheme":       {"Keys x", "", "", "", false, "Keys x||"},
		"query in the middle": {"", "a=1&key=x%2By&b", "", "x+y", false, "|a=1&b|"},
		"plus in the name":    {"", "k%65y=x", "", "x", false, "||"},
		"broken escape":       {"", "key=%zz&a", "", "%zz", false, "|a|"},
		"longer name":         {"", "keys=x&akey=y", "", "", false, "|keys=x&akey=y|"},
		"cookie":              {"", "", "a=1; k=x; b=2", "x", false, "||a=1; b=2"},
		"two headers":         {"Key x\nKey x", "", "", "", true, "||"},
		"two schemes":         {"Key x\nBasic y", "", "", "", true, "||"},
		"two schemes, later":  {"Basic y\nKey x", "", "", "", true, "||"},
		"two parameters":      {"", "key=x&key=x", "", "", true, "||"},
		"empty and full":      {"", "key=&key=x", "", "", true, "||"},
		"two places":          {"Key x", "key=x", "", "", true, "||"},
		"query and cookie":    {"", "key=x", "k=x", "", true, "||"},
	} {
		e := request(tc.auth, tc.query, tc.cookie)
		got, err := s.Find(e)
		if string(got) != tc.want || errors.Is(err, credential.ErrRepeated) != tc.repeated {
			t.Errorf("%s: %q %v, want %q, repeated %v", name, got, err, tc.want, tc.repeated)
		}
		if tc.repeated {
			continue
		}
		s.Remove(e)
		h := &e.Ctx.Request.Header
		if left := string(h.Peek("Authorization")) + "|" + e.Query + "|" + string(h.Peek("Cookie")); left != tc.left {
			t.Errorf("%s: %q is left, want %q", name, left, tc.left)
		}
	}
}

// After Remove there is nothing to find, and what is not ours is untouched.
func FuzzRemove(f *testing.F) {
	f.Add("Key x", "a=1&key=%78&b", "a=1; k=2")
	f.Add("Basic x", "key&key=&=&&k%65y", "k; k=; =k")
	f.Add("key \tx", "%6b%65%79=%", `k="a; b"`)
	f.Fuzz(func(t *testing.T, auth, query, cookie string) {
		if strings.ContainsAny(auth+cookie, "\r\n\x00") {
			return // the parser refuses it
		}
		s := credential.New("Authorization", "Key", "key", "k")
		e := request(auth, query, cookie)
		if _, err := s.Find(e); err != nil {
			return
		}
		s.Remove(e)
		if got, err := s.Find(e); got != nil || err != nil {
			t.Fatalf("after Remove: %q %v, query %q", got, err, e.Query)
		}
		n := 0
		for part := range strings.SplitSeq(e.Query, "&") {
			if part != "" && !strings.Contains(query, part) {
				t.Fatalf("query %q became %q", query, e.Query)
			}
			n++
		}
		if n > strings.Count(query, "&")+1 {
			t.Fatalf("query %q became %q", query, e.Query)
		}
	})
}
