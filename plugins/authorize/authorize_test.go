package authorize

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

func handler(t testing.TB, yaml string) fiber.Handler {
	t.Helper()
	c := new(Config)
	if err := strict.Unmarshal([]byte(yaml), c); err != nil {
		t.Fatal(err)
	}
	i, err := Factory().New(c, plugins.Settings{Route: plugins.Route{Name: "r"}})
	if err != nil {
		t.Fatal(err)
	}
	return i.Handle
}

const token = `{"sub":"u1","level":5,"admin":true,"blocked":null,"tenant":"acme","roles":["user","admin"],
	"realm":{"roles":["ops"],"deep":{"x":"y"}},"list":[{"id":"a"},{"id":"b"}],"n":1.5}`

func signedIn(t testing.TB) func(*exchange.Exchange) {
	var c map[string]any
	if err := json.Unmarshal([]byte(token), &c); err != nil {
		t.Fatal(err)
	}
	c["id"], c["huge"] = int64(1<<53+1), json.Number("18446744073709551617") // as plugins/jwt gives them
	return func(e *exchange.Exchange) {
		e.Identity = exchange.Identity{
			Consumer: &exchange.Consumer{Name: "alice", Groups: []string{"staff", "ops"}}, Subject: "u1", Claims: c, Scopes: []string{"read"},
		}
	}
}

const raw = "POST /v1/a%20b?q=x%20y&q=2&empty= HTTP/1.1\r\nHost: API.test:8080\r\nX-Tenant: acme\r\nX-Two: 1\r\nx-two: 2\r\n\r\n"

