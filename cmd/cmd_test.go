package cmd

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// result is what a command left.
type result struct {
	code     int
	out, err string
}

// run runs a command as Main does, with input on standard input.
func run(t *testing.T, input string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	env := &environment{version: "devel", in: strings.NewReader(input), out: &out, err: &errs}
	code := env.main(args)
	return result{code, out.String(), errs.String()}
}

// file writes a config and returns its path.
func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gatehouse.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const good = `
listeners: { web: { address: "127.0.0.1:0" }, more: { address: "127.0.0.1:0" } }
upstreams: { app: { endpoints: ["127.0.0.1:1"] } }
plugins: [{ request_id: {} }]
routes:
  api: { match: { hosts: [api.test], path: /v1, headers: { X-Beta: "1" } }, plugins: [{ rate_limit: { limit: 1, per: 1s } }], backends: [{ upstream: app }] }
  old: { match: { listeners: [web], path: /old }, redirect: { path: /new } }
`

func TestWrongUsageIsToldApartFromFailure(t *testing.T) {
	fine := file(t, good)
	for _, c := range []struct {
		args []string
		code int
		err  string // a part of what is said on standard error
	}{
		{[]string{"nonsense"}, 2, "nonsense"},
		{[]string{"check"}, 2, "file"},
		{[]string{"check", "--nonsense", fine}, 2, "--nonsense"},
		{[]string{"check", "missing.yaml"}, 2, "missing.yaml: cannot be read"},
		{[]string{"run"}, 2, "--config"},
		{[]string{"run", "-c", "missing.yaml"}, 2, "missing.yaml"},
		{[]string{"explain", "-c", fine, "GET"}, 2, "<url>"},
		{[]string{"explain", "-c", fine, "GET", "/path"}, 2, "needs a host"},
		{[]string{"explain", "-c", fine, "GET", "http://[::1/x"}, 2, "missing ']'"},
		{[]string{"explain", "-c", fine, "GET", "http://a.test/", "-H", "no colon"}, 2, "must be 'Name: value'"},
		{[]string{"explain", "-c", fine, "GET", "http://a.test/", "-H", ": x"}, 2, "must be 'Name: value'"},
		{[]string{"explain", "-c", fine, "--listener", "x", "GET", "http://a.test/"}, 2, `"x" is not defined; known: more, web`},
		{[]string{"build"}, 2, "--with"},
		{[]string{"build", "--with", "../x"}, 2, "must be MODULE"},
		{[]string{"build", "--with", "@v1"}, 2, "must be MODULE"},
		{[]string{"build", "--with", "example.com/x"}, 2, "no released version (devel)"},
		{[]string{"build", "--with", "example.com/x=" + t.TempDir()}, 2, "no go.mod"},
		{[]string{"build", "--with", "example.com/x="}, 2, "must be MODULE"},
		{[]string{"hash-password"}, 2, "standard input"},
		{[]string{"demo", "--address", "nonsense"}, 2, "missing port"},
		{[]string{"history", "-n", "0"}, 2, "--limit must be from 1 to 1000 but got 0"},
		{[]string{"history", "-n=-1"}, 2, "--limit must be from 1 to 1000 but got -1"},
		{[]string{"history", "-n", "1001"}, 2, "--limit must be from 1 to 1000 but got 1001"},
		{[]string{"quotas", "-n", "0"}, 2, "--limit must be from 1 to 1000 but got 0"},
		{[]string{"quotas", "list", "--limit=-1"}, 2, "--limit must be from 1 to 1000 but got -1"},
		{[]string{"quotas", "reset", "ann", "--units", "0"}, 2, "--units must be at least 1 but got 0"},
		{[]string{"quotas", "reset", "ann", "--units=-1"}, 2, "--units must be at least 1 but got -1"},
		{[]string{"show", "0"}, 2, "<number> must be at least 1 but got 0"},
		{[]string{"diff", "0", "1"}, 2, "<from> must be at least 1 but got 0"},
		{[]string{"diff", "1", "0"}, 2, "<to> must be at least 1 but got 0"},
		{[]string{"rollback", "0", "-m", "x"}, 2, "<number> must be at least 1 but got 0"},
		{[]string{"apply", "-c", fine, "-m", "x", "--wait=-1s"}, 2, "--wait must be from 0s to 10m but got -1s"},
		{[]string{"rollback", "1", "-m", "x", "--wait", "11m"}, 2, "--wait must be from 0s to 10m but got 11m"},
	} {
		r := run(t, "", c.args...)
		if r.code != c.code || !strings.Contains(r.err, c.err) {
			t.Errorf("%v: code %d, %q; want %d and %q", c.args, r.code, r.err, c.code, c.err)
		}
		if r.out != "" {
			t.Errorf("%v: on standard output: %q", c.args, r.out)
		}
		if n := strings.Count(r.err, "gatehouse: "); n > 1 {
			t.Errorf("%v: %q says who it is %d times", c.args, r.err, n)
		}
	}
}

