package h3_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
)

func TestConnectionLimits(t *testing.T) {
	for name, tc := range map[string]struct{ all, each int }{"in all": {3, 0}, "per client": {0, 3}} {
		t.Run(name, func(t *testing.T) {
			b := start(t, tell, func(b *bench, _ *tlsterm.Settings) {
				b.settings.MaxConnections, b.settings.MaxPerClient = tc.all, tc.each
			})
			for range 3 { // the later ones have to prove their address, and can
				b.dial()
			}
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			if _, err := quic.DialAddr(ctx, b.server.Addr().String(), b.tls(), patient()); err == nil {
				t.Fatal("one too many was let in")
			}
			if got := b.noted(&b.refused); got != "too_many_connections" {
				t.Errorf("counted: %s", got)
			}
			if s := b.server.Stats(); s.Open != 3 || s.Accepted != 3 || s.Refused != 1 {
				t.Errorf("%+v", s)
			}
			b.settings.MaxConnections, b.settings.MaxPerClient = 9, 9
			b.server.Update(b.settings)
			b.dial()
		})
	}
}

func TestStreamLimit(t *testing.T) {
	inside, leave := make(chan struct{}), make(chan struct{})
	b := start(t, func(http.ResponseWriter, *http.Request) {
		inside <- struct{}{}
		<-leave
	}, func(b *bench, _ *tlsterm.Settings) { b.settings.MaxStreams = 2 })
	c := b.dial()
	for range 2 {
		c.open(true, headers(plain...))
		<-inside
	}
	if _, err := c.OpenStream(); err == nil {
		t.Error("a third stream was granted")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	granted := make(chan error, 1)
	go func() {
		s, err := c.OpenStreamSync(ctx)
		if err == nil {
			s.CancelWrite(0x10c)
		}
		granted <- err
	}()
	close(leave)
	if err := <-granted; err != nil {
		t.Error(err)
	}
}

func TestIdleConnectionIsClosed(t *testing.T) {
	stretched(t, 100*time.Millisecond, func(idle time.Duration) error {
		b := start(t, tell, func(b *bench, _ *tlsterm.Settings) { b.settings.IdleTimeout = idle })
		c, err := b.connect()
		if err != nil {
			return err
		}
		s, err := c.ask(true, headers(plain...))
		if err == nil {
			_, err = io.ReadAll(s)
		}
		<-c.Context().Done()
		eventually(t, "it is counted out", func() bool { return b.server.Stats().Open == 0 })
		if got := b.noted(&b.refused); got != "" {
			t.Errorf("counted as a refusal: %s", got)
		}
		return err
	})
}

// A stream whose head never comes is no request: it keeps no connection.
func TestHeadsThatStopKeepNoConnection(t *testing.T) {
	stretched(t, 300*time.Millisecond, func(idle time.Duration) error {
		b := start(t, tell, func(b *bench, _ *tlsterm.Settings) { b.settings.IdleTimeout = idle })
		c, err := b.connect()
		if err != nil {
			return err
		}
		for range 20 {
			if _, err := c.ask(false, []byte{1, 60, 0}); err != nil { // a head of 60 bytes, of which one comes
				return err
			}
		}
		s, err := c.ask(true, headers(plain...))
		if err == nil {
			_, err = io.ReadAll(s)
		}
		select {
		case <-c.Context().Done():
		case <-time.After(idle + 20*time.Second):
			t.Fatal("the connection is still open")
		}
		eventually(t, "it is counted out", func() bool { return b.server.Stats().Open == 0 })
		return err
	})
}

// A request that takes longer than a connection may be idle is not cut.
func TestLongRequestsKeepTheirConnection(t *testing.T) {
	stretched(t, 50*time.Millisecond, func(idle time.Duration) error {
		b := start(t, func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(8 * idle)
			_, _ = io.WriteString(w, "finished")
		}, func(b *bench, _ *tlsterm.Settings) { b.settings.IdleTimeout = idle })
		r, err := b.client().Get(b.url("/"))
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if body, err := io.ReadAll(r.Body); err != nil || string(body) != "finished" {
			return fmt.Errorf("got %q, %w", body, err)
		}
		return nil
	})
}

// slow answers after leave is closed.
func slow(began chan<- struct{}, leave <-chan struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		<-leave
		_, _ = io.WriteString(w, "finished")
	}
}

func TestStop(t *testing.T) {
	began, leave := make(chan struct{}, 9), make(chan struct{})
	b := start(t, slow(began, leave))
	idle, busy := b.dial(), b.client()
	replies := make(chan string, 1)
	go func() {
		r, err := busy.Get(b.url("/"))
		if err != nil {
			replies <- err.Error()
			return
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		replies <- string(body)
		if err != nil {
			t.Error(err)
		}
	}()
	<-began
	drained := make(chan error, 1)
	go func() { drained <- b.server.Stop().Wait(context.Background()) }()
	select {
	case <-idle.Context().Done(): // told to go, and given time to
	case <-time.After(30 * time.Second):
		t.Fatal("an idle connection stays")
	}
	select {
	case err := <-drained:
		t.Fatalf("drained with a request in flight: %v", err)
	default:
	}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := quic.DialAddr(ctx, b.server.Addr().String(), b.tls(), nil); err == nil {
		t.Error("a new connection was let in")
	}
	close(leave)
	if got := <-replies; got != "finished" {
		t.Errorf("the request in flight: %s", got)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	// A revoked shutdown: the same socket serves again.
	if err := b.server.Serve(); err != nil {
		t.Fatal(err)
	}
	if status, body := b.get(b.client(), "/"); status != 200 || body != "finished" {
		t.Errorf("%d %q", status, body)
	}
}

// Serving again does not wait until the old connections have gone, nor end new ones.
func TestServeWhileDraining(t *testing.T) {
	began, leave := make(chan struct{}, 9), make(chan struct{})
	b := start(t, slow(began, leave))
	old := b.dial()
	s := old.open(true, headers(plain...))
	<-began
	drained, draining := make(chan error, 1), b.server.Stop()
	go func() { drained <- draining.Wait(context.Background()) }()
	refused := func() bool {
		s, err := old.OpenStreamSync(context.Background())
		if err != nil {
			return true
		}
		_, _ = s.Write(headers(plain...))
		_ = s.Close()
		_, err = io.ReadAll(s)
		return err != nil
	}
	old.dismissed()
	if !refused() {
		t.Error("a request on a connection that was told to go")
	}
	if err := b.server.Serve(); err != nil {
		t.Fatal(err)
	}
	fresh := b.dial()
	again := fresh.open(true, headers(plain...))
	<-began
	close(leave)
	for _, s := range []*quic.Stream{s, again} {
		if all, err := io.ReadAll(s); err != nil || len(all) == 0 {
			t.Errorf("%q, %v", all, err)
		}
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if err := fresh.Context().Err(); err != nil {
		t.Errorf("the new connection was ended with the old ones: %v", err)
	}
}

func TestCloseInterrupts(t *testing.T) {
	began := make(chan struct{})
	b := start(t, func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
	})
	b.dial().open(true, headers(plain...))
	<-began
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := b.server.Stop().Wait(ctx); err == nil {
		t.Error("a handler that hangs has drained")
	}
	for range 2 {
		if err := b.server.Close(); err != nil {
			t.Error(err)
		}
	}
}
