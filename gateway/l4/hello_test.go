package l4_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/l4"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// clientHello is one as crypto/tls sends it.
func clientHello(t testing.TB, c *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tls.Client(client, c).HandshakeContext(ctx) // is cancelled
	}()
	b := make([]byte, 16<<10)
	n, err := server.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-done
	server.Close()
	client.Close()
	return b[:n]
}

// fragmented puts the same message into records of n bytes.
func fragmented(hello []byte, n int) []byte {
	var out []byte
	for message := hello[5:]; len(message) > 0; {
		p := message[:min(n, len(message))]
		message = message[len(p):]
		out = append(out, 22, 3, 1, byte(len(p)>>8), byte(len(p)))
		out = append(out, p...)
	}
	return out
}

func TestReadsRealHellos(t *testing.T) {
	for name, tc := range map[string]struct {
		config *tls.Config
		want   l4.Hello
	}{
		"plain":         {&tls.Config{ServerName: "db.example.com"}, l4.Hello{ServerName: "db.example.com"}},
		"capitals":      {&tls.Config{ServerName: "DB.Example.COM"}, l4.Hello{ServerName: "db.example.com"}},
		"with ALPN":     {&tls.Config{ServerName: "a", NextProtos: []string{"h2", "http/1.1"}}, l4.Hello{ServerName: "a", Protocols: []string{"h2", "http/1.1"}}},
		"no name":       {&tls.Config{InsecureSkipVerify: true}, l4.Hello{}},
		"an address":    {&tls.Config{ServerName: "192.0.2.1"}, l4.Hello{}},
		"TLS 1.2":       {&tls.Config{ServerName: "old", MaxVersion: tls.VersionTLS12}, l4.Hello{ServerName: "old"}},
		"post-quantum":  {&tls.Config{ServerName: "new", CurvePreferences: []tls.CurveID{tls.X25519MLKEM768}}, l4.Hello{ServerName: "new"}},
		"many protocol": {&tls.Config{ServerName: "m", NextProtos: slices.Repeat([]string{strings.Repeat("x", 200)}, 50)}, l4.Hello{ServerName: "m", Protocols: slices.Repeat([]string{strings.Repeat("x", 200)}, 50)}},
	} {
		t.Run(name, func(t *testing.T) {
			hello := clientHello(t, tc.config)
			for _, size := range []int{len(hello), 1000, 100, 7} {
				whole := append(fragmented(hello, size), "and early data"...)
				if len(whole) > 16<<10 {
					continue
				}
				c, s := net.Pipe()
				go func() {
					for _, b := range whole { // one byte at a time
						c.Write([]byte{b})
					}
				}()
				h, read, err := l4.ReadHello(s, time.Minute)
				if err != nil || h.ServerName != tc.want.ServerName || !slices.Equal(h.Protocols, tc.want.Protocols) {
					t.Errorf("records of %d bytes: %+v, %v", size, h, err)
				}
				rest := make([]byte, len(whole)-len(read))
				if _, err := io.ReadFull(s, rest); err != nil || string(read)+string(rest) != string(whole) {
					t.Errorf("records of %d bytes: what was read is not what was sent (%v)", size, err)
				}
				c.Close()
				s.Close()
			}
		})
	}
}

func TestWhatIsNoHello(t *testing.T) {
	malformed := error(reason.TLSHelloMalformed)
	hello := string(clientHello(t, &tls.Config{ServerName: "a.example"}))
	for name, tc := range map[string]struct {
		text string
		want error
	}{
		"nothing":             {"", l4.ErrNothingSaid},
		"plain HTTP":          {"GET / HTTP/1.1\r\n\r\n", reason.TLSRequired},
		"HTTP/2":              {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", reason.TLSRequired},
		"PROXY v1":            {"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n" + hello, reason.ProxyHeaderUntrusted},
		"PROXY v2":            {"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00" + hello, reason.ProxyHeaderUntrusted},
		"SSH":                 {"SSH-2.0-x\r\n", malformed},
		"an alert":            {"\x15\x03\x01\x00\x02\x02\x50", malformed},
		"SSL 2":               {"\x80\x2e\x01\x00\x02", malformed},
		"TLS 9":               {"\x16\x09\x01\x00\x02xx", malformed},
		"an empty record":     {"\x16\x03\x01\x00\x00", malformed},
		"a record too large":  {"\x16\x03\x01\xff\xff", malformed},
		"a ServerHello":       {"\x16\x03\x01\x00\x04\x02\x00\x00\x00", malformed},
		"a huge message":      {"\x16\x03\x01\x00\x04\x01\xff\xff\xff", malformed},
		"does not parse":      {"\x16\x03\x01\x00\x08\x01\x00\x00\x04\xff\xff\xff\xff", malformed},
		"half":                {hello[:len(hello)/2], malformed},
		"another record kind": {string(fragmented([]byte(hello), 100)[:105]) + "\x17\x03\x03\x00\x01x", malformed},
		"never ends":          {"\x16\x03\x01\x00\x04\x01\x00\x3f\xff" + strings.Repeat("\x16\x03\x01\x00\x01x", 4000), malformed},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := net.Pipe()
			go func() {
				io.WriteString(c, tc.text)
				c.Close()
			}()
			h, _, err := l4.ReadHello(s, time.Minute)
			s.Close()
			if !errors.Is(err, tc.want) || h.ServerName != "" {
				t.Errorf("%+v, %v", h, err)
			}
		})
	}
}

