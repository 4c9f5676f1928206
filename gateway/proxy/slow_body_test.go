package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// drip is a body of n letters, each after a pause.
type drip struct {
	n     int
	pause time.Duration
}

func (d *drip) Read(p []byte) (int, error) {
	if d.n == 0 {
		return 0, io.EOF
	}
	time.Sleep(d.pause)
	d.n--
	p[0] = 'x'
	return 1, nil
}

func TestRequestTimeoutDoesNotEndBodiesThatKeepComing(t *testing.T) {
	stretched(t, 150*time.Millisecond, func(t *testing.T, timeout time.Duration) error {
		up := handle(t, func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			fmt.Fprint(w, len(b), ":")
			w.(http.Flusher).Flush()
			for range 3 {
				time.Sleep(timeout)
				fmt.Fprint(w, "y")
				w.(http.Flusher).Flush()
			}
		})
		g := start(t, proxy.Settings{Timeouts: proxy.Timeouts{Request: timeout, Idle: time.Minute}}, up)
		resp, err := client(t).Post("http://"+g.addr+"/", "text/plain", &drip{4, timeout / 2})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "4:yyy" {
			return fmt.Errorf("%d %q, %w", resp.StatusCode, b, err)
		}
		return nil
	})
}

func TestRequestTimeoutCountsFromTheEndOfAnUpload(t *testing.T) {
	const requestTime = 150 * time.Millisecond
	up := handle(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done() // never answers
	})
	g := start(t, proxy.Settings{Timeouts: proxy.Timeouts{Request: requestTime, Idle: time.Minute}}, up)
	resp, err := client(t).Post("http://"+g.addr+"/", "text/plain", io.MultiReader(&drip{2, requestTime}, strings.NewReader("end")))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != reason.UpstreamTimeout.Status {
		t.Errorf("status %d", resp.StatusCode)
	}
}
