package remote_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/discovery/remote"
	"github.com/gatehouse-proxy/gatehouse/gateway/socket/sockettest"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/dial"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

func client(t *testing.T, s remote.Settings) *remote.Client {
	t.Helper()
	c, err := remote.New(s)
	if err != nil {
		t.Fatal(err)
	}
	c.Start(t.Context())
	t.Cleanup(c.Close)
	return c
}

// registry answers by path.
func registry(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/v1/echo":
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.URL.RawQuery, r.Header.Get("Authorization"), r.Header.Get("User-Agent"))
	case "/v1/large":
		io.WriteString(w, strings.Repeat("x", 100))
	case "/v1/away":
		http.Redirect(w, r, "/v1/echo", http.StatusFound)
	case "/v1/refused":
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, "Permission\x1b[31m\r\n denied "+strings.Repeat("y", 500))
	case "/v1/told":
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"kind":"Status","metadata":{},"message":"%s: \u001b[31m\"gateway\" cannot list%s","code":403}`, strings.Repeat("z", 300), strings.Repeat("z", 1000))
	case "/v1/slow":
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
}

func get(c *remote.Client, path string, timeout time.Duration) (string, error) {
	a, err := c.Get(context.Background(), remote.Request{Path: path, Query: url.Values{"a": {"b c"}}, Timeout: timeout, Limit: 99})
	if err != nil {
		return "", err
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	return string(b), err
}

func TestGet(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(registry))
	defer server.Close()
	c := client(t, remote.Settings{
		Servers: []string{server.URL + "/v1/"}, UserAgent: "gatehouse/9",
		Header: func() (http.Header, error) { return http.Header{"Authorization": {"Bearer secret"}}, nil },
	})
	if got, err := get(c, "/echo", time.Minute); err != nil || got != "GET a=b+c Bearer secret gatehouse/9" {
		t.Errorf("got %q, %v", got, err)
	}
	host := strings.TrimPrefix(server.URL, "http://")
	f := func(path string, timeout time.Duration, want string) {
		t.Helper()
		got, err := get(c, path, timeout)
		if err == nil || err.Error() != want {
			t.Errorf("%s: got %q, %v\nwant %s", path, got, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Error("the error tells the secret")
		}
	}
	f("/large", time.Minute, host+": the answer has more than 99 bytes")
	f("/away", time.Minute, host+" answered 302: <a href=\"/v1/echo\">Found</a>.")
	f("/slow", 50*time.Millisecond, host+": no answer in time")
	_, err := get(c, "/refused", time.Minute)
	if e := new(remote.StatusError); !errors.As(err, &e) || e.Status != 403 || len(e.Text) > 200 || !strings.HasPrefix(e.Text, "Permission [31m denied yy") {
		t.Errorf("got %v", err)
	}
}

// The message of an answer is not cut off where it begins to be of use.
func TestMessages(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(registry))
	defer server.Close()
	c := client(t, remote.Settings{Servers: []string{server.URL + "/v1"}})
	_, err := c.Get(context.Background(), remote.Request{Path: "/told", Timeout: time.Minute, Limit: 1 << 20})
	e := new(remote.StatusError)
	if !errors.As(err, &e) || len(e.Text) > 600 || !strings.HasPrefix(e.Text, "zzz") || !strings.Contains(e.Text, `zz: [31m"gateway" cannot listzz`) {
		t.Errorf("got %v", err)
	}
}

func TestAnotherServerTakesItsTurn(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(registry))
	defer server.Close()
	gone := "http://" + sockettest.Reserve(t)
	c := client(t, remote.Settings{Servers: []string{gone, server.URL + "/v1"}})
	if _, err := get(c, "/echo", time.Minute); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v", err)
	}
	for range 2 {
		if _, err := get(c, "/echo", time.Minute); err != nil {
			t.Error(err)
		}
	}
	c.Next()
	if _, err := get(c, "/echo", time.Minute); err == nil {
		t.Error("it is still the same one's turn")
	}
}

func TestTLS(t *testing.T) {
	ca, dir := tlstest.NewAuthority(t), t.TempDir()
	server := httptest.NewUnstartedServer(http.HandlerFunc(registry))
	own := ca.Issue(t, tlstest.Request{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}).TLS(t)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{own}}
	server.StartTLS()
	defer server.Close()
	file := filepath.Join(dir, "ca.pem")
	f := func(s dial.TLSSettings, want string) {
		t.Helper()
		_, err := get(client(t, remote.Settings{Servers: []string{server.URL + "/v1"}, TLS: s}), "/echo", time.Minute)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%+v: got %v, want %q", s, err, want)
		}
	}
	f(dial.TLSSettings{}, "certificate")
	f(dial.TLSSettings{CAFile: file}, "authorities")
	if err := os.WriteFile(file, ca.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	f(dial.TLSSettings{CAFile: file}, "")
	f(dial.TLSSettings{CAFile: file, ServerName: "consul.internal"}, "consul.internal")
}

func TestWhatCannotBeAServer(t *testing.T) {
	for _, servers := range [][]string{nil, {"http://[::1"}} {
		if _, err := remote.New(remote.Settings{Servers: servers}); err == nil {
			t.Errorf("%q is accepted", servers)
		}
	}
	c := client(t, remote.Settings{Servers: []string{"http://127.0.0.1:1"}, Header: func() (http.Header, error) { return nil, errors.New("no token") }})
	if _, err := get(c, "/", time.Minute); err == nil || err.Error() != "no token" {
		t.Errorf("got %v", err)
	}
}
