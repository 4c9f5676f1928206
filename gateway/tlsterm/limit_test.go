package tlsterm_test

import (
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

// from is a connection that seems to come from another address.
type from struct {
	*net.TCPConn
	addr net.Addr
}

func (f from) RemoteAddr() net.Addr { return f.addr }

func tcp(address string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(address), Port: 4711} }

// comeFrom makes a handshake from an address.
func comeFrom(t testing.TB, term *tlsterm.Terminator, address string, config *tls.Config) (server, client error) {
	t.Helper()
	c, s := pipe(t)
	done := make(chan error)
	go func() {
		conn, err := term.Handshake(from{s, tcp(address)})
		if err == nil {
			conn.Write([]byte("x"))
		}
		s.Close()
		done <- err
	}()
	tc := tls.Client(c, config)
	if client = tc.Handshake(); client == nil {
		_, client = tc.Read(make([]byte, 1))
	}
	c.Close()
	return <-done, client
}

func TestHandshakesPerClient(t *testing.T) {
	w := newBench(t)
	cert := w.issued("a", tlstest.Request{Names: []string{"a.example"}})
	limited := func(n int64) *tlsterm.Terminator {
		return w.terminator(func(s *tlsterm.Settings) { s.HandshakesPerClient = tlsterm.Rate{Limit: n, Per: time.Hour} }, cert)
	}
	expect := func(what string, term *tlsterm.Terminator, address string, config *tls.Config, allowed bool) {
		t.Helper()
		server, client := comeFrom(t, term, address, config)
		if allowed != (server == nil) || allowed != (client == nil) || !allowed && !errors.Is(server, reason.TLSHandshakesLimited) {
			t.Errorf("%s: %v, client %v", what, server, client)
		}
	}
	plain := &tls.Config{ServerName: "a.example", RootCAs: w.ca.Pool()}
	t.Run("by address", func(t *testing.T) {
		term := limited(2)
		for _, address := range []string{"192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1"} {
			expect("first of "+address, term, address, plain, true)
			expect("second of "+address, term, address, plain, true)
			expect("third of "+address, term, address, plain, false)
		}
		expect("the same network", term, "2001:db8::ffff", plain, false)
		expect("the same address, mapped", term, "::ffff:192.0.2.1", plain, false)
		expect("somebody else", term, "192.0.2.3", plain, true)
	})
	t.Run("a resumed one counts half", func(t *testing.T) {
		term := limited(5)
		client := keeper(w, tls.VersionTLS13, nil)
		expect("full", term, "192.0.2.1", client, true)
		for range 8 {
			expect("resumed", term, "192.0.2.1", client, true)
		}
		expect("one too many", term, "192.0.2.1", client, false)
	})
	t.Run("what only seems to be resumed counts in full", func(t *testing.T) {
		elsewhere := w.terminator(nil, cert)
		term := limited(2)
		for i, allowed := range []bool{true, true, false} {
			client := keeper(w, tls.VersionTLS13, nil)
			resumes(t, elsewhere, client) // a ticket that term does not know
			expect([]string{"first", "second", "third"}[i], term, "192.0.2.1", client, allowed)
		}
	})
	t.Run("refused before it is begun, and in the hello", func(t *testing.T) {
		term := limited(1)
		client := keeper(w, tls.VersionTLS13, nil)
		expect("full", term, "192.0.2.1", client, true)
		expect("resumed, with nothing left", term, "192.0.2.1", client, false)
	})
}

