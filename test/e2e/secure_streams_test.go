package e2e

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// entry is a way to be let in through a route's plugins, and one not to be.
type entry struct {
	name, plugins string
	let, refused  []string // headers
	status        int      // of the refusal; 0: nobody is refused
	without       string   // the rest of the refused path
}

func entries(jwt string) []entry {
	return []entry{
		{"open", "", nil, nil, 0, ""},
		{"key", "api_key: {}", []string{"X-API-Key", "alice-key"}, []string{"X-API-Key", "wrong"}, 401, "/ws"},
		{"staff", "api_key: { groups: [staff] }", []string{"X-API-Key", "alice-key"}, []string{"X-API-Key", "bob-key"}, 403, "/ws"},
		{"basic", "basic_auth: { htpasswd_file: users.htpasswd }", []string{"Authorization", basic("carol", "caroling")}, []string{"Authorization", basic("carol", "x")}, 401, "/ws"},
		{"jwt", "jwt: { jwks_file: keys.json, audiences: [api] }", []string{"Authorization", jwt}, []string{"Authorization", jwt + "x"}, 401, "/ws"},
		{"authorize", "jwt: { jwks_file: keys.json, audiences: [api] }, authorize: { expression: 'claims.tenant == \"acme\" && request.path != \"/authorize/no\"' }", []string{"Authorization", jwt}, []string{"Authorization", jwt}, 403, "/no"},
		{"forward", "forward_auth: { url: 'http://%s/ask', timeout: 1m }", []string{"X-Pass", "yes"}, []string{"X-Pass", "no"}, 403, "/ws"},
		{"inside", "ip_filter: { allow: [127.0.0.0/8] }", nil, nil, 0, ""},
		{"outside", "ip_filter: { deny: [127.0.0.0/8] }", nil, []string{}, 403, "/ws"},
		{"csrf", "csrf: { trusted_origins: ['https://app.example'] }", nil, nil, 0, ""},
		{"waf", "waf: {}", nil, []string{}, 403, "/ws?" + sqli},
		{"all", "compress: { min_size: 1 }, api_key: {}, rate_limit: { limit: 1000, per: 1s, name: all }, waf: {}", []string{"X-API-Key", "alice-key"}, []string{}, 401, "/ws"},
	}
}

// prepareStreams makes a node with a route for each entry; app sends events and
// echoes WebSocket messages.
func prepareStreams(t *testing.T, got <-chan struct{}) (*manyNode, []entry) {
	t.Helper()
	key := newSigner(t, "k1")
	list := entries("Bearer " + key.token(map[string]any{"aud": "api", "tenant": "acme"}))
	asked := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Pass") != "yes" {
			w.WriteHeader(http.StatusForbidden)
		}
	})
	app := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			echo(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 5 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			select { // the next one only when the client has seen this
			case <-got:
			case <-r.Context().Done():
				return
			}
		}
	})
	var b strings.Builder
	fmt.Fprintf(&b, "upstreams: { app: { endpoints: [%q] } }\nconsumers:\n  alice: { api_keys: [\"sha256:%x\"], groups: [staff] }\n  bob: { api_keys: [\"sha256:%x\"] }\nroutes:\n",
		app, sha256.Sum256([]byte("alice-key")), sha256.Sum256([]byte("bob-key")))
	for _, e := range list {
		fmt.Fprintf(&b, "  %s: { match: { path: /%s }, backends: [{ upstream: app }], plugins: [", e.name, e.name)
		if e.plugins != "" {
			for i, p := range splitPlugins(strings.ReplaceAll(e.plugins, "%s", asked)) {
				b.WriteString(strings.Repeat(", ", min(i, 1)) + "{ " + p + " }")
			}
		}
		b.WriteString("] }\n")
	}
	n := prepareMany(t, "", b.String())
	dir := filepath.Dir(n.config)
	writeFile(t, filepath.Join(dir, "keys.json"), key.jwks())
	writeFile(t, filepath.Join(dir, "users.htpasswd"), "carol:"+bcryptOf(t, "caroling")+"\n")
	n.begin()
	return n, list
}

