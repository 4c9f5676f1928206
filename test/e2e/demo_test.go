package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// call is one curl command the demo advertises, and how often it is made.
type call struct {
	method, url string
	header      http.Header
	times       int
}

var (
	curlURL    = regexp.MustCompile(`http://[^\s"';]+`)
	curlMethod = regexp.MustCompile(`-X (\w+)`)
	curlHeader = regexp.MustCompile(`-H '([^:]+): ([^']+)'`)
	curlLoop   = regexp.MustCompile(`^for i in ([\d ]+);`)
)

// parseCurl reads a line of the demo's text.
func parseCurl(line string) call {
	c := call{method: "GET", url: curlURL.FindString(line), header: http.Header{}, times: 1}
	if m := curlMethod.FindStringSubmatch(line); m != nil {
		c.method = m[1]
	}
	for _, m := range curlHeader.FindAllStringSubmatch(line, -1) {
		c.header.Set(m[1], m[2])
	}
	if m := curlLoop.FindStringSubmatch(line); m != nil {
		c.times = len(strings.Fields(m[1]))
	}
	return c
}

// make does what the command does and returns "STATUS body" of every call.
func (c call) make(t *testing.T) (got []string) {
	t.Helper()
	for range c.times {
		req, err := http.NewRequest(c.method, c.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = c.header.Clone()
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(resp.StatusCode, " ", string(b)))
	}
	return got
}

// startDemo runs the demo and returns the commands it prints, by scenario.
func startDemo(t *testing.T, out *lockedBuffer, args ...string) (cmd *exec.Cmd, exited chan error, scenarios [][]call) {
	t.Helper()
	cmd = exec.Command(binary, append([]string{"demo"}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited = make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // most tests have stopped it
		if t.Failed() {
			t.Logf("the demo said:\n%s", out)
		}
	})
	until(t, "the demo is ready", func() error {
		if !strings.Contains(out.String(), "Ctrl-C ends it.") {
			return fmt.Errorf("it says %s", out)
		}
		return nil
	})
	scenario := regexp.MustCompile(`^  \d\. `)
	for line := range strings.Lines(out.String()) {
		switch text := strings.TrimSpace(line); {
		case scenario.MatchString(line):
			scenarios = append(scenarios, nil)
		case len(scenarios) > 0 && strings.Contains(text, "curl "):
			scenarios[len(scenarios)-1] = append(scenarios[len(scenarios)-1], parseCurl(text))
		}
	}
	return cmd, exited, scenarios
}

func TestDemo(t *testing.T) {
	busy := upstreamServer(t, func(http.ResponseWriter, *http.Request) {})
	out := &lockedBuffer{}
	// One address is taken: the demo finds another.
	cmd, exited, scenarios := startDemo(t, out, "--address", busy, "--admin", freeAddress(t))
	if len(scenarios) != 5 {
		t.Fatalf("%d scenarios", len(scenarios))
	}
	all := func(i int) (got []string) {
		for _, c := range scenarios[i-1] {
			got = append(got, c.make(t)...)
		}
		return got
	}
	if got := append(all(1), all(1)...); !strings.HasPrefix(got[0], "200 hello from ") || !strings.HasPrefix(got[1], "200 hello from ") || got[0] == got[1] {
		t.Errorf("a call: %q; want the answers of a and b", got)
	}
	if got := all(2); len(got) != 1 || !strings.HasPrefix(got[0], "403 ") || !strings.Contains(got[0], "waf_blocked") {
		t.Errorf("an SQL injection: %q", got)
	}
	// One more is granted every ten thirds of a second.
	began := time.Now()
	got := all(3)
	more := int(time.Since(began) / (3 * time.Second))
	if len(got) != 5 || !each(got[:3], "200 ") || more == 0 && !each(got[3:], "429 ") {
		t.Errorf("a rate limit: %q", got)
	}
	if got := all(4); len(got) != 2 || !strings.HasPrefix(got[0], "401 ") || !strings.HasPrefix(got[1], "200 hello from ") {
		t.Errorf("credentials: %q", got)
	}
	if got := all(5); len(got) != 6 || !strings.Contains(got[0], "plays dead") || !each(got[1:5], "200 hello from b") {
		t.Errorf("failover: %q", got)
	}
	until(t, "a is back", func() error {
		if got := append(all(1), all(1)...); !strings.Contains(strings.Join(got, ""), "from a") {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
	if strings.Contains(out.String(), "http://"+busy+"/") {
		t.Error("it says that it has the address that was taken")
	}
	// Ctrl-C ends it, and nothing stays behind.
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-exited:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it did not end")
	}
	// Its ports may be somebody else's by now; they were its own as long as one of
	// its processes lived.
	if err := syscall.Kill(-cmd.Process.Pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("a process of it is still there (%v)", err)
	}
	if dir := regexp.MustCompile(`Config: (\S+)/gatehouse\.yaml`).FindStringSubmatch(out.String()); dir == nil || exists(dir[1]) {
		t.Errorf("its folder is still there: %q", dir)
	}
}

func each(list []string, prefix string) bool {
	for _, s := range list {
		if !strings.HasPrefix(s, prefix) {
			return false
		}
	}
	return true
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
