package file

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// replace puts content in place of the file in one step.
func replace(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func TestTheFileIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users.yaml")
	synctest.Test(t, func(t *testing.T) {
		var (
			mu   sync.Mutex
			last upstream.Report
		)
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			New(path).Run(ctx, func(r upstream.Report) {
				mu.Lock()
				defer mu.Unlock()
				last = r
			})
		})
		f := func(want string) {
			t.Helper()
			time.Sleep(2 * time.Second)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			got := fmt.Sprint(last.Endpoints)
			if last.Err != nil {
				got = strings.ReplaceAll(last.Err.Error(), path, "FILE")
			}
			if got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		}
		f(`"FILE": no such file or directory`)
		replace(t, path, "- 10.0.0.1:80\n- { address: users-2:8080, weight: 5, zone: z1, priority: 2 }\n")
		f("[{10.0.0.1:80 1  0} {users-2:8080 5 z1 2}]")
		replace(t, path, `["10.0.0.3:80", {"address": "[2001:db8::1]:80", "weight": 7}]`)
		f("[{10.0.0.3:80 1  0} {[2001:db8::1]:80 7  0}]")
		replace(t, path, "- 10.0.0.1:80\n- 10.0.0.1:80\n- { address: a:0, wait: 3 }")
		f("FILE:3:19: [2].wait: unknown key \"wait\"; known: address, priority, weight, zone")
		replace(t, path, "- 10.0.0.1:80\n- 10.0.0.1:80\n- a:0")
		f("FILE:2:3: [1].address: \"10.0.0.1:80\" is already [0]; give one of them more weight instead\n" +
			"FILE:3:3: [2].address: must be HOST:PORT, got \"a:0\": the port must be from 1 to 65535")
		replace(t, path, "a: 1")
		f("FILE:1:1: must be a list, got a map")
		replace(t, path, `["10.0.0.3:80", `)
		f("FILE:2:1: is not YAML: while parsing a flow node: did not find expected node content")
		replace(t, path, "\n")
		f("FILE: is empty; write [] if there shall be no endpoints")
		replace(t, path, "[a, b, c, d, e]")
		f("FILE:1:2: [0].address: must be HOST:PORT, got \"a\": has no port\nFILE:1:5: [1].address: must be HOST:PORT, got \"b\": has no port\n" +
			"FILE:1:8: [2].address: must be HOST:PORT, got \"c\": has no port\nand 2 more")
		replace(t, path, "[]")
		f("[]")
		stop()
		wg.Wait()
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"- 10.0.0.1:80", `[{"address":"a:1","weight":3,"zone":"z","priority":1}]`, "&a [*a]", "- {address: a:1, weight: 1e9}", "[]"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		list, err := parse(content, "f")
		if (err == nil) == (list == nil) {
			t.Errorf("%v and %v", list, err)
		}
	})
}