func headerOf(list []string) http.Header {
	h := http.Header{}
	for i := 0; i < len(list); i += 2 {
		h.Add(list[i], list[i+1])
	}
	return h
}

// WebSockets over TLS get through whatever lets their handshake through, and no
// message is inspected.
func TestWebSocketOverTLSThroughEveryGuard(t *testing.T) {
	n, list := prepareStreams(t, nil)
	client := &http.Client{Transport: n.clients["h1 tls"]}
	dial := func(path string, header []string) (*websocket.Conn, int, error) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		c, resp, err := websocket.Dial(ctx, "wss://"+n.secure+path, &websocket.DialOptions{HTTPClient: client, HTTPHeader: headerOf(header)})
		status := 0
		if resp != nil {
			status = resp.StatusCode
		}
		return c, status, err
	}
	for _, e := range list {
		if e.name != "outside" {
			ws, status, err := dial("/"+e.name+"/ws", e.let)
			if err != nil {
				t.Errorf("%s: %d %v", e.name, status, err)
				continue
			}
			for _, message := range []string{"hello", "1' OR '1'='1' -- ", strings.Repeat("<script>alert(1)</script>", 1000)} {
				if err := ws.Write(t.Context(), websocket.MessageText, []byte(message)); err != nil {
					t.Fatalf("%s: %v", e.name, err)
				}
				if _, back, err := ws.Read(t.Context()); err != nil || string(back) != message {
					t.Errorf("%s: %.40q, %v", e.name, back, err)
				}
			}
			if err := ws.Close(websocket.StatusNormalClosure, ""); err != nil {
				t.Errorf("%s: closing: %v", e.name, err)
			}
		}
		if e.status == 0 {
			continue
		}
		if ws, status, err := dial("/"+e.name+e.without, e.refused); err == nil || status != e.status {
			t.Errorf("%s: without credentials: %d %v", e.name, status, err)
			if err == nil {
				_ = ws.CloseNow()
			}
		}
	}
}

// Events arrive one by one over every protocol, whatever stands between.
func TestEventsOverEveryProtocolThroughEveryGuard(t *testing.T) {
	got := make(chan struct{})
	n, list := prepareStreams(t, got)
	for _, protocol := range n.order {
		scheme, address := n.target(protocol)
		ask := func(path string, header []string) *http.Response {
			t.Helper()
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			t.Cleanup(cancel)
			req, err := http.NewRequestWithContext(ctx, "GET", scheme+"://"+address+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header = headerOf(header)
			req.Header.Set("Accept", "text/event-stream")
			req.Header.Set("Accept-Encoding", "gzip, br, zstd")
			resp, err := n.clients[protocol].RoundTrip(req)
			if err != nil {
				t.Fatalf("%s: %s: %v", protocol, path, err)
			}
			return resp
		}
		for _, e := range list {
			if e.status != 0 {
				resp := ask("/"+e.name+e.without, e.refused)
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode != e.status {
					t.Errorf("%s: %s without credentials: %s", protocol, e.name, resp.Status)
				}
			}
			if e.name == "outside" {
				continue
			}
			resp := ask("/"+e.name+"/events", e.let)
			if resp.StatusCode != 200 || resp.Header.Get("Content-Encoding") != "" {
				t.Errorf("%s: %s: %s %v", protocol, e.name, resp.Status, resp.Header)
				resp.Body.Close()
				continue
			}
			events := bufio.NewScanner(resp.Body)
			for i := range 5 {
				if !events.Scan() || events.Text() != fmt.Sprintf("data: %d", i) || !events.Scan() {
					t.Fatalf("%s: %s: event %d: %q %v", protocol, e.name, i, events.Text(), events.Err())
				}
				got <- struct{}{}
			}
			if events.Scan() || events.Err() != nil {
				t.Errorf("%s: %s: after the last event: %q %v", protocol, e.name, events.Text(), events.Err())
			}
			resp.Body.Close()
		}
	}
}
