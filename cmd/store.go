package cmd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/control/store/local"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis"
	"github.com/gatehouse-proxy/gatehouse/gateway/filewatch"
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
		pem, err := readFile(below(dir, t.CAFile))
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: %s has no certificate in PEM form", t.CAFile)
		}
	}
	if t.CertFile != "" {
		chain, err := readFile(below(dir, t.CertFile))
		if err != nil {
			return nil, fmt.Errorf("cert_file: %w", err)
		}
		key, err := readFile(below(dir, t.KeyFile))
		if err != nil {
			return nil, fmt.Errorf("key_file: %w", err)
		}
		pair, err := tls.X509KeyPair(chain, key)
		if err != nil {
			return nil, fmt.Errorf("cert_file and key_file: %w", err)
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}

// maxFile bounds files of certificates and keys.
const maxFile = 1 << 20

// readFile reads a regular file of that size at most; its error names the file.
func readFile(path string) ([]byte, error) {
	b, err := filewatch.Read(path, maxFile)
	var known *fs.PathError
	if err == nil || errors.As(err, &known) {
		return b, err
	}
	return nil, fmt.Errorf("%s: %w", path, err)
}
