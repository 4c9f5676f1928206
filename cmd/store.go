package cmd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/control/store/local"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis"
)

// newStore makes what node.store names. It connects to nothing and opens no file
// before it is used.
func newStore(c config.Node, dir string) (store.Store, error) {
	r := c.Store.Redis
	if r == nil {
		return local.New(c.DataDir), nil
	}
	s := redis.Settings{
		Addresses: r.Addresses, Sentinel: r.Sentinel, Cluster: r.Cluster,
		Username: r.Username, Password: r.Password.Reveal(),
		SentinelUsername: r.SentinelUsername, SentinelPassword: r.SentinelPassword.Reveal(),
		DB: r.DB, Prefix: r.Prefix, Timeout: r.Timeout.D(),
	}
	if r.TLS != nil {
		var err error
		if s.TLS, err = storeTLS(r.TLS, dir); err != nil {
			return nil, fmt.Errorf("node.store.redis.tls.%w", err)
		}
	}
	return redis.New(s), nil
}

// openStoreFile opens the file of a local store now, so that one that cannot be
// is found at the start. A store elsewhere may be away then.
func (n *node) openStoreFile() error {
	if s, ok := n.store.(*local.Store); ok {
		return s.Ping(context.Background())
	}
	return nil
}

func storeTLS(t *config.RedisTLS, dir string) (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := os.ReadFile(below(dir, t.CAFile))
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: %s has no certificate in PEM form", t.CAFile)
		}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(below(dir, t.CertFile), below(dir, t.KeyFile))
		if err != nil {
			return nil, fmt.Errorf("cert_file: %w", err)
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}
