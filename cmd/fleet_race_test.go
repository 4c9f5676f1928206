package cmd

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/control/store/redis/redistest"
)

// twoControlNodes trust each other and share a Redis.
func twoControlNodes(t *testing.T) [2]*fleetNode {
	t.Helper()
	server := redistest.Start(t)
	where := fmt.Sprintf("  store: { redis: { addresses: [%q], timeout: 1m } }\n", server.Address)
	dirs := [2]string{t.TempDir(), t.TempDir()}
	first := newFleetNode(t, dirs[0], "a", where) // makes its key
	key := first.fleet.key
	first.end()
	b := newFleetNode(t, dirs[1], "b", where+fmt.Sprintf("  control: { trusted_keys: [%q] }\n", key))
	a := newFleetNode(t, dirs[0], "a", where+fmt.Sprintf("  control: { trusted_keys: [%q] }\n", b.fleet.key))
	return [2]*fleetNode{a, b}
}

// post publishes over the API and returns the status.
func (n *fleetNode) post(ifMatch uint64, text string) (int, error) {
	token, err := os.ReadFile(filepath.Join(n.dir, "data", "admin.token"))
	if err != nil {
		return 0, err
	}
	body := fmt.Sprintf(`{"author":"ann","message":"why","files":[{"name":"a.yaml","data":%q}]}`, base64.StdEncoding.EncodeToString([]byte(text)))
	q, err := http.NewRequest(http.MethodPost, "http://"+n.admin.Addr().String()+"/api/v1/revisions", strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	q.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	q.Header.Set("If-Match", fmt.Sprintf("%q", fmt.Sprint(ifMatch)))
	r, err := client.Do(q)
	if err != nil {
		return 0, err
	}
	return r.StatusCode, r.Body.Close()
}

// Of several who publish at once over two nodes, from the same revision, exactly
// one wins and the others are told.
func TestTwoWhoPublishAtOnce(t *testing.T) {
	nodes := twoControlNodes(t)
	nodes[0].apply(shared("one"))
	latest := func() uint64 {
		t.Helper()
		n, err := nodes[1].fleet.publisher.Latest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for round := range 10 {
		before := latest()
		var all sync.WaitGroup
		var codes [4]int
		for i := range codes {
			all.Go(func() {
				var err error
				if codes[i], err = nodes[i%2].post(before, shared(fmt.Sprint("v", round, "-", i))); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		won := 0
		for _, code := range codes {
			switch code {
			case http.StatusCreated:
				won++
			case http.StatusConflict, http.StatusPreconditionFailed:
			default:
				t.Errorf("round %d: %v", round, codes)
			}
		}
		if won != 1 || latest() != before+1 {
			t.Fatalf("round %d: %v, and revision %d follows %d", round, codes, latest(), before)
		}
	}
}

// Between an apply's look at the newest revision and its own, somebody else
// publishes.
func TestAnApplyThatComesTooLate(t *testing.T) {
	nodes := twoControlNodes(t)
	a, b := nodes[0], nodes[1]
	a.apply(shared("one"))
	to := &url.URL{Scheme: "http", Host: a.admin.Addr().String()}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		if r.In.URL.Path == "/api/v1/revisions" && r.In.Method == http.MethodPost {
			if code, err := b.post(1, shared("two")); err != nil || code != http.StatusCreated {
				t.Errorf("%d, %v", code, err)
			}
		}
	}}
	between := httptest.NewServer(proxy)
	defer between.Close()
	r := run(t, "", "apply", "-c", file(t, shared("three")), "-m", "x", "--server", between.URL, "--data-dir", filepath.Join(a.dir, "data"))
	if r.code != 1 || r.err != "gatehouse: revision 2 is the newest, not 1: look at what has changed, and apply again\n" || strings.Contains(r.out, "published") {
		t.Errorf("code %d: %s%s", r.code, r.out, r.err)
	}
	a.says("two")
	b.says("two")
}
