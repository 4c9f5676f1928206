package admin_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/admin"
)

// asked takes down what it was asked for.
type asked struct{ all []string }

func (a *asked) List(_ context.Context, q admin.QuotaQuery) (*admin.QuotaPage, error) {
	a.all = append(a.all, fmt.Sprintf("list %+v", q))
	return new(admin.QuotaPage), nil
}

func (a *asked) Reset(_ context.Context, r admin.QuotaReset) (*admin.QuotaPage, error) {
	a.all = append(a.all, fmt.Sprintf("reset %+v", r))
	if r.Quota == "none" {
		return nil, admin.ErrNoQuota
	}
	return new(admin.QuotaPage), nil
}

// A question that is not understood changes nothing: least of all may a
// misspelt parameter mean everything.
func TestQuotas(t *testing.T) {
	quotas := new(asked)
	a := start(t, func(s *admin.Settings) { s.Quotas = quotas })
	for _, c := range []struct {
		method, query string
		status        int
		want          string // in the answer, or what was asked for
	}{
		{"GET", "", 200, "list {Quota: Consumer: After: Limit:100}"},
		{"GET", "quota=calls&consumer=alice&after=b&limit=7", 200, "list {Quota:calls Consumer:alice After:b Limit:7}"},
		{"GET", "limit=0", 400, "limit must be from 1 to 1000"},
		{"GET", "limit=99999999999999999999", 400, "limit must be from 1 to 1000"},
		{"GET", "window=day", 400, `no parameter \"window\"; there are quota, consumer, after, limit`},
		{"DELETE", "consumer=alice", 200, "reset {Quota: Consumer:alice Window: Units:0}"},
		{"DELETE", "consumer=alice&quota=calls&window=month&units=5", 200, "reset {Quota:calls Consumer:alice Window:month Units:5}"},
		{"DELETE", "consumer=alice&quota=none", 404, "no such quota"},
		{"DELETE", "", 400, "consumer must say whose"},
		{"DELETE", "consumer=alice&unit=5", 400, `no parameter \"unit\"; there are quota, consumer, window, units`},
		{"DELETE", "consumer=alice&units=", 400, "units must not be empty"},
		{"DELETE", "consumer=alice&units=0", 400, "units must be a whole number from 1"},
		{"DELETE", "consumer=alice&units=5&units=6", 400, "units must be given once"},
		{"DELETE", "consumer=alice&window=year", 400, "window must be day or month"},
		{"DELETE", "consumer=alice;units=5", 400, "the query cannot be read"},
		{"DELETE", "consumer=alice&quota=%zz", 400, "the query cannot be read"},
	} {
		quotas.all = nil
		req, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+a.Addr().String()+"/api/v1/quotas?"+c.query, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+a.token())
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		got := string(text)
		if resp.StatusCode == 200 {
			got = strings.Join(quotas.all, "; ")
		} else if c.status == 400 && quotas.all != nil {
			t.Errorf("%s %s: asked %v", c.method, c.query, quotas.all)
		}
		if resp.StatusCode != c.status || !strings.Contains(got, c.want) {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.query, resp.StatusCode, got, c.status, c.want)
		}
	}
}
