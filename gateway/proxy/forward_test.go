package proxy_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
)

func TestForwardsRequestsAndReplies(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // 1 MiB
	up := handle(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("upstream reads the body: %v", err)
		}
		w.Header().Set("X-Method", r.Method)
		w.Header().Set("X-Target", r.RequestURI)
		w.Header().Set("X-Te", strings.Join(r.TransferEncoding, ","))
		w.Header().Add("X-Twice", "1")
		w.Header().Add("X-Twice", "2")
		w.WriteHeader(201)
		if len(b) == 0 {
			b = []byte("hello")
		}
		w.Write(b)
	})
	g := start(t, proxy.Settings{}, up)
	c := client(t)
	for _, tc := range []struct {
		name, method string
		body         io.Reader
		want         []byte
		te           string
	}{
		{"get", "GET", nil, []byte("hello"), ""},
		{"small post", "POST", strings.NewReader("abc"), []byte("abc"), ""},
		{"empty post", "POST", nil, []byte("hello"), ""},
		{"large post", "POST", bytes.NewReader(big), big, ""},
		{"chunked put", "PUT", io.MultiReader(bytes.NewReader(big)), big, "chunked"},
		{"small chunked", "PATCH", io.MultiReader(strings.NewReader("xyz")), []byte("xyz"), "chunked"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for range 3 {
				if s, ok := tc.body.(io.Seeker); ok {
					s.Seek(0, io.SeekStart)
				}
				req, _ := http.NewRequest(tc.method, "http://"+g.addr+"/p/a%2Db?q=1", tc.body)
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 201 || !bytes.Equal(b, tc.want) {
					t.Fatalf("status %d, %d bytes, %v", resp.StatusCode, len(b), err)
				}
				if h := resp.Header; h.Get("X-Method") != tc.method || h.Get("X-Target") != "/p/a%2Db?q=1" ||
					h.Get("X-Te") != tc.te || strings.Join(h["X-Twice"], ",") != "1,2" {
					t.Fatalf("header %v", h)
				}
				if tc.te != "" {
					break // the body is read
				}
			}
		})
	}
}
