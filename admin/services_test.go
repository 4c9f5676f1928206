package admin_test

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/admin"
	"github.com/gatehouse-proxy/gatehouse/control/store/local"
	"github.com/gatehouse-proxy/gatehouse/mesh/registry"
)

func services(t *testing.T) *registry.Registry {
	t.Helper()
	s := local.New(t.TempDir())
	r := registry.New(registry.Settings{Store: s, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() {
		r.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestServices(t *testing.T) {
	a := start(t, func(s *admin.Settings) { s.Registry = services(t) })
	token := a.token()
	do := func(method, path, body string, header ...string) (int, http.Header, map[string]any) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+a.Addr().String()+"/api/v1/services"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		var out map[string]any
		if len(text) > 0 {
			if err := json.Unmarshal(text, &out); err != nil {
				t.Fatalf("%s %s: %v in %s", method, path, err, text)
			}
		}
		return resp.StatusCode, resp.Header, out
	}
	const u1 = `{"host":"10.0.0.1","port":8080,"zone":"z1","weight":3,"metadata":{"a":"b"},"ttl":"30s"}`
	for _, c := range []struct {
		method, path, body string
		header             []string
		status             int
		want               string // of the answer, as JSON in part
	}{
		{"GET", "", "", nil, 200, `"services":[]`},
		{"GET", "/users", "", nil, 404, `no service \"users\"`},
		{"GET", "/users/u1", "", nil, 404, "no such instance"},
		{"PUT", "/users/u1", u1, []string{"If-None-Match", "*"}, 201, `"effective":"up"`},
		{"PUT", "/users/u1", u1, []string{"If-None-Match", "*"}, 412, "changed in the meantime"},
		{"PUT", "/users/u1", u1, nil, 200, `"weight":3`},
		{"GET", "/users", "", nil, 200, `"service":"users"`},
		{"POST", "/users/u1/heartbeat", "", nil, 204, ""},
		{"POST", "/users/u2/heartbeat", "", nil, 404, "no such instance"},
		{"POST", "/users/u1/drain", "", nil, 200, `"effective":"drain"`},
		{"PUT", "/users/u1", u1, nil, 200, `"override":"drain"`},
		{"DELETE", "/users/u1/status", "", nil, 200, `"effective":"up"`},
		{"PUT", "/users/u1/status", `{"status":"out_of_service"}`, nil, 200, `"effective":"out_of_service"`},
		{"PUT", "/users/u1/status", `{"status":"OUT"}`, nil, 422, "override must be up, starting"},
		{"PUT", "/users/u1/status", `{}`, nil, 400, "status is required"},
		{"PATCH", "/users/u1/metadata", `{"a":"","c":"d"}`, nil, 200, `"metadata":{"c":"d"}`},
		{"PATCH", "/users/u1/metadata", `{"a":1}`, nil, 400, "not what is expected"},
		{"PUT", "/users/u2", `{"host":"10.0.0.2","port":8080}`, nil, 201, `"id":"u2"`},
		{"PUT", "/users/u2", u1, nil, 409, "there is an instance of this ID already, a static one"},
		{"PUT", "/users/u3", `{"host":"10.0.0.2","port":8080,"nonsense":1}`, nil, 400, `unknown field`},
		{"PUT", "/users/u3", `{"host":"10.0.0.2","port":"8080"}`, nil, 400, "not what is expected"},
		{"PUT", "/users/u3", `{} {}`, nil, 400, "more behind it"},
		{"PUT", "/users/u3", `{"host":"10.0.0.2"}`, nil, 422, "port or secure_port is required"},
		{"PUT", "/users/a%2Fb", u1, nil, 422, "id must be"},
		{"PUT", "/users/a%0Ab", u1, nil, 422, "id must be"},
		{"PUT", "/Users/a", u1, nil, 422, "service must be"},
		{"PUT", "/users/u3", strings.Repeat(" ", 128<<10+1), nil, 413, "may have 131072 bytes"},
		{"DELETE", "/users/u1", "", []string{"If-Match", `"other"`}, 412, "changed in the meantime"},
		{"DELETE", "/users/u1", "", []string{"If-Match", `other`}, 400, "If-Match must be"},
		{"DELETE", "/users/u1", "", nil, 204, ""},
		{"DELETE", "/users/u1", "", nil, 404, "no such instance"},
	} {
		code, _, body := do(c.method, c.path, c.body, c.header...)
		text, _ := json.Marshal(body)
		if code != c.status || !strings.Contains(string(text), c.want) {
			t.Errorf("%s %s %.60s: %d %s, want %d %s", c.method, c.path, c.body, code, text, c.status, c.want)
		}
	}
	_, h, _ := do("GET", "/users/u2", "")
	if code, _, body := do("POST", "/users/u2/drain", "", "If-Match", h.Get("ETag")); code != 200 {
		t.Errorf("with the tag that was given: %d %v", code, body)
	}
	if code, _, body := do("DELETE", "/users/u2", "", "If-Match", h.Get("ETag")); code != 412 {
		t.Errorf("with an old tag: %d %v", code, body)
	}
	time.Sleep(time.Second) // net/http lingers for half of it after a body that is too large
}

func TestServicesNeedTheToken(t *testing.T) {
	a := start(t, func(s *admin.Settings) { s.Registry = services(t) })
	for _, q := range []string{"GET /api/v1/services", "PUT /api/v1/services/a/b", "DELETE /api/v1/services/a/b", "POST /api/v1/services/a/b/heartbeat"} {
		method, path, _ := strings.Cut(q, " ")
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+a.Addr().String()+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d", q, resp.StatusCode)
		}
	}
}
