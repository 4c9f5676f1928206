package basicauth

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

func bcryptOf(t testing.TB, password string) string {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(h)
}

func argonOf(password string) string {
	salt := []byte("saltsaltsaltsalt")
	sum := argon2.IDKey([]byte(password), salt, 1, 64, 1, 32)
	return "$argon2id$v=19$m=64,t=1,p=1$" + base64.RawStdEncoding.EncodeToString(salt) + "$" + base64.RawStdEncoding.EncodeToString(sum)
}

func settings(t testing.TB) plugins.Settings {
	return plugins.Settings{Route: plugins.Route{Name: "r"}, Consumers: plugins.NewDirectory([]*plugins.Consumer{
		{Consumer: exchange.Consumer{Name: "alice", Groups: []string{"staff"}}, Username: "al", PasswordHash: bcryptOf(t, "wonder:land")},
		{Consumer: exchange.Consumer{Name: "bob"}, Username: "bob", PasswordHash: argonOf("builder")},
		{Consumer: exchange.Consumer{Name: "keyonly"}},
	})}
}

func newPlugin(t testing.TB, yaml string, s plugins.Settings) *plugin {
	t.Helper()
	c := Factory().Config()
	if err := strict.Unmarshal([]byte(yaml), c); err != nil {
		t.Fatal(err)
	}
	p, err := Factory().New(c, s)
	if err != nil {
		t.Fatal(err)
	}
	return p.(*plugin)
}

func value(t testing.TB, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

func basic(credentials string) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(credentials)) + "\r\n"
}

func upstream(c *fiber.Ctx) error {
	who := "nobody"
	if id := exchange.From(c).Identity; id.Consumer != nil {
		who = id.Consumer.Name + "/" + id.Method
	}
	return c.SendString(who + " auth=" + c.Get("Authorization"))
}

