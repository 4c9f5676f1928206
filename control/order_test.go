package control_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/control"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
)

// A signal and a changed file may come at once: the status tells of what was read
// last, or it would tell of an error that was mended for good.
func TestTheStatusIsOfTheLastReload(t *testing.T) {
	read := 0 // one at a time
	loop := control.New(control.Settings{
		Load: func() (*config.Config, *config.Source, error) {
			read++
			return nil, nil, fmt.Errorf("error %d", read)
		},
		Metrics: metrics.New(metrics.Settings{}), Log: slog.New(slog.DiscardHandler),
	})
	defer loop.Close()
	for range 1000 {
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() { _ = loop.Reload(context.Background(), "test") })
		}
		both.Wait()
		if got, want := loop.Status().Error, fmt.Sprintf("error %d", read); got != want {
			t.Fatalf("the status tells of %q after %q", got, want)
		}
	}
}
