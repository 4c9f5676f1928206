package gateway_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/proxyproto"
)

const ask = "GET /x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"

// TestProxiesNameTheirClients: over a node whose listener speaks the PROXY
// protocol with 127.0.0.1 alone.
func TestProxiesNameTheirClients(t *testing.T) {
	n := newNode(t)
	l := listener(t, "web", at("", "/", answer("r")))
	l.Proxies = proxyproto.NewPolicy([]netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, time.Minute)
	l.Server.MaxPerClient = 2
	n.swap(t, snap(l))
	url := n.url(t, "web")
	for text, want := range map[string]string{
		"PROXY TCP4 192.0.2.1 10.0.0.1 1234 80\r\n" + ask:                                "r a.test /x  192.0.2.1 http web",
		"PROXY TCP6 2001:db8::7 2001:db8::8 1234 80\r\n" + ask:                           "r a.test /x  2001:db8::7 http web",
		"PROXY UNKNOWN\r\n" + ask:                                                        "r a.test /x  127.0.0.1 http web",
		"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00" + ask:                                   "r a.test /x  127.0.0.1 http web",
		"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\nPROXY TCP4 192.0.2.9 10.0.0.1 1 2\r\n\r\n": `"reason":"proxy_header_untrusted"`,
	} {
		if got := raw(t, url, text); !strings.Contains(got, want) {
			t.Errorf("%q: %s", text, got)
		}
	}
	for i, text := range []string{ask, "PROXY TCP4 nonsense\r\n" + ask} {
		c := dialFrom(t, url, "127.0.0.1")
		io.WriteString(c, text)
		if b, _ := io.ReadAll(c); len(b) > 0 {
			t.Errorf("%d: %q", i, b)
		}
	}
	dialFrom(t, url, "127.0.0.1").Close() // a health check: nobody's fault

	other := dialFrom(t, url, "127.0.0.2")
	io.WriteString(other, ask)
	if b, _ := io.ReadAll(other); !strings.Contains(string(b), " 127.0.0.2 ") {
		t.Errorf("without a header, from elsewhere: %q", b)
	}
	liar := dialFrom(t, url, "127.0.0.2")
	io.WriteString(liar, "PROXY TCP4 192.0.2.1 10.0.0.1 1234 80\r\n"+ask)
	if b, _ := io.ReadAll(liar); !strings.Contains(string(b), `"reason":"proxy_header_untrusted"`) {
		t.Errorf("with a header, from elsewhere: %q", b)
	}

	// Two connections of one client, then a third; meanwhile the proxy has more.
	var open []net.Conn
	for range 2 {
		c := dialFrom(t, url, "127.0.0.1")
		io.WriteString(c, "PROXY TCP4 192.0.2.7 10.0.0.1 1234 80\r\n"+strings.Replace(ask, "Connection: close\r\n", "", 1))
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	if got := raw(t, url, "PROXY TCP4 192.0.2.8 10.0.0.1 1234 80\r\n"+ask); !strings.Contains(got, " 192.0.2.8 ") {
		t.Errorf("another client: %s", got)
	}
	third := dialFrom(t, url, "127.0.0.1")
	io.WriteString(third, "PROXY TCP4 192.0.2.7 10.0.0.1 1234 80\r\n"+ask)
	if b, _ := io.ReadAll(third); len(b) > 0 {
		t.Errorf("a third connection of one client: %q", b)
	}
	for reason, want := range map[string]int{
		"proxy_header_untrusted": 2, "proxy_header_missing": 1, "proxy_header_malformed": 1, "too_many_connections": 1,
	} {
		eventually(t, fmt.Sprint(reason, " is counted ", want, " times"), func() bool {
			got, _ := n.find(t, "gatehouse_listener_protocol_refusals_total web "+reason)
			return got == fmt.Sprint(want)
		})
	}
	for _, c := range open {
		c.Close()
	}
}

// dialFrom connects from an address of loopback.
func dialFrom(t testing.TB, url, from string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}
