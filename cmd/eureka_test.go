package cmd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

const ofEureka = `
node:
  name: n1
  data_dir: DIR/data
  admin: { address: "127.0.0.1:0" }
  access_log: { path: "off" }
  registry:
    eureka:
      address: "127.0.0.1:0"
      users: { spring: a long enough password }
      tls: { cert_file: DIR/eureka.crt, key_file: DIR/eureka.key }
listeners: { web: { address: "127.0.0.1:0" } }
routes: { all: { match: { path: / }, respond: { body: x } } }
`

func TestEurekaOverTLS(t *testing.T) {
	s, path, _ := settings(t, ofEureka)
	if _, err := newNode(context.Background(), s); err == nil || !strings.Contains(err.Error(), "node.registry.eureka.tls.cert_file: ") {
		t.Fatalf("without a certificate: %v", err)
	}
	dir := filepath.Dir(path)
	ca := tlstest.NewAuthority(t)
	ca.Issue(t, tlstest.Request{Names: []string{"localhost"}}).Write(t, filepath.Join(dir, "eureka.crt"), filepath.Join(dir, "eureka.key"))
	n, err := newNode(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.PEM())
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "localhost"},
	}}
	for password, want := range map[string]int{"a long enough password": 204, "another": 401} {
		body := strings.NewReader(`{"instance":{"hostName":"10.0.0.1","port":{"$":80,"@enabled":"true"}}}`)
		q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+n.eureka.listener.Addr().String()+"/eureka/apps/USERS", body)
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Content-Type", "application/json")
		q.SetBasicAuth("spring", password)
		r, err := client.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != want {
			t.Errorf("with %q: %d", password, r.StatusCode)
		}
	}
	if e := n.registry.Get("users", "10.0.0.1"); e == nil || e.Address(false) != "10.0.0.1:80" {
		t.Errorf("got %+v", e)
	}
}
