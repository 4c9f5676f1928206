package e2e

import (
	"fmt"
	"io"
	"net/http"
	"testing"
)

func TestLargeBodiesInConstantMemory(t *testing.T) {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	h2c := &http.Client{Transport: &http.Transport{Protocols: protocols, DisableCompression: true}}
	t.Cleanup(h2c.CloseIdleConnections)
	// Neither of them minds how long a transfer takes.
	h1 := &http.Client{Transport: client.Transport}
	for name, c := range map[string]*http.Client{"HTTP/1": h1, "HTTP/2": h2c} {
		t.Run(name, func(t *testing.T) { largeBodies(t, c) })
	}
}

func largeBodies(t *testing.T, client *http.Client) {
	const size = largeBody
	g := startStreams(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == "POST":
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n, err)
		case r.URL.Path == "/down":
			w.Header().Set("Content-Length", fmt.Sprint(size))
			_, _ = io.CopyN(w, zeros{}, size)
		case r.URL.Path == "/down/chunked":
			_, _ = io.CopyN(w, zeros{}, size)
		}
	})
	before, most := g.rss(), int64(0)
	watch := func(r io.Reader) io.Reader {
		return &watched{Reader: r, every: 32 << 20, f: func() { most = max(most, g.rss()) }}
	}
	for _, path := range []string{"/down", "/down/chunked"} {
		resp, err := client.Get("http://" + g.web + path)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, watch(resp.Body))
		resp.Body.Close()
		if n != size || err != nil {
			t.Errorf("%s: %d bytes, %v", path, n, err)
		}
	}
	for _, length := range []int64{size, -1} {
		req, err := http.NewRequest("POST", "http://"+g.web+"/up", watch(io.LimitReader(zeros{}, size)))
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = length
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(b) != fmt.Sprint(size, nil) {
			t.Errorf("upload: %s %q %v", resp.Status, b, err)
		}
	}
	t.Logf("%d MiB resident before, at most %d MiB while 4 × %d MiB passed", before>>20, most>>20, size>>20)
	if most-before > 24<<20 {
		t.Errorf("memory has grown by %d MiB", (most-before)>>20)
	}
}

// watched calls f again and again while it is read.
type watched struct {
	io.Reader
	every, n int64
	f        func()
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if w.n += int64(n); w.n >= w.every {
		w.n = 0
		w.f()
	}
	return n, err
}
