package cmd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/gateway/socket"
	"github.com/gatehouse-proxy/gatehouse/mesh/eureka"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
)

// eurekaServer is Eureka's interface to the registry, with its socket.
type eurekaServer struct {
	*eureka.Server
	listener net.Listener
}

// eurekaLabel is what its socket is called among others.
const eurekaLabel = "eureka"

// eurekaLeave is how long its requests may take to finish.
const eurekaLeave = 5 * time.Second

// openEureka binds the address for clients of Eureka, if there is one. Nobody is
// served yet.
func (n *node) openEureka(ctx context.Context, s nodeSettings) error {
	c := s.config.Node.Registry.Eureka
	if c == nil {
		return nil
	}
	x := eureka.Settings{
		Registry: n.registry, Open: c.Auth == "none", Users: map[string]string{},
		MaxBody: int(c.MaxBody), MaxRequests: c.MaxRequests, Log: n.log,
	}
	for name, password := range c.Users {
		x.Users[name] = password.Reveal()
	}
	var err error
	if x.TLS, err = eurekaTLS(c.TLS, s.source.Dir); err != nil {
		return fmt.Errorf("node.registry.eureka.tls.%w", err)
	}
	l, err := s.sockets.Listen(ctx, eurekaLabel, c.Address)
	if err != nil {
		return s.unbound("node.registry.eureka.address", err)
	}
	n.eureka = &eurekaServer{eureka.New(x), l}
	n.metrics.Eureka(func() []metrics.EurekaCount {
		var list []metrics.EurekaCount
		for what, count := range n.eureka.Requests() {
			list = append(list, metrics.EurekaCount{Operation: what.Operation, Result: what.Result, Count: count})
		}
		return list
	})
	return nil
}

func eurekaTLS(c *config.EurekaTLS, dir string) (*tls.Config, error) {
	if c == nil {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(below(dir, c.CertFile), below(dir, c.KeyFile))
	if err != nil {
		return nil, fmt.Errorf("cert_file: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}, nil
}

// serveEureka begins to answer.
func (n *node) serveEureka() {
	if n.eureka != nil {
		n.eureka.Serve(n.eureka.listener)
		n.log.Info("clients of Eureka are served", "address", n.eureka.listener.Addr().String())
	}
}

// closeEureka ends it; twice is allowed.
func (n *node) closeEureka(ctx context.Context) error {
	if n.eureka == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, eurekaLeave)
	defer cancel()
	err := n.eureka.Close(ctx)
	if c := n.eureka.listener.Close(); !errors.Is(c, net.ErrClosed) {
		err = errors.Join(err, c)
	}
	return err
}

// Socket is the one that it listens on.
func (s *eurekaServer) Socket() socket.Socket {
	return socket.Socket{Label: eurekaLabel, Network: "tcp", Conn: s.listener.(syscall.Conn)}
}