// One address makes handshakes as fast as it can; others are served, and what
// the flood gets is what it is allowed.
func TestFloodFromOneAddress(t *testing.T) {
	w := newBench(t)
	term := w.terminator(func(s *tlsterm.Settings) { s.HandshakesPerClient = tlsterm.Rate{Limit: 10, Per: time.Hour} },
		w.issued("a", tlstest.Request{Names: []string{"a.example"}}))
	const workers, each = 8, 400
	var served, refused atomic.Int64
	var flood sync.WaitGroup
	for range workers {
		flood.Go(func() {
			for range each {
				server, _ := comeFrom(t, term, "192.0.2.66", &tls.Config{InsecureSkipVerify: true})
				switch {
				case server == nil:
					served.Add(1)
				case errors.Is(server, reason.TLSHandshakesLimited):
					refused.Add(1)
				default:
					t.Error(server)
				}
			}
		})
	}
	for i := range 20 {
		address := net.IPv4(198, 51, 100, byte(i)).String()
		if server, client := comeFrom(t, term, address, &tls.Config{ServerName: "a.example", RootCAs: w.ca.Pool()}); server != nil || client != nil {
			t.Errorf("somebody else: %v, %v", server, client)
		}
	}
	flood.Wait()
	if served.Load() != 10 || refused.Load() != workers*each-10 {
		t.Errorf("%d of the flood were served, %d refused", served.Load(), refused.Load())
	}
}

func TestProtocols(t *testing.T) {
	w := newBench(t)
	cert := w.issued("a", tlstest.Request{Names: []string{"a.example"}})
	offers := func(protocols ...string) *tlsterm.Terminator {
		return w.terminator(func(s *tlsterm.Settings) { s.Protocols = protocols }, cert)
	}
	for name, tc := range map[string]struct {
		term   *tlsterm.Terminator
		client []string
		want   string // "-": refused
		says   string
	}{
		"the server's first":      {offers("h2", "http/1.1"), []string{"http/1.1", "h2"}, "h2", ""},
		"what is left":            {offers("h2", "http/1.1"), []string{"http/1.1", "x"}, "http/1.1", ""},
		"nothing offered":         {offers("h2", "http/1.1"), nil, "", ""},
		"only unknown":            {offers("h2", "http/1.1"), []string{"spdy/3", "x"}, "-", "no application protocol"},
		"one offered, another in": {offers("http/1.1"), []string{"h2"}, "-", "no application protocol"},
		"HTTP/2 only":             {offers("h2"), []string{"h2"}, "h2", ""},
		"HTTP/2 only, silent":     {offers("h2"), nil, "-", ""},
		"HTTP/2 only, the other":  {offers("h2"), []string{"http/1.1"}, "-", ""},
		"none at all":             {offers(), []string{"x"}, "", ""},
	} {
		for _, version := range both {
			o := meet(t, tc.term, &tls.Config{ServerName: "a.example", RootCAs: w.ca.Pool(), NextProtos: tc.client, MaxVersion: version})
			if tc.want == "-" {
				if !errors.Is(o.server, reason.TLSNoProtocol) || o.clientErr == nil || tc.says != "" && !contains(o.clientErr, tc.says) {
					t.Errorf("%s: %v, client %v", name, o.server, o.clientErr)
				}
				continue
			}
			if o.server != nil || o.clientErr != nil || o.state.NegotiatedProtocol != tc.want || o.conn.TLS().Protocol != tc.want {
				t.Errorf("%s: %q, %v, %v", name, o.state.NegotiatedProtocol, o.server, o.clientErr)
			}
		}
	}
}

func TestUnknownNames(t *testing.T) {
	w := newBench(t)
	cert := w.issued("a", tlstest.Request{Names: []string{"a.example", "*.b.example"}})
	lax, strict := w.terminator(nil, cert), w.terminator(func(s *tlsterm.Settings) { s.StrictNames = true }, cert)
	for name, known := range map[string]bool{"a.example": true, "x.b.example": true, "c.example": false, "": false} {
		for _, version := range both {
			client := &tls.Config{ServerName: name, InsecureSkipVerify: true, MaxVersion: version}
			if o := meet(t, lax, client); o.server != nil || o.conn.UnknownName() == known {
				t.Errorf("%q: %v", name, o.server)
			}
			o := meet(t, strict, client)
			if known != (o.server == nil) || known != (o.clientErr == nil) {
				t.Errorf("%q, strict: %v, %v", name, o.server, o.clientErr)
			}
			if !known && (!errors.Is(o.server, reason.TLSUnknownName) || !contains(o.clientErr, "unrecognized name")) {
				t.Errorf("%q, strict: %v, %v", name, o.server, o.clientErr)
			}
		}
	}
}

func contains(err error, text string) bool { return err != nil && strings.Contains(err.Error(), text) }
