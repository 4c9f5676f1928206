package proxy_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
)

// pattern is n bytes that are cheap to make and to check.
type pattern struct{ n, at int64 }

func (p *pattern) Read(b []byte) (int, error) {
	if p.at == p.n {
		return 0, io.EOF
	}
	if int64(len(b)) > p.n-p.at {
		b = b[:p.n-p.at]
	}
	for i := range b {
		b[i] = byte((p.at + int64(i)) * 31 >> 3)
	}
	p.at += int64(len(b))
	return len(b), nil
}

// testLarge sends size bytes up and gets as many back.
func testLarge(t *testing.T, size int64) {
	sum := func(r io.Reader) string {
		h := sha256.New()
		n, err := io.Copy(h, r)
		return fmt.Sprintf("%x %d %v", h.Sum(nil), n, err)
	}
	want := sum(&pattern{n: size})
	up := handle(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "PUT" {
			fmt.Fprint(w, sum(r.Body))
			return
		}
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		io.Copy(w, &pattern{n: size})
	})
	g := start(t, proxy.Settings{Retries: proxy.RetrySettings{Attempts: 1, BufferBody: 64 << 10}}, up)
	c := client(t)
	var peak uint64
	stop := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		var m runtime.MemStats
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				runtime.ReadMemStats(&m)
				peak = max(peak, m.HeapInuse)
			}
		}
	}()
	for _, length := range []int64{size, -1} {
		req, _ := http.NewRequest("PUT", "http://"+g.addr+"/", io.MultiReader(&pattern{n: size}))
		req.ContentLength = length
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(b) != want {
			t.Fatalf("upload: %s, want %s", b, want)
		}
	}
	for _, path := range []string{"/length", "/chunked"} {
		resp, err := c.Get("http://" + g.addr + path)
		if err != nil {
			t.Fatal(err)
		}
		if got := sum(resp.Body); got != want {
			t.Fatalf("download: %s, want %s", got, want)
		}
		resp.Body.Close()
	}
	close(stop)
	<-watched
	if peak > 64<<20 {
		t.Errorf("%d MiB of heap for streaming", peak>>20)
	}
}

func TestLargeBodiesInConstantMemory(t *testing.T) {
	if raceEnabled {
		testLarge(t, 32<<20)
		return
	}
	testLarge(t, 256<<20)
}
