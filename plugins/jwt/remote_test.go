package jwt

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// server is a key server without a network, so that time can be virtual.
type server struct {
	mu    sync.Mutex
	reply func(req *http.Request) (*http.Response, error)
	calls int
}

func (s *server) set(f func(*http.Request) (*http.Response, error)) {
	s.mu.Lock()
	s.reply = f
	s.mu.Unlock()
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func (s *server) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.calls++
	f := s.reply
	s.mu.Unlock()
	return f(req)
}

func answer(status int, body string) func(*http.Request) (*http.Response, error) {
	return func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: req}, nil
	}
}

func down(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }

func hang(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()
	return nil, req.Context().Err()
}

// fetching is a plugin whose keys come from s; it must be closed.
func fetching(t *testing.T, rest string, s *server) *plugin {
	t.Helper()
	c := new(Config)
	if err := strict.Unmarshal([]byte("{audiences: [api], "+rest+"jwks_url: 'https://id.example.com/keys'}"), c); err != nil {
		t.Fatal(err)
	}
	i, err := Factory().New(c, plugins.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	p := i.(*plugin)
	p.remote.client.Transport = s
	return p
}

func closing(t *testing.T, p *plugin) {
	t.Helper()
	if err := p.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestKeysRotate(t *testing.T) {
	rsaToken, ecToken := bearer(sign(t, pairs()["rsa"], claims(m{"exp": 4e9}), nil)), bearer(sign(t, pairs()["ec"], claims(m{"exp": 4e9}), nil))
	onlyRSA, both, onlyEC := published(t, "rsa"), published(t, "rsa", "ec"), published(t, "ec")
	synctest.Test(t, func(t *testing.T) {
		s := &server{reply: answer(200, onlyRSA)}
		p := fetching(t, "refresh: 1h, refresh_unknown: 1m, ", s)
		defer closing(t, p)
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r := ask(t, p, rsaToken); r.Status != 200 {
			t.Fatalf("first key: %v", r.Refusal)
		}
		// A key that is not known yet is fetched at once, and only once in a while.
		s.set(answer(200, both))
		if r := ask(t, p, ecToken); r.Status != 200 || s.count() != 2 {
			t.Fatalf("new key: %v after %d fetches", r.Refusal, s.count())
		}
		old := p.keys.Load()
		fake := pairs()["ec"]
		fake.kid = "made-up"
		fakeToken := bearer(sign(t, fake, claims(m{"exp": 4e9}), nil))
		for range 20 {
			if r := ask(t, p, fakeToken); r.Status != 401 {
				t.Fatalf("made-up key name: %d", r.Status)
			}
		}
		if s.count() != 2 {
			t.Fatalf("made-up key names cause %d fetches within a minute, want none", s.count()-2)
		}
		time.Sleep(time.Minute)
		ask(t, p, fakeToken)
		if s.count() != 3 || p.keys.Load() != old {
			t.Fatalf("%d fetches, want 3; the same answer is the same set: %v", s.count(), p.keys.Load() == old)
		}
		// An old key is forgotten with the regular fetch.
		s.set(answer(200, onlyEC))
		time.Sleep(time.Hour)
		synctest.Wait()
		if a, b := ask(t, p, rsaToken).Status, ask(t, p, ecToken).Status; a != 401 || b != 200 {
			t.Fatalf("old key %d, new key %d", a, b)
		}
	})
}

func TestKeyServerDownAtTheStart(t *testing.T) {
	token := bearer(sign(t, pairs()["rsa"], claims(m{"exp": 4e9}), nil))
	keys := published(t, "rsa")
	synctest.Test(t, func(t *testing.T) {
		s := &server{reply: down}
		p := fetching(t, "", s)
		defer closing(t, p)
		began := time.Now()
		if err := p.Start(t.Context()); err != nil || time.Since(began) != 0 {
			t.Fatalf("Start: %v after %v", err, time.Since(began))
		}
		if r := ask(t, p, token); r.Status != 503 {
			t.Fatalf("without keys: %d", r.Status)
		}
		time.Sleep(10 * time.Minute)
		if n := s.count(); n < 10 || n > 25 {
			t.Fatalf("%d attempts in ten minutes, want some 15: 1 s doubling up to a minute", n)
		}
		s.set(answer(200, keys))
		time.Sleep(time.Minute)
		synctest.Wait()
		if r := ask(t, p, token); r.Status != 200 {
			t.Fatalf("once it is there: %v", r.Refusal)
		}
	})
}

func TestASlowKeyServerDelaysTheStartOnlyALittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{reply: hang}
		p := fetching(t, "timeout: 1m, ", s)
		began := time.Now()
		if err := p.Start(t.Context()); err != nil || time.Since(began) != firstWait {
			t.Fatalf("Start: %v after %v", err, time.Since(began))
		}
		closing(t, p) // while a fetch hangs
		closing(t, p)
		if took := time.Since(began); took != firstWait {
			t.Fatalf("Close took %v", took-firstWait)
		}
	})
}

