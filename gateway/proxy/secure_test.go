package proxy_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
	secure "github.com/gatehouse-proxy/gatehouse/gateway/upstream/dial"
)

// overTLS has the upstreams of all tests speak TLS. TestOverTLS runs them again so.
var overTLS = os.Getenv(overTLSKey) != ""

const overTLSKey = "GATEHOUSE_TEST_UPSTREAM_TLS"

var ours struct {
	once      sync.Once
	authority *tlstest.Authority
	identity  *tls.Config
}

// identity is whom all upstreams are.
func identity(t testing.TB) *tls.Config {
	ours.once.Do(func() {
		ours.authority = tlstest.NewAuthority(t)
		pair := ours.authority.Issue(t, tlstest.Request{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
		ours.identity = &tls.Config{Certificates: []tls.Certificate{pair.TLS(t)}}
	})
	return ours.identity
}

// dialer connects to the upstreams; nil: as pools do by themselves.
func dialer(t testing.TB) func(ctx context.Context, network, address string) (net.Conn, error) {
	t.Helper()
	if !overTLS {
		return nil
	}
	return trusting(t, nil)
}

// trusting is a dialer that trusts the upstreams' authority; edit may change that.
func trusting(t testing.TB, edit func(*secure.Settings)) func(ctx context.Context, network, address string) (net.Conn, error) {
	t.Helper()
	identity(t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	tlstest.Write(t, file, ours.authority.PEM())
	s := secure.Settings{TLS: &secure.TLSSettings{CAFile: file}, Protocols: []string{"http/1.1"}}
	if edit != nil {
		edit(&s)
	}
	d, err := secure.New(s)
	if err == nil {
		err = d.Load()
	}
	if err != nil {
		t.Fatal(err)
	}
	return d.Dial
}

// socket is what is below c.
func socket(c net.Conn) *net.TCPConn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return c.(*net.TCPConn)
}

// notOverTLS are tests that count allocations or take long, and those of
// HTTP/2, whose endpoints speak it in clear text.
const notOverTLS = "Alloc|TestLarge|TestLong|TestOverTLS|TestUpstreamTLS|HTTP2|TestRefused|TestClientThatLeavesCancels|TestBrokenStreams"

// What a proxy does is the same over TLS: these are all other tests once more.
func TestOverTLS(t *testing.T) {
	if overTLS {
		return
	}
	args := []string{"-test.skip=" + notOverTLS}
	if by, ok := t.Deadline(); ok { // so that it tells what hangs
		args = append(args, fmt.Sprint("-test.timeout=", time.Until(by)-20*time.Second))
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), overTLSKey+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PASS") {
		t.Errorf("%v\n%s", err, out)
	}
}

var quietLog = log.New(io.Discard, "", 0)