func TestASlowHello(t *testing.T) {
	hello := clientHello(t, &tls.Config{ServerName: "a.example"})
	for _, n := range []int{0, 1, 5, 60} {
		synctest.Test(t, func(t *testing.T) {
			c, s := net.Pipe()
			go func() {
				for _, b := range hello[:n] {
					c.Write([]byte{b})
					time.Sleep(100 * time.Millisecond)
				}
			}()
			began := time.Now()
			_, read, err := l4.ReadHello(s, 10*time.Second)
			if !errors.Is(err, reason.TLSHandshakeTimeout) || time.Since(began) != 10*time.Second || len(read) != n {
				t.Errorf("%d bytes: %v after %v", n, err, time.Since(began))
			}
			c.Close()
			s.Close()
		})
	}
}

func TestTableFindsNames(t *testing.T) {
	a, b, c := new(l4.Route), new(l4.Route), new(l4.Route)
	table := l4.Table{Names: map[string]*l4.Route{"db.example.com": a, ".example.com": b, ".eu.example.com": c}}
	for name, want := range map[string]*l4.Route{
		"db.example.com": a, "DB.example.COM": a, "x.example.com": b, "y.x.example.com": b, "x.eu.example.com": c,
		"eu.example.com": b, "example.com": nil, ".example.com": nil, "xexample.com": nil, "": nil, ".": nil, "com": nil,
	} {
		if table.Find(name) != want {
			t.Errorf("%s: not the route it should be", name)
		}
	}
	if n := testing.AllocsPerRun(100, func() { table.Find("y.x.example.com") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzHello: what crypto/tls and we both take has the same name and protocols,
// and nothing that we refuse is taken by crypto/tls, but for names that no host
// has.
func FuzzHello(f *testing.F) {
	for _, c := range []*tls.Config{
		{ServerName: "a.example", NextProtos: []string{"h2", "http/1.1"}},
		{ServerName: "b", MaxVersion: tls.VersionTLS12},
		{InsecureSkipVerify: true},
	} {
		hello := clientHello(f, c)
		f.Add(hello)
		f.Add(fragmented(hello, 50))
	}
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	errSeen := errors.New("seen")
	f.Fuzz(func(t *testing.T, b []byte) {
		ours, more, err := l4.ParseHello(b)
		if err != nil && (more || ours.ServerName != "" || !errors.As(err, new(*reason.Refusal))) {
			t.Fatalf("%+v, %v, %v", ours, more, err)
		}
		var theirs *tls.ClientHelloInfo
		c, s := net.Pipe()
		go func() { c.Write(b); c.Close() }()
		go io.Copy(io.Discard, c)
		server := tls.Server(s, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			theirs = h
			return nil, errSeen
		}})
		_ = server.Handshake() // never succeeds
		s.Close()
		if theirs == nil {
			return
		}
		if err != nil || more {
			odd := strings.ContainsFunc(theirs.ServerName, func(r rune) bool { return r <= ' ' || r >= 0x7f }) || len(theirs.ServerName) > 255
			coalesced := errors.Is(err, reason.TLSHelloMalformed) // several messages in one record
			if !odd && !coalesced {
				t.Fatalf("crypto/tls reads %q, we say %v, %v", theirs.ServerName, more, err)
			}
			return
		}
		if ours.ServerName != strings.ToLower(theirs.ServerName) || !slices.Equal(ours.Protocols, theirs.SupportedProtos) {
			t.Fatalf("crypto/tls reads %q %q, we %+v", theirs.ServerName, theirs.SupportedProtos, ours)
		}
	})
}

func BenchmarkParseHello(b *testing.B) {
	hello := clientHello(b, &tls.Config{ServerName: "db.example.com"})
	b.ReportAllocs()
	for b.Loop() {
		if _, more, err := l4.ParseHello(hello); more || err != nil {
			b.Fatal(more, err)
		}
	}
}
