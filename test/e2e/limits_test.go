package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/control/store/redis/redistest"
)

// limitedNode starts a node whose config is a file, and whose limits are those
// of everybody with the same Redis.
func limitedNode(t *testing.T, name, redis string) *gatehouse {
	t.Helper()
	g := prepare(t, "")
	g.writeRaw(fmt.Sprintf(`node:
  name: %s
  data_dir: %s
  admin: { address: %q }
  access_log: { path: "off" }
  drain: { timeout: 30s }
  store: { redis: { addresses: [%q] } }
listeners: { web: { address: %q } }
routes:
  ping: { match: { path: /ping }, respond: { body: pong } }
  all:
    match: { path: / }
    plugins: [{ rate_limit: { limit: 1, per: 1h, burst: 10, key: query.k, scope: global } }]
    respond: { body: hello }
`, name, g.dataDir, g.admin, redis, g.web))
	g.startAgain()
	g.waitReady()
	return g
}

func TestTwoNodesShareALimit(t *testing.T) {
	server := redistest.Start(t)
	nodes := []*gatehouse{limitedNode(t, "a", server.Address), limitedNode(t, "b", server.Address)}
	nodes[0].eventually("it lists both", func() error {
		code, out, errs := nodes[0].cli("status")
		if code != 0 || !strings.Contains(out, "\na ") || !strings.Contains(out, "\nb ") {
			return errors.New(out + errs)
		}
		return nil
	})
	// granted asks both nodes in turn, 40 times in all.
	granted := func(key string) (n int) {
		for i := range 40 {
			r, err := client.Get("http://" + nodes[i%2].web + "/?k=" + key)
			if err != nil {
				t.Fatal(err)
			}
			r.Body.Close()
			switch r.StatusCode {
			case http.StatusOK:
				n++
			case http.StatusTooManyRequests:
			default:
				t.Errorf("status %d", r.StatusCode)
			}
		}
		return n
	}
	// On a busy machine Redis may seem to be away for a moment, and a node grants
	// its part: half of the burst each.
	try := 0
	nodes[0].eventually("one limit for both", func() error {
		try++
		if n := granted(fmt.Sprint("key", try)); n != 10 {
			return fmt.Errorf("%d granted of 10", n)
		}
		return nil
	})
	server.Kill(t)
	if n := granted("away"); n < 10 || n > 20 {
		t.Errorf("%d granted without Redis", n)
	}
	server.Run(t)
	nodes[0].eventually("one limit again", func() error {
		try++
		if n := granted(fmt.Sprint("key", try)); n != 10 {
			return fmt.Errorf("%d granted of 10", n)
		}
		return nil
	})
	for _, g := range nodes {
		g.stop()
	}
}