func TestCheckListsEveryProblemWithItsPlace(t *testing.T) {
	path := file(t, `
listeners: { web: { adress: ":80" } }
routes:
  r:
    plugins: [{ nonsense: {} }, { rate_limit: { limit: 0 } }]
    backends: [{ upstream: nowhere }]
`)
	r := run(t, "", "check", path)
	if r.code != exitUsage {
		t.Errorf("code %d", r.code)
	}
	for _, want := range []string{":2:21: ", ":5:17: ", `"nowhere"`, `"adress"`} {
		if !strings.Contains(r.err, path+want) && !strings.Contains(r.err, want) {
			t.Errorf("%q is not in\n%s", want, r.err)
		}
	}
	place := regexp.MustCompile(`^` + regexp.QuoteMeta(path) + `:\d+:\d+: \S+: `)
	for line := range strings.Lines(r.err) {
		if !place.MatchString(line) {
			t.Errorf("a line without its place: %q", line)
		}
	}
	// What only building finds has its place too.
	path = file(t, strings.Replace(good, "rate_limit: { limit: 1, per: 1s }", "jwt: { jwks_file: missing.json, audiences: [a] }", 1))
	r = run(t, "", "check", path)
	if r.code != exitUsage || !strings.HasPrefix(r.err, path+":6:") || !strings.Contains(r.err, "routes.api.plugins[0].jwt: ") {
		t.Errorf("code %d: %s", r.code, r.err)
	}
	if r = run(t, "", "check", "--quick", path); r.code != exitFine {
		t.Errorf("--quick builds nothing: code %d, %s", r.code, r.err)
	}
}

func TestCheckOfAGoodConfig(t *testing.T) {
	path := file(t, good)
	if r := run(t, "", "check", path); r.code != exitFine || r.out != "fine: 2 listeners, 2 routes, 1 upstream\n" || r.err != "" {
		t.Errorf("got %+v", r)
	}
	r := run(t, "", "check", "--print", path)
	if r.code != exitFine || !strings.Contains(r.out, "panic_threshold: 50") {
		t.Errorf("code %d: %s", r.code, r.out)
	}
	if again := run(t, "", "check", file(t, r.out)); again.code != exitFine {
		t.Errorf("what --print prints is refused: %s", again.err)
	}
}

func TestExplain(t *testing.T) {
	path := file(t, good)
	for _, c := range []struct {
		args []string
		want []string
	}{
		{
			[]string{"GET", "http://API.test:80/v1/./x?q=1", "-H", "X-Beta: 1"},
			[]string{"listener   more (127.0.0.1:0)", "host       api.test", "path       /v1/x", "route      api", "plugins    request_id → rate_limit", "action     forward to app (weight 1)"},
		},
		{[]string{"get", "http://api.test/v1"}, []string{"route      none: 404 no_route", "does not match: "}},
		{[]string{"--listener", "web", "GET", "http://a.test/old#top"}, []string{"route      old", "action     redirect with 302"}},
		{[]string{"GET", "http://a.test/old"}, []string{"route      none"}}, // old is for web only
		{[]string{"GET", "http://a.test?x=1"}, []string{"path       /\n"}},
		{[]string{"GET", "http://a.test/a%2fb"}, []string{"refused    400 ambiguous_path"}},
		{[]string{"BREW", "http://a.test/"}, []string{"refused    501 method_refused"}},
	} {
		r := run(t, "", append([]string{"explain", "-c", path}, c.args...)...)
		if r.code != exitFine || r.err != "" {
			t.Errorf("%v: code %d, %s", c.args, r.code, r.err)
		}
		for _, w := range c.want {
			if !strings.Contains(r.out, w) {
				t.Errorf("%v: %q is not in\n%s", c.args, w, r.out)
			}
		}
	}
}

