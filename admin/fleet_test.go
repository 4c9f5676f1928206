package admin_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/admin"
	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/control/fleet"
	"github.com/gatehouse-proxy/gatehouse/control/nodes"
	"github.com/gatehouse-proxy/gatehouse/control/revision"
	"github.com/gatehouse-proxy/gatehouse/control/store/local"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
)

// publisher is a control node alone, whose data plane takes everything.
func publisher(t *testing.T) *fleet.Publisher {
	t.Helper()
	dir := t.TempDir()
	s, err := local.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := revision.LoadOrCreateKey(dir + "/control.key")
	if err != nil {
		t.Fatal(err)
	}
	node := &config.Node{Admin: config.Admin{Address: "off"}, Config: "store", DataDir: dir, Tracing: config.Tracing{ServiceName: "x"}, AccessLog: config.AccessLog{Path: "off"}, Control: config.Control{Enabled: true}}
	parse := func(files []config.File) (*config.Config, *config.Source, error) {
		return config.ParseFiles(files, nil, config.Options{Node: node})
	}
	log := slog.New(slog.DiscardHandler)
	f, err := fleet.New(fleet.Settings{
		Store: s, Trusted: revision.Keyring{key.Public()}, Control: true, Dir: dir, Self: fleet.Member{Node: "n1"},
		Parse: parse, Metrics: metrics.New(metrics.Settings{}), Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t.Context(), func(context.Context, *config.Config, *config.Source, string) error { return nil })
	p := fleet.NewPublisher(fleet.PublisherSettings{
		Store: s, Key: key, Follower: f, Parse: parse, Log: log,
		Check: func(context.Context, *config.Config, *config.Source) error { return nil },
	})
	t.Cleanup(func() {
		p.Close()
		f.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// api serves p, which may be nil, and returns what asks it.
func api(t *testing.T, p *fleet.Publisher) func(method, path, ifMatch, body string) (int, string) {
	t.Helper()
	dir := t.TempDir()
	a, err := admin.New(admin.Settings{
		Address: "127.0.0.1:0", DataDir: dir, Metrics: http.NotFoundHandler(),
		Ready: func() error { return nil }, Detail: func() any { return nil }, Fleet: p, Members: members(p),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	token := (&node{t: t, dir: dir}).token()
	return func(method, path, ifMatch, body string) (int, string) {
		t.Helper()
		q, err := http.NewRequest(method, "http://"+a.Addr().String()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Authorization", "Bearer "+token)
		if ifMatch != "" {
			q.Header.Set("If-Match", ifMatch)
		}
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		r, err := c.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		if r.StatusCode >= 400 {
			var p admin.Problem
			if err := json.Unmarshal(b, &p); err != nil || r.Header.Get("Content-Type") != "application/problem+json" || p.Status != r.StatusCode || p.Title == "" || p.Detail == "" {
				t.Errorf("%s %s: %d without a problem: %s", method, path, r.StatusCode, b)
			}
		}
		return r.StatusCode, string(b)
	}
}

// files is a config of one file in the form the API takes.
func files(text string) string {
	return fmt.Sprintf(`[{"name":"a.yaml","data":%q}]`, base64.StdEncoding.EncodeToString([]byte(text)))
}

const config1 = "listeners: { web: { address: \":8080\" } }\n"

func TestPublishing(t *testing.T) {
	ask := api(t, publisher(t))
	want := func(method, path, ifMatch, body string, code int, parts ...string) {
		t.Helper()
		got, text := ask(method, path, ifMatch, body)
		for _, part := range append(parts, "") {
			if got != code || !strings.Contains(text, part) {
				t.Errorf("%s %s %s: %d, want %d and %q:\n%s", method, path, ifMatch, got, code, part, text)
			}
		}
	}
	plan := func(text string) string { return `{"files":` + files(text) + `}` }
	body := func(text string) string { return `{"author":"ann","message":"why","files":` + files(text) + `}` }
	want("GET", "/api/v1/revisions", "", "", 200, `"revisions": []`)
	want("POST", "/api/v1/plan", "", plan(config1), 200, `"revision": 0`, `"kind": "listeners"`, `"what": "added"`, `+listeners`)
	want("POST", "/api/v1/revisions?wait=1m", `"0"`, body(config1), 201, `"number": 1`, `"running": [`, `"n1"`)
	want("POST", "/api/v1/plan", "", plan(config1), 200, `"revision": 1`, `"changes": []`, `"diff": ""`)

	want("POST", "/api/v1/revisions", "", body(config1), 428, "If-Match")
	want("POST", "/api/v1/revisions", `"0"`, body(config1), 412, "revision 1 is the newest, not 0")
	for _, bad := range []string{"1", `"x"`, `"-1"`, `W/"1"`, `"1", "2"`} {
		want("POST", "/api/v1/revisions", bad, body(config1), 400, "If-Match must be")
	}
	want("POST", "/api/v1/revisions", `"1"`, body("listeners: { web: { adress: x } }\n"), 422, `"file": "a.yaml"`, `"line": 1`, `"column": 21`, `"path": "listeners.web.adress"`)
	want("POST", "/api/v1/plan", "", plan("x: 1"), 422, `"problems"`)
	want("POST", "/api/v1/revisions", `"1"`, `{"message":"","files":`+files(config1)+`}`, 422, "has to say why")
	want("POST", "/api/v1/revisions", `"1"`, `{"message":"x","files":[{"name":"../a","data":""}]}`, 422, "a file called")
	want("POST", "/api/v1/revisions", `"1"`, `{"message":"x"}`, 400, "exactly one of files and revision")
	want("POST", "/api/v1/revisions", `"1"`, `{"message":"x","nonsense":1}`, 400, "nonsense")
	want("POST", "/api/v1/revisions", `"1"`, `listeners: {}`, 400)
	want("POST", "/api/v1/revisions?wait=1", `"1"`, body(config1), 400, "wait must be")
	want("POST", "/api/v1/revisions?wait=11m", `"1"`, body(config1), 400, "wait must be")
	want("POST", "/api/v1/revisions?rollback=maybe", `"1"`, body(config1), 400, "rollback must be")
	want("POST", "/api/v1/revisions", `"1"`, `{"message":"x","revision":7}`, 404, "no such revision")
	want("GET", "/api/v1/revisions", "", "", 200, `"number": 1`)

	want("POST", "/api/v1/revisions", "*", body(config1+"routes: {}\n"), 201, `"number": 2`)
	want("POST", "/api/v1/revisions", `"2"`, `{"message":"again","revision":1}`, 201, `"number": 3`)
	want("GET", "/api/v1/revisions?limit=1&before=3", "", "", 200, `"number": 2`)
	want("GET", "/api/v1/revisions/3", "", "", 200, `"message": "again"`, `"name": "a.yaml"`, base64.StdEncoding.EncodeToString([]byte(config1)))
	for _, bad := range []string{"4", "0", "x", "-1", "99999999999999999999"} {
		want("GET", "/api/v1/revisions/"+bad, "", "", 404)
	}
	for _, bad := range []string{"limit=0", "limit=1001", "limit=x", "before=x"} {
		want("GET", "/api/v1/revisions?"+bad, "", "", 400)
	}
	want("GET", "/api/v1/fleet", "", "", 200, `"latest": 3`, `"node": "n1"`)
}

func TestBodiesAreBounded(t *testing.T) {
	ask := api(t, publisher(t))
	if code, text := ask("POST", "/api/v1/plan", "", strings.Repeat("x", revision.MaxSize+1)); code != 413 {
		t.Errorf("%d: %s", code, text)
	}
	time.Sleep(time.Second) // net/http lingers for half of it, so that the client reads the answer
}

func TestANodeWhoseConfigIsAFileHasNoRevisions(t *testing.T) {
	ask := api(t, nil)
	for _, path := range []string{"GET /api/v1/fleet", "GET /api/v1/revisions", "GET /api/v1/revisions/1", "POST /api/v1/plan", "POST /api/v1/revisions"} {
		method, path, _ := strings.Cut(path, " ")
		if code, text := ask(method, path, "", ""); code != 404 || !strings.Contains(text, "node.config: file") {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
}

// members are the publisher's, if there is one.
func members(p *fleet.Publisher) func(context.Context) ([]nodes.Member, error) {
	if p == nil {
		return nil
	}
	return p.Members
}
