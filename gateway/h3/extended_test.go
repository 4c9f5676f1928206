package h3_test

import (
	"bytes"
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/gatehouse-proxy/gatehouse/gateway/h3"
)

// What an extended CONNECT brings is nobody's but its handler's: it is not
// waited for, nor read ahead. Of what has no end of its own is known, by a
// client that is told to go, that it is to end.
func TestExtendedConnect(t *testing.T) {
	running, over := make(chan *h3.Conn, 1), make(chan struct{})
	b := start(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		s, err := w.(http3.HTTPStreamer).HTTPStream()
		if err != nil {
			t.Error(err)
			return
		}
		p := make([]byte, 5)
		n, err := s.Read(p)
		if string(p[:n]) != "hello" || r.Proto != "websocket" {
			t.Errorf("%q, %v, %s", p[:n], err, r.Proto)
		}
		running <- h3.Of(r.Context())
		<-over
		_ = s.Close()
		s.CancelRead(0x100)
	})
	s := b.dial().open(false, extended(":protocol: websocket", ":scheme: https", ":authority: a.test", ":path: /"), frame(0, []byte("hello")))
	c := <-running
	if st := b.server.Stats(); st.Open != 1 || st.Idle != 0 || c.Ending() {
		t.Errorf("%+v, %v", st, c.Ending())
	}
	d := b.server.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if d.Wait(ctx) == nil || c.Ending() {
		t.Error("it did not wait, or has been told already")
	}
	d.Tell()
	if !c.Ending() {
		t.Error("it is not told")
	}
	close(over)
	var all bytes.Buffer
	if _, err := all.ReadFrom(s); err != nil || all.Len() == 0 {
		t.Errorf("%q, %v", all.Bytes(), err)
	}
	if err := d.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}