func TestBadAnswersChangeNothing(t *testing.T) {
	token := bearer(sign(t, pairs()["rsa"], claims(m{"exp": 4e9}), nil))
	good := published(t, "rsa")
	synctest.Test(t, func(t *testing.T) {
		s := &server{reply: answer(200, good)}
		p := fetching(t, "refresh: 1m, cache_size: 0, ", s)
		defer closing(t, p)
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		first := p.keys.Load()
		cut := func(req *http.Request) (*http.Response, error) {
			r, err := answer(200, "")(req)
			r.Body = io.NopCloser(io.MultiReader(strings.NewReader(good[:20]), failing{}))
			return r, err
		}
		for name, f := range map[string]func(*http.Request) (*http.Response, error){
			"down": down, "hang": hang, "404": answer(404, good), "500": answer(500, ""), "204": answer(204, ""),
			"garbage": answer(200, "<html>"), "empty": answer(200, ""), "empty set": answer(200, `{"keys":[]}`),
			"huge": answer(200, good+strings.Repeat(" ", maxKeySet)), "cut": cut, "null": answer(200, "null"),
			"many": answer(200, `{"keys":[`+strings.Repeat(good[9:len(good)-2]+",", 300)+good[9:len(good)-2]+`]}`),
		} {
			s.set(f)
			n := s.count()
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			if s.count() == n {
				t.Errorf("%s: was not fetched", name)
			}
			if r := ask(t, p, token); r.Status != 200 || p.keys.Load() != first {
				t.Errorf("%s: %d %v; keys changed: %v", name, r.Status, r.Refusal, p.keys.Load() != first)
			}
		}
		if value(t, p.remote.failed) == 0 {
			t.Error("no failure was counted")
		}
	})
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestManyUnknownKeysDoNotPileUpBehindASlowServer(t *testing.T) {
	fake := pairs()["ec"]
	fake.kid = "made-up"
	token := bearer(sign(t, fake, claims(m{"exp": 4e9}), nil))
	good := published(t, "rsa")
	synctest.Test(t, func(t *testing.T) {
		s := &server{reply: answer(200, good)}
		p := fetching(t, "timeout: 5s, ", s)
		defer closing(t, p)
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.set(hang)
		var atOnce atomic.Int64
		var wg sync.WaitGroup
		began := time.Now()
		for range 200 {
			wg.Go(func() {
				if r := ask(t, p, token); r.Status != 401 {
					t.Errorf("%d %v", r.Status, r.Refusal)
				}
				if time.Since(began) == 0 {
					atOnce.Add(1)
				}
			})
		}
		wg.Wait()
		if n := atOnce.Load(); n != 200-maxWaiting {
			t.Errorf("%d of 200 were refused at once, want all but %d", n, maxWaiting)
		}
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("the others waited %v, want the timeout", took)
		}
		synctest.Wait()
		if n := s.count(); n > 3 {
			t.Errorf("%d fetches", n)
		}
	})
}

// Over a real connection: TLS is verified, redirects never leave TLS.
func TestTLSIsVerified(t *testing.T) {
	keys := published(t, "ed")
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, keys) }))
	defer plain.Close()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/downgrade":
			http.Redirect(w, r, plain.URL, http.StatusFound)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/moved":
			http.Redirect(w, r, "/keys", http.StatusMovedPermanently)
		default:
			_, _ = io.WriteString(w, keys)
		}
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	dir := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), ca, 0o600); err != nil {
		t.Fatal(err)
	}
	token := bearer(sign(t, pairs()["ed"], claims(nil), nil))
	for config, want := range map[string]int{
		"jwks_url: '" + srv.URL + "/keys', ca_file: ca.pem":      200,
		"jwks_url: '" + srv.URL + "/moved', ca_file: ca.pem":     200,
		"jwks_url: '" + plain.URL + "'":                          200, // this machine
		"jwks_url: '" + srv.URL + "/keys'":                       503,
		"jwks_url: '" + srv.URL + "/downgrade', ca_file: ca.pem": 503,
		"jwks_url: '" + srv.URL + "/loop', ca_file: ca.pem":      503,
	} {
		p := start(t, "{audiences: [api], timeout: 1m, "+config+"}", dir)
		r := ask(t, p, token)
		for end := time.Now().Add(time.Minute); want == 200 && r.Status == 503 && time.Now().Before(end); r = ask(t, p, token) {
			time.Sleep(10 * time.Millisecond) // Start has not waited long enough
		}
		if r.Status != want {
			t.Errorf("%s: %d %v, want %d", config, r.Status, r.Refusal, want)
		}
	}
	c := &Config{JWKSURL: srv.URL, CAFile: "none.pem"}
	if _, err := Factory().New(c, plugins.Settings{Dir: dir}); err == nil || !strings.Contains(err.Error(), "ca_file") {
		t.Errorf("missing ca_file: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "none.pem"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Factory().New(c, plugins.Settings{Dir: dir}); err == nil || !strings.Contains(err.Error(), "has no PEM certificate") {
		t.Errorf("bad ca_file: %v", err)
	}
}
