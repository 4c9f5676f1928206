package e2e

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"
)

// A client that goes away ends the work that is done for it.
func TestHangUpCancelsUpstreamWork(t *testing.T) {
	arrived, left := make(chan string, 1), make(chan error, 1)
	g := startStreams(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/warm" {
			return
		}
		var err error
		switch r.URL.Path {
		case "/waiting", "/guarded/waiting":
			arrived <- r.URL.Path
			<-r.Context().Done()
			err = r.Context().Err()
		case "/uploading":
			arrived <- r.URL.Path
			_, err = io.Copy(io.Discard, r.Body)
		case "/downloading", "/guarded/downloading":
			arrived <- r.URL.Path
			for err == nil {
				_, err = io.CopyN(w, letters{}, 64<<10)
			}
		}
		left <- err
	})
	before := g.footprint()
	for range 5 {
		for _, path := range []string{"/waiting", "/guarded/waiting", "/uploading", "/downloading", "/guarded/downloading"} {
			ctx, cancel := context.WithCancel(t.Context())
			body, method := io.Reader(nil), "GET"
			if path == "/uploading" {
				body, method = letters{}, "POST"
			}
			req, err := http.NewRequestWithContext(ctx, method, "http://"+g.web+path, body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-API-Key", "alice-key")
			done := make(chan error, 1)
			go func() {
				resp, err := client.Do(req)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
				done <- err
			}()
			if at := <-arrived; at != path {
				t.Fatalf("arrived at %s, not %s", at, path)
			}
			cancel()
			select {
			case err := <-left:
				if err == nil {
					t.Errorf("%s: the upstream was told of nothing", path)
				}
			case <-time.After(time.Minute):
				t.Fatalf("%s: the upstream is still at work", path)
			}
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
	line := g.accessLine("who went away", func(m map[string]any) bool { return m["path"] == "/waiting" })
	if line["status"] != 499.0 || line["reason"] != "client_gone" || line["flags"] != "DC" {
		t.Errorf("access log line %v", line)
	}
	g.leavesNothing(before)
}