func TestExplainFindsTheListener(t *testing.T) {
	path := file(t, `
certificates: { c: { cert_file: c.crt, key_file: c.key } }
listeners:
  db: { address: ":5432", protocol: tcp, backends: [{ upstream: app }] }
  dns: { address: ":443", protocol: udp, backends: [{ upstream: app }] }
  plain: { address: ":8080", redirect_to_https: { port: 8443 } }
  secure:
    address: ":8443"
    tls: { certificates: [c] }
    sni: { db.test: { backends: [{ upstream: app }] }, "*.pg.test": { backends: [{ upstream: app }] } }
upstreams: { app: { endpoints: ["127.0.0.1:1"] } }
routes: { all: { backends: [{ upstream: app }] } }
`)
	// The files of the certificate are on another machine.
	if r := run(t, "", "check", path); r.code == exitFine || !strings.Contains(r.err, "certificates.c.key_file: ") {
		t.Errorf("check: code %d, %s", r.code, r.err)
	}
	for _, c := range []struct {
		url  string
		want []string
	}{
		{"http://a.test:8080/x", []string{"listener   plain", "route      redirect_to_https of the listener", "action     redirect with 308 to https://a.test:8443\n"}},
		{"http://a.test/x", []string{"listener   plain"}},
		{"http://a.test:8080/a%2fb", []string{"listener   plain", "refused    400 ambiguous_path"}},
		{"https://a.test:8443/x", []string{"listener   secure", "route      all"}},
		{"https://a.test/x", []string{"listener   secure", "route      all"}},
		{"https://pg.test/x", []string{"listener   secure", "route      all"}},
		{"https://DB.test:8443/x", []string{"listener   secure", "name       db.test, in the TLS handshake: pass on to app (weight 1), unopened\n"}},
		{"https://one.two.pg.test/", []string{"name       one.two.pg.test, in the TLS handshake: pass on to app"}},
		{"http://a.test:5432/x", []string{"listener   db", "which speaks tcp and reads no requests"}},
	} {
		r := run(t, "", "explain", "-c", path, "GET", c.url)
		if r.code != exitFine || r.err != "" {
			t.Errorf("%s: code %d, %s", c.url, r.code, r.err)
		}
		for _, w := range c.want {
			if !strings.Contains(r.out, w) {
				t.Errorf("%s: %q is not in\n%s", c.url, w, r.out)
			}
		}
	}
}

func TestSchemaIsJSON(t *testing.T) {
	r := run(t, "", "schema")
	var v map[string]any
	if err := json.Unmarshal([]byte(r.out), &v); err != nil || v["properties"] == nil || r.code != exitFine {
		t.Errorf("code %d, %v", r.code, err)
	}
}

func TestHashPassword(t *testing.T) {
	r := run(t, "open sesame\nmore\n", "hash-password")
	if err := bcrypt.CompareHashAndPassword([]byte(strings.TrimSpace(r.out)), []byte("open sesame")); err != nil || r.code != exitFine {
		t.Errorf("code %d, %q: %v", r.code, r.out, err)
	}
	if r = run(t, strings.Repeat("x", 100), "hash-password"); r.code != exitUsage || !strings.Contains(r.err, "72") {
		t.Errorf("a password that bcrypt would cut: %+v", r)
	}
}

func TestVersionAndHelp(t *testing.T) {
	if r := run(t, "", "version"); r.code != exitFine || !strings.HasPrefix(r.out, "gatehouse devel\n") {
		t.Errorf("got %+v", r)
	}
	for _, args := range [][]string{{"--help"}, {"check", "--help"}} {
		if r := run(t, "", args...); r.code != exitFine || !strings.Contains(r.out, "Usage: gatehouse") || r.err != "" {
			t.Errorf("%v: %+v", args, r)
		}
	}
	if r := run(t, "", "services", "status", "users", "u1", "bogus"); r.code != exitUsage || !strings.Contains(r.err, "(see gatehouse services status --help)") {
		t.Errorf("a mistake names another command's help: %+v", r)
	}
	if versionOf("v1.2.3") != "v1.2.3" || versionOf("") == "" {
		t.Error("version")
	}
}

func TestBuildWritesAModule(t *testing.T) {
	plugin := t.TempDir()
	if err := os.WriteFile(filepath.Join(plugin, "go.mod"), []byte("module example.com/x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	local, err := parseExtension("example.com/x=" + plugin)
	if err != nil {
		t.Fatal(err)
	}
	remote, err := parseExtension("example.com/y@v1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	b := &buildCommand{Source: "."}
	if err := b.write(dir, []extension{local, remote}, &environment{version: "v1.2.3"}); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	mod, main := read("go.mod"), read("main.go")
	for _, want := range append([]string{
		"replace " + modulePath + " => " + here,
		"replace example.com/x => " + plugin, "require example.com/x v0.0.0",
	}, replacements...) {
		if !strings.Contains(mod, want) {
			t.Errorf("go.mod lacks %q:\n%s", want, mod)
		}
	}
	for _, want := range []string{`p0 "example.com/x"`, `p1 "example.com/y"`, `cmd.Main("v1.2.3-custom", os.Args[1:], p0.Factory(), p1.Factory())`} {
		if !strings.Contains(main, want) {
			t.Errorf("main.go lacks %q:\n%s", want, main)
		}
	}
	// The lines that must stand in every main module are those of our own.
	own, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^(?:replace )?\s*(\S+ => \S+ \S+)$`).FindAllStringSubmatch(string(own), -1) {
		if !strings.Contains(mod, m[1]) {
			t.Errorf("go.mod of a custom binary lacks our %q", m[1])
		}
	}
}

func TestEveryPluginIsListedOnce(t *testing.T) {
	folders, err := filepath.Glob("../plugins/*/README.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, f := range Plugins() {
		if seen[f.Name] {
			t.Errorf("%s is there twice", f.Name)
		}
		seen[f.Name] = true
	}
	if len(seen) != len(folders) || len(Kinds()) != len(seen) {
		t.Errorf("%d folders, %d plugins, %d kinds", len(folders), len(seen), len(Kinds()))
	}
}
