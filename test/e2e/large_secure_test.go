package e2e

import (
	"fmt"
	"io"
	"net/http"
	"testing"
)

// What passes by HTTP/2 and HTTP/3 is not held either: their windows bound it.
func TestLargeBodiesOverTLSInConstantMemory(t *testing.T) {
	const size = 128 << 20
	n := prepareMany(t, "", fmt.Sprintf("upstreams: { app: { endpoints: [%q] } }\nroutes: { all: { match: { path: / }, backends: [{ upstream: app }] } }\n",
		upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "POST" {
				n, err := io.Copy(io.Discard, r.Body)
				fmt.Fprint(w, n, err)
				return
			}
			_, _ = io.CopyN(w, zeros{}, size)
		})))
	n.begin()
	for _, protocol := range []string{"h2", "h3"} {
		ask := func(method string, body io.Reader) *http.Response {
			t.Helper()
			req, err := http.NewRequest(method, "https://"+n.secure+"/", body)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := n.clients[protocol].RoundTrip(req)
			if err != nil {
				t.Fatalf("%s: %v", protocol, err)
			}
			return resp
		}
		_, _ = io.CopyN(io.Discard, ask("GET", nil).Body, 1<<20) // buffers and pools are there now
		before, most := n.rss(), int64(0)
		watch := func(r io.Reader) io.Reader {
			return &watched{Reader: r, every: 16 << 20, f: func() { most = max(most, n.rss()) }}
		}
		resp := ask("GET", nil)
		got, err := io.Copy(io.Discard, watch(resp.Body))
		resp.Body.Close()
		if got != size || err != nil {
			t.Errorf("%s: %d bytes, %v", protocol, got, err)
		}
		resp = ask("POST", watch(io.LimitReader(zeros{}, size)))
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(b) != fmt.Sprint(size, nil) {
			t.Errorf("%s: upload: %s %q %v", protocol, resp.Status, b, err)
		}
		t.Logf("%s: %d MiB resident before, at most %d MiB while 2 × %d MiB passed", protocol, before>>20, most>>20, size>>20)
		if most-before > 32<<20 {
			t.Errorf("%s: memory has grown by %d MiB", protocol, (most-before)>>20)
		}
	}
}
