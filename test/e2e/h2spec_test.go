package e2e

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"
)

// inPlainText is the case that fails where HTTP/1 is spoken on the same port: what
// does not begin with the preface is not HTTP/2's to refuse.
var inPlainText = []string{"http2/3.5/2"}

func TestH2spec(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Write([]byte("hello"))
	}))
	t.Cleanup(app.Close)
	for _, secure := range []bool{false, true} {
		name, settings, want := "plain text", "", inPlainText
		if secure {
			name, settings, want = "TLS", "certificates: [api]", nil
		}
		t.Run(name, func(t *testing.T) {
			n := startTLS(t, settings, app.Listener.Addr().String())
			host, port, _ := net.SplitHostPort(n.web)
			number, _ := strconv.Atoi(port)
			failed, total := h2spec(t, &config.Config{
				Host: host, Port: number, Path: "/", Timeout: 20 * time.Second, MaxHeaderLen: 4000,
				Strict: true, TLS: secure, Insecure: true,
			})
			if total < 140 {
				t.Errorf("only %d cases were run", total)
			}
			if !slices.Equal(failed, want) {
				t.Errorf("of %d cases fail %q, want %q", total, failed, want)
			}
		})
	}
}

// h2spec runs all cases, which report to stdout, and tells those that failed.
func h2spec(t *testing.T, c *config.Config) (failed []string, total int) {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	stdout := os.Stdout
	os.Stdout = null
	defer func() { os.Stdout = stdout }()
	for _, group := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
		group.Test(c)
		total += group.FailedCount + group.SkippedCount + group.PassedCount
		failed = append(failed, failures(group)...)
	}
	return failed, total
}

func failures(g *spec.TestGroup) (ids []string) {
	for i, c := range append(slices.Clone(g.Tests), g.StrictTests...) {
		if c.Result != nil && c.Result.Failed {
			ids = append(ids, g.ID()+"/"+strconv.Itoa(i+1))
		}
	}
	for _, below := range g.Groups {
		ids = append(ids, failures(below)...)
	}
	return ids
}