func TestExpressions(t *testing.T) {
	const yes, no, failed = "yes", "no", "failed"
	for expression, want := range map[string]string{
		`true`: yes, `false`: no,
		`request.method == "POST"`:                               yes,
		`request.path == "/v1/a%20b"`:                            yes,
		`request.path.startsWith("/v2")`:                         no,
		`request.host == "api.test:8080"`:                        yes, // as plugintest fills it
		`request.scheme == "http"`:                               yes,
		`request.client_ip == "192.0.2.1"`:                       yes,
		`tls.version + tls.client.fingerprint == ""`:             yes,
		`request.client_ip.in_cidr("192.0.2.0/24")`:              yes,
		`request.client_ip.in_cidr("10.0.0.0/8")`:                no,
		`request.client_ip.in_cidr(request.path)`:                failed,
		`request.headers["X-Tenant"] == "acme"`:                  yes,
		`request.headers["x-tenant"] == claims.tenant`:           yes,
		`request.headers["x-two"] == "1, 2"`:                     yes,
		`request.headers["x-none"] == ""`:                        no,
		`"x-tenant" in request.headers`:                          yes,
		`"x-none" in request.headers`:                            no,
		`request.headers.exists(h, h == "x-two")`:                yes,
		`size(request.headers) >= 2`:                             yes,
		`request.query.q == "x y"`:                               yes,
		`request.query.empty == ""`:                              yes,
		`has(request.query.empty) && !has(request.query.none)`:   yes,
		`request.query.all(k, k in ["q", "empty"])`:              yes,
		`size(request.query) == 2`:                               yes,
		`consumer.name == "alice" && "ops" in consumer.groups`:   yes,
		`"none" in consumer.groups`:                              no,
		`subject == "u1" && route == "test" && "read" in scopes`: yes,
		`claims.level >= 5 && claims.level == 5`:                 yes,
		`claims.n == 1.5`:                                        yes,
		`claims.id == 9007199254740993`:                          yes,
		`claims.id == 9007199254740992`:                          no,
		`claims.huge == "18446744073709551617"`:                  yes,
		`claims.admin`:                                           yes,
		`claims["admin"] == true`:                                yes,
		`"admin" in claims.roles`:                                yes,
		`claims.roles.exists(r, r.startsWith("adm"))`:            yes,
		`"ops" in claims.realm.roles`:                            yes,
		`claims.realm.deep.x == "y"`:                             yes,
		`has(claims.realm.deep.x)`:                               yes,
		`claims.list.exists(o, o.id == "b")`:                     yes,
		`claims.list.exists(o, o.none == "b")`:                   no,
		`claims.list[0].id == "a"`:                               yes,
		// What is missing is null: comparing it is false, not an error.
		`claims.none == "x"`:            no,
		`claims.none != "x"`:            yes,
		`claims.none == null`:           yes,
		`has(claims.none)`:              no,
		`has(claims.none.deeper.still)`: no,
		`has(claims.blocked)`:           no,
		`"none" in claims`:              no,
		`claims[request.method] == "x"`: no,
		// Doing more with it makes the rule false.
		`claims.none`:                 no,
		`!claims.none`:                no,
		`claims.none.deeper == "x"`:   no,
		`"x" in claims.none`:          no,
		`claims.none.startsWith("x")`: no,
		`claims.realm.none.x == "y"`:  no,
		// Real errors deny.
		`claims.tenant > 3`:                   failed,
		`claims.tenant`:                       failed,
		`claims.list[7].id == "a"`:            failed,
		`claims.level / 0 == 1`:               failed,
		`1 / (size(request.method) - 4) == 1`: failed,
		`claims.roles.all(a, claims.roles.all(b, claims.roles.all(c, claims.roles.all(d, claims.roles.all(e, a+b+c+d+e != "x")))))`: yes,
	} {
		r := plugintest.Do(t, plugintest.Request{Raw: raw, Edit: signedIn(t)},
			handler(t, fmt.Sprintf("expression: %q", expression)), plugintest.Upstream)
		got := yes
		if r.Status == 403 && r.Refusal.Reason == reason.Forbidden {
			got = no
			if strings.Contains(r.Refusal.Detail, "failed") {
				got = failed
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s (%d %v)", expression, got, want, r.Status, r.Refusal)
		}
	}
}

func TestClientCertificates(t *testing.T) {
	about := &exchange.TLS{Version: "TLS 1.3", ServerName: "api.test", Subject: "CN=alice", SPIFFEID: "spiffe://x.test/ns/a", Fingerprint: "0f"}
	for expression, want := range map[string]int{
		`tls.version == "TLS 1.3" && tls.server_name == "api.test"`:     200,
		`tls.client.spiffe_id.startsWith("spiffe://x.test/ns/")`:        200,
		`tls.client.subject == "CN=alice"`:                              200,
		`tls.client.fingerprint == "0e"`:                                403,
		`tls.client.spiffe_id != "" && "x" in [tls.client.fingerprint]`: 403,
	} {
		r := plugintest.Do(t, plugintest.Request{Raw: raw, Edit: func(e *exchange.Exchange) { e.TLS = about }},
			handler(t, fmt.Sprintf("expression: %q", expression)), plugintest.Upstream)
		if r.Status != want {
			t.Errorf("%s: %d, %v", expression, r.Status, r.Refusal)
		}
	}
}

func TestAnonymous(t *testing.T) {
	for expression, want := range map[string]int{
		`consumer.name == ""`: 200, `size(consumer.groups) == 0`: 200, `claims.x == "y"`: 403, `subject != ""`: 403,
		`size(claims) == 0`: 200, `size(scopes) == 0`: 200, `claims == {}`: 200,
	} {
		r := plugintest.Do(t, plugintest.Request{Raw: raw}, handler(t, fmt.Sprintf("expression: %q", expression)), plugintest.Upstream)
		if r.Status != want {
			t.Errorf("%s: %d %v, want %d", expression, r.Status, r.Refusal, want)
		}
	}
}

func TestRules(t *testing.T) {
	for name, tc := range map[string]struct {
		yaml   string
		status int
		detail string
	}{
		"one allows":          {`allow: ['false', {name: two, when: 'true'}]`, 200, ""},
		"none allows":         {`allow: ['false', {name: two, when: 'false'}]`, 403, "no rule allows: allow[0], two"},
		"deny comes first":    {`{allow: ['true'], deny: [{name: never, when: 'true'}]}`, 403, "rule never denies"},
		"nothing denies":      {`deny: ['false']`, 200, ""},
		"deny and allow":      {`{deny: ['false'], allow: ['true']}`, 200, ""},
		"deny, missing":       {`deny: ['claims.none == "x"']`, 200, ""},
		"deny, missing used":  {`deny: ['claims.none.startsWith("x")']`, 403, "rule deny[0] failed"},
		"allow, missing used": {`allow: ['"x" in claims.none', 'true']`, 200, ""},
		"allow, error":        {`allow: ['claims.tenant > 3', 'true']`, 403, "rule allow[0] failed"},
		"short circuit":       {`allow: ['true || claims.tenant > 3']`, 200, ""},
		"too costly":          {`{cost_limit: 20, allow: ['claims.roles.all(a, claims.roles.all(b, claims.roles.all(c, a+b+c != "x")))']}`, 403, "rule allow[0] failed"},
	} {
		r := plugintest.Do(t, plugintest.Request{Raw: raw, Edit: signedIn(t)}, handler(t, tc.yaml), plugintest.Upstream)
		if r.Status != tc.status || tc.status != 200 && !strings.Contains(r.Refusal.Detail, tc.detail) {
			t.Errorf("%s: %d %v, want %d %q", name, r.Status, r.Refusal, tc.status, tc.detail)
		}
	}
}

func TestBadConfig(t *testing.T) {
	for yaml, want := range map[string]string{
		`{}`:                                                         "needs expression, allow or deny",
		`{expression: 'true', deny: ['true']}`:                       "expression: cannot be given beside allow and deny",
		`expression: 'request.metod == "GET"'`:                       "known: request.method, request.path",
		`expression: 'request.method == 1'`:                          "expression: column 16: found no matching overload",
		`expression: 'request.method'`:                               "expression: must be true or false, but is a string",
		`expression: '1 +'`:                                          "expression: column",
		`expression: 'nope()'`:                                       "undeclared reference to 'nope'",
		`allow: ['true', '(']`:                                       "allow[1].when: column",
		`deny: [{name: x}]`:                                          "deny[0].when: ",
		`{expression: 'true', cost_limit: 1}`:                        "cost_limit: must be from 10",
		`{expression: 'true', rule: x}`:                              "rule: ",
		`expression: "` + strings.Repeat("(", 200) + `"`:             "expression: ",
		`expression: "` + strings.Repeat("true && ", 4000) + `true"`: "expression: ",
	} {
		if err := strict.Unmarshal([]byte(yaml), new(Config)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: got %v, want %q", yaml, err, want)
		}
	}
	if _, err := Factory().New(&Config{CostLimit: 10}, plugins.Settings{}); err == nil {
		t.Error("no rules at all let everybody in")
	}
}

func TestManyAtOnce(t *testing.T) {
	h := handler(t, `expression: 'request.headers["x-tenant"] == claims.tenant && claims.roles.exists(r, r == "admin")'`)
	edit := signedIn(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if r := plugintest.Do(t, plugintest.Request{Raw: raw, Edit: edit}, h, plugintest.Upstream); r.Status != 200 {
					t.Error(r.Refusal)
				}
			}
		})
	}
	wg.Wait()
}

func TestConformance(t *testing.T) {
	plugintest.Run(t, Factory(), plugintest.Options{
		Good:   []string{`expression: 'request.method == "GET"'`, `{deny: ['request.path == "/x"'], allow: [{name: all, when: 'true'}]}`},
		Bad:    []plugintest.Bad{{YAML: "{expression: '1'}", Want: "must be true or false"}},
		Allocs: 25,
	})
}

func BenchmarkExpression(b *testing.B) {
	for _, expression := range []string{
		`request.method == "POST"`, `claims.tenant == request.headers["x-tenant"] && "admin" in claims.roles`,
	} {
		b.Run(expression, func(b *testing.B) {
			h := handler(b, fmt.Sprintf("expression: %q", expression))
			b.ReportAllocs()
			plugintest.Do(b, plugintest.Request{Raw: raw, Edit: signedIn(b)}, func(c *fiber.Ctx) error {
				for b.Loop() {
					_ = c.Next()
				}
				return nil
			}, h, func(*fiber.Ctx) error { return nil })
		})
	}
}
