package cmd

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/admin"
)

const ofQuotas = `
node:
  name: n1
  data_dir: DIR/data
  admin: { address: "127.0.0.1:0" }
  access_log: { path: "off" }
listeners: { web: { address: "127.0.0.1:0" } }
consumers:
  ann: { plan: gold, api_keys: ["sha256:ANN"] }
  bob: { api_keys: ["sha256:BOB"] }
  cid: { plan: none }
routes:
  api:
    match: { path: / }
    respond: { status: 204 }
    plugins:
      - api_key: {}
      - quota: { name: calls, time_zone: NOON, plans: { gold: { day: 3000, month: 50000 }, free: { month: 9 } }, default_plan: free }
`

// noon is a time zone where the day does not end during a test.
func noon() string { return fmt.Sprintf("Etc/GMT%+d", time.Now().UTC().Hour()-12) }

// TestQuotasOfANode: they are listed as they are used, and used again when reset.
func TestQuotasOfANode(t *testing.T) {
	sum := func(key string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(key))) }
	s, path, log := settings(t, strings.NewReplacer("NOON", noon(), "ANN", sum("ann's"), "BOB", sum("bob's")).Replace(ofQuotas))
	n, err := newNode(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	get := func(key string, want int) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+n.gateway.Addresses()["web"].String()+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-Key", key)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Fatalf("%s: status %d, want %d", key, resp.StatusCode, want)
		}
	}
	quotas := func(code int, args ...string) result {
		t.Helper()
		args = append(append([]string{"quotas"}, args...), "--server", n.admin.Addr().String(), "--data-dir", filepath.Join(filepath.Dir(path), "data"))
		r := run(t, "", args...)
		if r.code != code {
			t.Fatalf("%v: code %d\n%s%s", args, r.code, r.out, r.err)
		}
		return r
	}
	page := func(args ...string) (list []string, next string) {
		t.Helper()
		var p admin.QuotaPage
		if err := json.Unmarshal([]byte(quotas(0, append(args, "--output", "json")...).out), &p); err != nil {
			t.Fatal(err)
		}
		for _, q := range p.Quotas {
			if q.Quota != "calls" || q.Where != "route api" || q.Resets.IsZero() || q.Remaining != q.Limit-q.Used {
				t.Errorf("%+v", q)
			}
			list = append(list, fmt.Sprintf("%s %s %s %d/%d", q.Consumer, q.Plan, q.Window, q.Used, q.Limit))
		}
		return list, p.Next
	}
	is := func(want []string, args ...string) (next string) {
		t.Helper()
		var got []string
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if got, next = page(args...); slices.Equal(got, want) {
				return next
			}
		}
		t.Errorf("%v: got %q, want %q", args, got, want) // a lease that was under way is back by now
		return next
	}
	for range 3 {
		get("ann's", 204)
	}
	get("bob's", 204)
	all := []string{"ann gold day 3/3000", "ann gold month 3/50000", "bob free month 1/9", "cid free month 0/9"}
	is(all)
	next := is(all[:2], "--limit", "1")
	last := is(all[2:], "--after", next)
	if next != "ann" || last != "" {
		t.Errorf("the next pages are %q, %q", next, last)
	}
	is([]string{"stranger free month 0/9"}, "--consumer", "stranger")
	if r := quotas(0, "-n", "2"); !strings.Contains(r.out, "CONSUMER") || !strings.Contains(r.out, `There are more: --after "bob"`) {
		t.Errorf("%s", r.out)
	}

	if left, _ := page("reset", "ann", "--units", "1", "--window", "day"); len(left) != 2 {
		t.Errorf("%q", left)
	}
	is([]string{"ann gold day 2/3000", "ann gold month 3/50000"}, "--consumer", "ann")
	if r := quotas(0, "reset", "ann", "--quota", "calls"); !strings.Contains(r.out, "ann") {
		t.Errorf("%s", r.out)
	}
	is([]string{"ann gold day 0/3000", "ann gold month 0/50000"}, "--consumer", "ann")
	if text := log.String(); !strings.Contains(text, "a quota was reset") || !strings.Contains(text, "ann") {
		t.Errorf("the log does not tell of it:\n%s", text)
	}
	for _, c := range []struct {
		code int
		args []string
		want string
	}{
		{1, []string{"--quota", "other"}, "no such quota"},
		{1, []string{"reset", "ann", "--quota", "other"}, "no such quota"},
		{2, []string{"reset", "ann", "--window", "week"}, "day"},
		{2, []string{"reset"}, "consumer"},
		{1, []string{"--token", "wrong"}, "does not accept the token"},
	} {
		if r := quotas(c.code, c.args...); !strings.Contains(r.err, c.want) {
			t.Errorf("%v: %s", c.args, r.err)
		}
	}
}

// TestPagesOfManyNames are small, however many names there are.
func TestPagesOfManyNames(t *testing.T) {
	s := &smallest{after: "n05", most: 10}
	for i := range 100_000 {
		if s.add(fmt.Sprintf("n%02d", (i*7919)%100)); len(s.names) > 100 {
			t.Fatalf("%d names are kept", len(s.names))
		}
	}
	if got := strings.Join(s.sorted(), " "); got != "n06 n07 n08 n09 n10 n11 n12 n13 n14 n15" {
		t.Error(got)
	}
}
