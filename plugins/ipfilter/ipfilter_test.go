package ipfilter

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

const get = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"

func TestConformance(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "deny.txt"), []byte("# bad people\n203.0.113.0/24 # test\n\n::dead\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	plugintest.Run(t, Factory(), plugintest.Options{
		Good:     []string{`{allow: [192.0.2.0/24], deny: [192.0.2.66, "fd00::/8"], deny_file: deny.txt}`, "{deny: ['::/0']}"},
		Settings: plugins.Settings{Dir: dir},
		Bad: []plugintest.Bad{
			{YAML: "{}", Want: "allow: must have a network"},
			{YAML: "allow: [10.0.0.1/8]", Want: "did you mean 10.0.0.0/8?"},
			{YAML: "deny: [example.com]", Want: "must be an address or a network"},
			{YAML: "deny: ['fe80::1%eth0']", Want: "must be an address"},
			{YAML: "deny: ['::ffff:0:0/90']", Want: "mixes IPv4 and IPv6"},
			{YAML: "{deny: [10.0.0.1], address: nobody}", Want: "address"},
		},
	})
}

func start(t *testing.T, yaml, dir string) (plugins.Instance, error) {
	t.Helper()
	f := Factory()
	c := f.Config()
	if err := strict.Unmarshal([]byte(yaml), c); err != nil {
		t.Fatal(err)
	}
	in, err := f.New(c, plugins.Settings{Dir: dir, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return in, in.Start(context.Background())
}

func TestWhoPasses(t *testing.T) {
	for _, tc := range []struct {
		config, client, peer string
		ok                   bool
	}{
		{"allow: [192.0.2.0/24]", "192.0.2.200", "", true},
		{"allow: [192.0.2.0/24]", "192.0.3.1", "", false},
		{"allow: [192.0.2.0/24]", "2001:db8::1", "", false},
		{"allow: ['::ffff:192.0.2.0/120']", "192.0.2.200", "", true},
		{"allow: [192.0.2.0/24]", "::ffff:192.0.2.1", "", true},
		{"{allow: [192.0.2.0/24], deny: [192.0.2.1]}", "192.0.2.1", "", false},
		{"{allow: [192.0.2.1], deny: [192.0.2.0/24]}", "192.0.2.1", "", false},
		{"deny: [192.0.2.0/24]", "192.0.3.1", "", true},
		{"deny: ['2001:db8::/32']", "2001:db8:1::1", "", false},
		{"deny: ['fe80::/10']", "fe80::1%eth0", "", false},
		{"allow: ['0.0.0.0/0']", "198.51.100.1", "", true},
		{"{deny: [192.0.2.1], address: peer}", "192.0.2.1", "198.51.100.1", true},
		{"{deny: [198.51.100.1], address: peer}", "192.0.2.1", "198.51.100.1", false},
	} {
		in, err := start(t, tc.config, "")
		if err != nil {
			t.Fatal(err)
		}
		r := plugintest.Do(t, plugintest.Request{Raw: get, Client: strings.Split(tc.client, "%")[0], Edit: func(e *exchange.Exchange) {
			e.Client = netip.MustParseAddr(tc.client)
			if tc.peer != "" {
				e.Peer = netip.AddrPortFrom(netip.MustParseAddr(tc.peer), 1)
			}
		}}, in.Handle, plugintest.Upstream)
		if (r.Status == 200) != tc.ok || !tc.ok && r.Refusal.Reason != reason.IPDenied {
			t.Errorf("%s, client %s, peer %s: status %d", tc.config, tc.client, tc.peer, r.Status)
		}
	}
}

func TestFileIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "allow.txt")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := start(t, "allow_file: allow.txt", dir); err == nil || !strings.HasPrefix(err.Error(), "allow_file: ") {
		t.Errorf("missing file: %v", err)
	}
	write("10.0.0.0/8\nnonsense\n")
	if _, err := start(t, "allow_file: allow.txt", dir); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("bad line: %v", err)
	}
	write("192.0.2.1\n")
	synctest.Test(t, func(t *testing.T) {
		in, err := start(t, "{allow_file: allow.txt, deny: [198.51.100.1]}", dir)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = in.Close(t.Context()) }()
		passes := func(client string) bool {
			return plugintest.Do(t, plugintest.Request{Raw: get, Client: client}, in.Handle, plugintest.Upstream).Status == 200
		}
		if !passes("192.0.2.1") || passes("192.0.2.2") {
			t.Error("the first content does not count")
		}
		write("192.0.2.2\n198.51.100.0/24\n")
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if passes("192.0.2.1") || !passes("192.0.2.2") || passes("198.51.100.1") {
			t.Error("the new content does not count")
		}
		write("broken")
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if !passes("192.0.2.2") {
			t.Error("a broken file changed something")
		}
	})
}

func BenchmarkHandle100k(b *testing.B) {
	var text strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&text, "%d.%d.%d.0/24\n", 11+i/65536, i/256%256, i%256)
	}
	more, err := read([]byte(text.String()))
	if err != nil {
		b.Fatal(err)
	}
	t := new(list).build(more)
	a := netip.MustParseAddr("11.200.7.9")
	b.ReportAllocs()
	for b.Loop() {
		if !t.Contains(a) {
			b.Fatal("not there")
		}
	}
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))