func ask(t testing.TB, h fiber.Handler, head string) plugintest.Reply {
	t.Helper()
	return plugintest.Do(t, plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\n" + head + "\r\n"}, h, upstream)
}

func TestPasswords(t *testing.T) {
	s := settings(t)
	for name, tc := range map[string]struct {
		config, head string
		status       int
		want         string
	}{
		"bcrypt":           {"{}", basic("al:wonder:land"), 200, "alice/basic_auth auth="},
		"argon2id":         {"{}", basic("bob:builder"), 200, "bob/basic_auth auth="},
		"scheme case":      {"{}", strings.Replace(basic("bob:builder"), "Basic", "bAsIc", 1), 200, "bob/basic_auth auth="},
		"anonymous":        {"anonymous: true", "", 200, "nobody auth="},
		"group":            {"groups: [staff]", basic("al:wonder:land"), 200, "alice/basic_auth auth="},
		"none":             {"{}", "", 401, "no credentials"},
		"bearer":           {"{}", "Authorization: Bearer x\r\n", 401, "no credentials"},
		"wrong":            {"{}", basic("al:wonder"), 401, "wrong user name or password"},
		"wrong, anonymous": {"anonymous: true", basic("al:wonder"), 401, "wrong user name or password"},
		"consumer's name":  {"{}", basic("alice:wonder:land"), 401, "wrong user name or password"},
		"no password":      {"{}", basic("keyonly:"), 401, "wrong user name or password"},
		"unknown":          {"{}", basic("eve:x"), 401, "wrong user name or password"},
		"no colon":         {"{}", basic("al"), 401, "malformed credentials"},
		"no name":          {"{}", basic(":x"), 401, "malformed credentials"},
		"NUL":              {"{}", basic("bob:builder\x00"), 401, "malformed credentials"},
		"not base64":       {"{}", "Authorization: Basic a!b\r\n", 401, "malformed credentials"},
		"empty":            {"{}", "Authorization: Basic \r\n", 401, "malformed"},
		"endless":          {"{}", basic("al:" + strings.Repeat("x", 5000)), 401, "bytes"},
		"twice":            {"{}", basic("bob:builder") + basic("al:wonder:land"), 401, "more than one"},
		"wrong group":      {"groups: [staff]", basic("bob:builder"), 403, "user bob is in none"},
	} {
		t.Run(name, func(t *testing.T) {
			r := ask(t, newPlugin(t, tc.config, s).Handle, tc.head)
			if r.Status != tc.status {
				t.Fatalf("status %d, want %d (%v)", r.Status, tc.status, r.Refusal)
			}
			got := r.Body
			if tc.status != 200 {
				got = r.Refusal.Detail
				if www := string(r.Header.Peek("WWW-Authenticate")); (www == `Basic realm="gatehouse", charset="UTF-8"`) != (tc.status == 401) {
					t.Fatalf("WWW-Authenticate %q", www)
				}
			}
			if !strings.Contains(got, tc.want) {
				t.Fatalf("got %q, want %q", got, tc.want)
			}
		})
	}
	if r := ask(t, newPlugin(t, "forward: true", s).Handle, basic("bob:builder")); r.Body != "bob/basic_auth auth="+strings.TrimSuffix(basic("bob:builder")[15:], "\r\n") {
		t.Fatalf("forwarded: %q", r.Body)
	}
}

func TestRightPasswordIsRememberedAndWrongIsNot(t *testing.T) {
	p := newPlugin(t, "cache_ttl: 1h", settings(t))
	for range 3 {
		ask(t, p.Handle, basic("bob:builder"))
		ask(t, p.Handle, basic("bob:nope"))
	}
	if a, c, r := value(t, p.accepted), value(t, p.cached), value(t, p.refused); a != 1 || c != 2 || r != 3 {
		t.Fatalf("hashed %v, remembered %v, refused %v; want 1, 2, 3", a, c, r)
	}
	u := p.users.Load().byName["bob"]
	u.verified.Load().until = 0 // as if the time had come
	if r := ask(t, p.Handle, basic("bob:builder")); r.Status != 200 || value(t, p.accepted) != 2 {
		t.Fatalf("after its time it was not hashed again: %d", r.Status)
	}
	p = newPlugin(t, "cache_ttl: 0s", settings(t))
	ask(t, p.Handle, basic("bob:builder"))
	if p.users.Load().byName["bob"].verified.Load() != nil {
		t.Fatal("remembered although switched off")
	}
}

func TestUnknownUsersCostAHashLikeTheSlowestKnownOne(t *testing.T) {
	p := newPlugin(t, "{}", settings(t))
	d := p.users.Load().decoy
	if cost, err := bcrypt.Cost([]byte(d.text)); err != nil || cost != bcrypt.MinCost {
		t.Fatalf("decoy %q: cost %d, %v", d.text, cost, err)
	}
	if d.text == p.users.Load().byName["al"].hash.text {
		t.Fatal("the decoy is a user's hash")
	}
	argon, err := parseHash("$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHRzYWx0$" + base64.RawStdEncoding.EncodeToString(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	u, err := merge(nil, nil, nil, []entry{{"a", argon}, {"b", d}})
	if err != nil || u.decoy.memory != 65536 || u.decoy.time != 3 || string(u.decoy.sum) == string(argon.sum) {
		t.Fatalf("decoy of the slowest: %+v, %v", u.decoy, err)
	}
	empty, err := merge(nil, nil, nil, nil)
	if err != nil || empty.decoy.work == 0 {
		t.Fatalf("no users: %+v, %v", empty, err)
	}
}

func TestChecksAtOnceAreLimited(t *testing.T) {
	p := newPlugin(t, "{max_concurrent: 1, max_wait: 10ms}", settings(t))
	p.turns <- struct{}{} // somebody's check is running
	r := ask(t, p.Handle, basic("bob:builder"))
	if r.Status != 503 || r.Refusal.Reason != reason.AuthUnavailable || string(r.Header.Peek("Retry-After")) != "1" {
		t.Fatalf("%d %v", r.Status, r.Refusal)
	}
	if r := ask(t, p.Handle, ""); r.Status != 401 {
		t.Fatalf("a request without credentials waits for nobody: %d", r.Status)
	}
	<-p.turns
	if r := ask(t, p.Handle, basic("bob:builder")); r.Status != 200 {
		t.Fatalf("%d %v", r.Status, r.Refusal)
	}
	p.turns <- struct{}{}
	if r := ask(t, p.Handle, basic("bob:builder")); r.Status != 200 {
		t.Fatalf("a remembered password waits for nobody: %d", r.Status)
	}
}

func TestHtpasswdFile(t *testing.T) {
	s := settings(t)
	s.Dir = t.TempDir()
	path := filepath.Join(s.Dir, "users")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# people\r\n\r\ncarol:" + bcryptOf(t, "c") + "\r\ndave:" + argonOf("d") + "\n")
	p := newPlugin(t, "{htpasswd_file: users, cache_ttl: 1h}", s)
	for head, want := range map[string]string{
		basic("carol:c"): "carol/basic_auth auth=", basic("dave:d"): "dave/basic_auth auth=", basic("bob:builder"): "bob/basic_auth auth=",
	} {
		if r := ask(t, p.Handle, head); r.Body != want {
			t.Fatalf("got %q, want %q", r.Body, want)
		}
	}
	if err := p.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	write("carol:" + bcryptOf(t, "new") + "\n")
	deadline := time.Now().Add(time.Minute)
	for ask(t, p.Handle, basic("carol:new")).Status != 200 {
		if time.Now().After(deadline) {
			t.Fatal("the new file was not read")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if r := ask(t, p.Handle, basic("carol:c")); r.Status != 401 {
		t.Fatal("a remembered password outlived its hash")
	}
	if r := ask(t, p.Handle, basic("dave:d")); r.Status != 401 {
		t.Fatal("a removed user still gets in")
	}
	for range 2 {
		if err := p.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBadHtpasswd(t *testing.T) {
	ok := bcryptOf(t, "x")
	for content, want := range map[string]string{
		"a:secret":                                    "line 1: user \"a\": passwords in plain text",
		"a:$apr1$x$y":                                 "MD5 hashes are refused",
		"a:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=":         "SHA-1 hashes are refused",
		"a:$5$rounds=1$x":                             "unknown kind of hash",
		"a:$argon2i$v=19$m=64,t=1,p=1$aaaa$bbbb":      "only argon2id",
		"a:$argon2id$v=16$m=64,t=1,p=1$aaaa$bbbb":     "malformed argon2id hash",
		"a:$argon2id$v=19$m=999999999,t=1,p=1$a$b":    "parameter m= must be from 8 to 262144",
		"a:$argon2id$v=19$m=64,t=99,p=1$a$b":          "parameter t= must be from 1 to 16",
		"a:$argon2id$v=19$m=64,t=1,p=0$a$b":           "parameter p= must be from 1 to 16",
		"a:$argon2id$v=19$m=64,t=1$a$b":               "malformed argon2id parameters",
		"a:$argon2id$v=19$m=64,t=1,p=1$a$b":           "malformed argon2id salt or hash",
		"a:" + ok[:50]:                                "malformed bcrypt hash",
		"a:" + strings.Replace(ok, "$04$", "$31$", 1): "bcrypt cost 31",
		"a:" + strings.Replace(ok, "$04$", "$99$", 1): "malformed bcrypt hash",
		"just a line":                                 "line 1: want NAME:HASH",
		"\n\n:" + ok:                                  "line 3: empty user name",
		"a:" + ok + "\na:" + ok:                       "line 2: user \"a\" is on line 1 already",
		"a\x01:" + ok:                                 "control characters",
		strings.Repeat("n", 256) + ":" + ok:           "more than 255 bytes",
		strings.Repeat("bad\n", 30):                   "and 20 more",
	} {
		list, err := parseHtpasswd([]byte(content))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: got %v (%d entries), want %q", content, err, len(list), want)
		} else if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "qUqP") {
			t.Errorf("%.40q: the error tells the secret: %v", content, err)
		}
	}
}

func TestBadSettings(t *testing.T) {
	for yaml, want := range map[string]string{
		`realm: "a\"b"`:      "realm: must be text",
		"groups: ['']":       "groups: must not contain",
		"max_concurrent: -1": "max_concurrent: must be from 0",
		"cache_ttl: 2h":      "cache_ttl: must be at most 1h",
		"htpasswd: x":        "htpasswd: ",
		"max_wait: 5":        "max_wait: must be a duration",
	} {
		if err := strict.Unmarshal([]byte(yaml), new(Config)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", yaml, err, want)
		}
	}
	s := settings(t)
	s.Dir = t.TempDir()
	if _, err := Factory().New(&Config{HtpasswdFile: "none"}, s); err == nil || !strings.Contains(err.Error(), "htpasswd_file") {
		t.Errorf("missing file: %v", err)
	}
	for _, clash := range []string{"bob", "alice", "keyonly", "al"} {
		if err := os.WriteFile(filepath.Join(s.Dir, "f"), []byte(clash+":"+bcryptOf(t, "x")), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Factory().New(&Config{HtpasswdFile: "f"}, s); err == nil || !strings.Contains(err.Error(), "configured consumer") {
			t.Errorf("%s in the file passes for the consumer: %v", clash, err)
		}
	}
	s.Consumers = plugins.NewDirectory([]*plugins.Consumer{{Consumer: exchange.Consumer{Name: "x"}, Username: "x", PasswordHash: "secret"}})
	if _, err := Factory().New(&Config{}, s); err == nil || !strings.Contains(err.Error(), "consumers.x.basic_auth.password_hash: passwords in plain text") {
		t.Errorf("bad consumer hash: %v", err)
	}
}

func TestConcurrentSignIns(t *testing.T) {
	p := newPlugin(t, "{cache_ttl: 1ms, max_wait: 30s}", settings(t))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				head, want := basic("bob:builder"), 200
				if (i+j)%2 == 0 {
					head, want = basic(fmt.Sprint("bob:", j)), 401
				}
				if r := ask(t, p.Handle, head); r.Status != want {
					t.Errorf("%d, want %d", r.Status, want)
				}
			}
		})
	}
	wg.Wait()
}

func FuzzHtpasswd(f *testing.F) {
	f.Add([]byte("a:$2b$04$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy\n# c\n\nb:{SHA}x\r\n"))
	f.Add([]byte("c:" + argonOf("x")))
	f.Fuzz(func(t *testing.T, content []byte) {
		list, err := parseHtpasswd(content)
		seen := map[string]bool{}
		for _, e := range list {
			if e.name == "" || strings.ContainsAny(e.name, ":\n\r\x00") || seen[e.name] {
				t.Fatalf("accepted the user name %q (repeated: %v)", e.name, seen[e.name])
			}
			seen[e.name] = true
			if e.hash.sum == nil {
				if cost, err := bcrypt.Cost([]byte(e.hash.text)); err != nil || cost > maxBcryptCost {
					t.Fatalf("accepted %q: cost %d, %v", e.hash.text, cost, err)
				}
			} else if e.hash.memory > maxArgonMemory || e.hash.time > maxArgonTime || e.hash.threads == 0 || len(e.hash.sum) < 16 {
				t.Fatalf("accepted %+v", e.hash)
			}
			if e.hash.decoy().work != e.hash.work {
				t.Fatal("the decoy does other work")
			}
		}
		if err == nil {
			again, err := parseHtpasswd(append(append([]byte("# comment\n"), content...), '\n'))
			if err != nil || len(again) != len(list) {
				t.Fatalf("comments and a last newline change the users: %v", err)
			}
		}
	})
}

func BenchmarkRememberedPassword(b *testing.B) {
	p := newPlugin(b, "{forward: true, cache_ttl: 1h}", settings(b))
	b.ReportAllocs()
	plugintest.Do(b, plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\n" + basic("bob:builder") + "\r\n"},
		func(c *fiber.Ctx) error {
			for b.Loop() {
				_ = c.Next()
			}
			return nil
		}, p.Handle, func(*fiber.Ctx) error { return nil })
}
