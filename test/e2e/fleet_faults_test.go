package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store/redis/redistest"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

// busy keeps a node under requests until stop, which returns how many there were
// and what went wrong with the first that failed.
func (g *gatehouse) busy() (stop func() (int64, error)) {
	var n atomic.Int64
	var failed atomic.Pointer[error]
	end := make(chan struct{})
	var done sync.WaitGroup
	c := &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}
	done.Go(func() {
		defer c.CloseIdleConnections()
		for {
			select {
			case <-end:
				return
			case <-time.After(5 * time.Millisecond):
			}
			r, err := c.Get("http://" + g.web + "/")
			if err == nil {
				_, err = io.Copy(io.Discard, r.Body)
				err = errors.Join(err, r.Body.Close())
				if err == nil && r.StatusCode != http.StatusOK {
					err = errors.New(r.Status)
				}
			}
			if n.Add(1); err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		}
	})
	return func() (int64, error) {
		close(end)
		done.Wait()
		if err := failed.Load(); err != nil {
			return n.Load(), *err
		}
		return n.Load(), nil
	}
}

// Whatever happens to Redis, no request fails for it, and afterwards every node
// takes what is published without having been restarted.
func TestFaultsOfTheStoreCostNoRequest(t *testing.T) {
	server := redistest.Start(t)
	a := fleetNode(t, "a", server.Address, "enabled: true", "")
	var key string
	a.eventually("it shows its key", func() error {
		_, out, errs := a.cli("status")
		i := strings.Index(out, "ed25519:")
		if i < 0 {
			return errors.New(out + errs)
		}
		key = strings.Fields(out[i:])[0]
		return nil
	})
	trusting := fmt.Sprintf("enabled: false, trusted_keys: [%q]", key)
	nodes := []*gatehouse{a, fleetNode(t, "b", server.Address, trusting, ""), fleetNode(t, "c", server.Address, trusting, "")}
	shared := filepath.Join(t.TempDir(), "shared.yaml")
	apply := func(text string) (int, string, string) {
		t.Helper()
		if err := os.WriteFile(shared, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return a.cli("apply", "-c", shared, "-m", "a test")
	}
	everywhere := func(body string) {
		t.Helper()
		a.eventually(body+" can be published to all", func() error {
			if code, out, errs := apply(fmt.Sprintf(sharedConfig, body)); code != 0 || !strings.Contains(out, "live on a, b, c\n") {
				return errors.New(out + errs)
			}
			return nil
		})
		for _, g := range nodes {
			g.answers(body)
		}
	}
	everywhere("first")
	var stops []func() (int64, error)
	for _, g := range nodes {
		stops = append(stops, g.busy())
	}
	told := func(text string) {
		t.Helper()
		a.eventually("the status says "+text, func() error {
			if code, out, errs := a.cli("status"); code != 1 || !strings.Contains(out, text) {
				return errors.New(out + errs)
			}
			return nil
		})
	}
	for _, fault := range []struct {
		name, told string
		begin, end func()
	}{
		{"paused", "store: does not answer since ", func() { server.Pause(t) }, func() { server.Resume(t) }},
		{"full", "store: answers, but cannot be written to since ", func() { server.Do(t, "CONFIG", "SET", "maxmemory", "1") }, func() { server.Do(t, "CONFIG", "SET", "maxmemory", "0") }},
		{"replica", "store: answers, but cannot be written to since ", func() { server.Do(t, "REPLICAOF", "127.0.0.1", "1") }, func() { server.Do(t, "REPLICAOF", "NO", "ONE") }},
		{"locked", "Redis refuses the user or the password", func() {
			server.Do(t, "ACL", "SETUSER", "tester", "on", "nopass", "~*", "&*", "+@all")
			server.Do(t, "AUTH", "tester", "x")
			server.Do(t, "CONFIG", "SET", "requirepass", "other")
			server.Do(t, "CLIENT", "KILL", "USER", "default", "SKIPME", "yes")
		}, func() {
			server.Do(t, "AUTH", "tester", "x")
			server.Do(t, "CONFIG", "SET", "requirepass", "")
		}},
		{"killed", "store: does not answer since ", func() { server.Kill(t) }, func() { server.Run(t) }},
	} {
		fault.begin()
		told(fault.told)
		if code, out, errs := apply(fmt.Sprintf(sharedConfig, "never")); code != 1 {
			t.Errorf("%s: published all the same: %s%s", fault.name, out, errs)
		}
		fault.end()
		everywhere("after-" + fault.name)
	}

	// A certificate that is on two of three machines.
	pair := tlstest.NewAuthority(t).Issue(t, tlstest.Request{Names: []string{"a.test"}})
	for _, g := range nodes[:2] {
		dir := filepath.Dir(g.config)
		pair.Write(t, filepath.Join(dir, "a.crt"), filepath.Join(dir, "a.key"))
	}
	secure := strings.Replace(fmt.Sprintf(sharedConfig, "secure"), "\n", "\ncertificates: { a: { cert_file: a.crt, key_file: a.key } }\n", 1)
	secure = strings.Replace(secure, `"${WEB}" }`, `"${WEB}" }, tls: { address: "127.0.0.1:0", tls: { certificates: [a] } }`, 1)
	a.eventually("what one node refuses is taken back", func() error {
		code, out, errs := apply(secure)
		if code != 1 || strings.Contains(errs, "node b") {
			t.Errorf("code %d: %s%s", code, out, errs)
		}
		if !strings.Contains(errs, "node c refused revision ") || !strings.Contains(errs, "a.key") || !strings.Contains(errs, "back to the config of revision ") {
			everywhere("after-killed") // Redis was late, as it may be on a busy machine
			return errors.New(out + errs)
		}
		return nil
	})
	a.eventually("all is well", func() error {
		if code, out, errs := a.cli("status"); code != 0 {
			return errors.New(out + errs)
		}
		return nil
	})
	for i, stop := range stops {
		if n, err := stop(); err != nil || n < 100 {
			t.Errorf("node %d: %d requests, %v", i, n, err)
		}
	}
	for _, g := range nodes {
		g.answers("after-killed")
		g.stop()
	}
}
