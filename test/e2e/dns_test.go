package e2e

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// dnsServer is a real one, which knows *.test and a long answer.
func dnsServer(t *testing.T, address string, more ...string) (addr string, kill func()) {
	t.Helper()
	path, err := exec.LookPath("dnsmasq")
	if err != nil {
		if path = "/usr/sbin/dnsmasq"; exec.Command(path, "--version").Run() != nil {
			t.Fatal("dnsmasq is missing: make setup installs it")
		}
	}
	_, port, _ := net.SplitHostPort(freeAddress(t))
	args := []string{
		"--keep-in-foreground", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces", "--listen-address=127.0.0.1", "--port=" + port,
		"--pid-file=" + filepath.Join(t.TempDir(), "pid"), "--user=", "--edns-packet-max=4096", "--address=/test/" + address,
	}
	for i := range 8 {
		args = append(args, fmt.Sprintf("--txt-record=long.example,%s%d", strings.Repeat("x", 200), i))
	}
	cmd := exec.Command(path, append(args, more...)...)
	var log lockedBuffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	t.Cleanup(kill)
	addr = "127.0.0.1:" + port
	c := dns.Client{Timeout: 5 * time.Second}
	q := new(dns.Msg)
	q.SetQuestion("up.test.", dns.TypeA)
	if err := awaited(func() error { _, _, err := c.Exchange(q, addr); return err }, nil); err != nil {
		t.Fatalf("dnsmasq does not answer: %v\n%s", err, log.String())
	}
	return addr, kill
}

// TestDNSThroughTheGateway: many clients at once, long answers, and one of two
// servers killed, which no client notices.
func TestDNSThroughTheGateway(t *testing.T) {
	one, kill := dnsServer(t, "10.0.0.1")
	two, _ := dnsServer(t, "10.0.0.2")
	g := prepare(t, "")
	at := freeAddress(t)
	_, port, _ := net.SplitHostPort(at)
	g.writeRaw(g.text("") + fmt.Sprintf(`  dns: { address: ":%s", protocol: udp, backends: [{ upstream: dns }], udp: { replies: 1 }, timeouts: { idle: 5s } }
  dns-tcp: { address: ":%s", protocol: tcp, backends: [{ upstream: dns }] }
upstreams: { dns: { endpoints: [%q, %q], load_balancer: { algorithm: round_robin }, health_check: { type: tcp, interval: 500ms, timeout: 500ms } } }
`, port, port, one, two))
	g.run()
	g.waitReady()
	ask := func(name string, kind uint16, network string) (*dns.Msg, error) {
		q := new(dns.Msg)
		q.SetQuestion(name, kind)
		q.SetEdns0(4096, false)
		c := dns.Client{Net: network, Timeout: time.Minute}
		a, _, err := c.Exchange(q, at)
		return a, err
	}
	flood := func() map[string]int {
		var mu sync.Mutex
		answers := map[string]int{}
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				for j := range 10 {
					a, err := ask(fmt.Sprintf("h%d-%d.test.", i, j), dns.TypeA, "udp")
					if err != nil || len(a.Answer) != 1 {
						t.Errorf("client %d, question %d: %v, %v", i, j, a, err)
						continue
					}
					mu.Lock()
					answers[a.Answer[0].(*dns.A).A.String()]++
					mu.Unlock()
				}
			})
		}
		all.Wait()
		return answers
	}
	if got := flood(); got["10.0.0.1"] < 150 || got["10.0.0.2"] < 150 {
		t.Errorf("answers: %v", got)
	}
	a, err := ask("long.example.", dns.TypeTXT, "udp")
	if err != nil || len(a.Answer) != 8 || a.Truncated {
		t.Errorf("a long answer: %v, %v", a, err)
	}
	if a, err := ask("x.test.", dns.TypeA, "tcp"); err != nil || len(a.Answer) != 1 {
		t.Errorf("over TCP: %v, %v", a, err)
	}
	kill()
	if got := flood(); got["10.0.0.2"] != 500 {
		t.Errorf("after one was killed: %v", got)
	}
	g.accessLine("a session", func(m map[string]any) bool {
		return m["listener"] == "dns" && m["protocol"] == "UDP" && m["upstream"] == "dns" && m["status"] == 200.0
	})
	if got := g.metric(`gatehouse_listener_connections_total{listener="dns"}`); got < 1001 {
		t.Errorf("%v sessions counted", got)
	}
	g.eventually("sessions end with their answers", func() error {
		return is(g.metric(`gatehouse_listener_connections_open{listener="dns"}`), 0)
	})
	g.stop()
}
