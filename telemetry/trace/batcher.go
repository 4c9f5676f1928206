package trace

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
)

const (
	queueSize  = 4096 // spans that wait; more are dropped
	batchSize  = 512  // spans in one export
	batchAfter = 2 * time.Second
)

// batcher is a span processor that never blocks whoever ends a span. The SDK's
// own does not say how many spans it lost.
type batcher struct {
	exporter          sdk.SpanExporter
	report            func(error)
	queue             chan sdk.ReadOnlySpan
	exported, dropped atomic.Uint64

	mu     sync.RWMutex // guards closed against sends to queue
	closed bool
	cancel context.CancelFunc
	done   chan struct{}
}

var _ sdk.SpanProcessor = (*batcher)(nil)

func newBatcher(exporter sdk.SpanExporter, report func(error)) *batcher {
	ctx, cancel := context.WithCancel(context.Background())
	b := &batcher{
		exporter: exporter, report: report, cancel: cancel,
		queue: make(chan sdk.ReadOnlySpan, queueSize), done: make(chan struct{}),
	}
	go b.run(ctx)
	return b
}

// OnStart implements sdk.SpanProcessor.
func (b *batcher) OnStart(context.Context, sdk.ReadWriteSpan) {}

// OnEnd queues a span or drops it.
func (b *batcher) OnEnd(s sdk.ReadOnlySpan) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		b.dropped.Add(1)
		return
	}
	select {
	case b.queue <- s:
	default:
		b.dropped.Add(1)
	}
}

// ForceFlush implements sdk.SpanProcessor; nothing here calls it.
func (b *batcher) ForceFlush(context.Context) error { return nil }

func (b *batcher) run(ctx context.Context) {
	defer close(b.done)
	timer := time.NewTimer(batchAfter)
	timer.Stop()
	batch := make([]sdk.ReadOnlySpan, 0, batchSize)
	failing := false
	for first := range b.queue {
		batch = append(batch[:0], first)
		timer.Reset(batchAfter)
		batch = b.fill(batch, timer.C)
		timer.Stop()
		failing = b.export(ctx, batch, failing)
		clear(batch)
	}
}

// fill gathers spans until the batch is full, its time is over or the queue closed.
func (b *batcher) fill(batch []sdk.ReadOnlySpan, over <-chan time.Time) []sdk.ReadOnlySpan {
	for len(batch) < batchSize {
		select {
		case s, ok := <-b.queue:
			if !ok {
				return batch
			}
			batch = append(batch, s)
		case <-over:
			return batch
		}
	}
	return batch
}

func (b *batcher) export(ctx context.Context, batch []sdk.ReadOnlySpan, failing bool) bool {
	limited, cancel := context.WithTimeout(ctx, exportTimeout)
	defer cancel()
	if err := b.exporter.ExportSpans(limited, batch); err != nil {
		b.dropped.Add(uint64(len(batch)))
		if !failing && b.report != nil {
			b.report(fmt.Errorf("node.tracing.otlp: %w", err))
		}
		return true
	}
	b.exported.Add(uint64(len(batch)))
	return false
}

// Shutdown exports what waits until ctx is done; the rest is dropped.
func (b *batcher) Shutdown(ctx context.Context) error {
	b.mu.Lock()
	if !b.closed {
		b.closed = true
		close(b.queue)
	}
	b.mu.Unlock()
	var err error
	select {
	case <-b.done:
	case <-ctx.Done():
		err = fmt.Errorf("node.tracing.otlp: spans were lost: %w", ctx.Err())
	}
	b.cancel() // ends an export under way, and with it all others
	<-b.done
	// ctx may be over already; closing connections needs no time.
	if cerr := b.exporter.Shutdown(context.WithoutCancel(ctx)); err == nil && cerr != nil {
		err = fmt.Errorf("node.tracing.otlp: %w", cerr)
	}
	return err
}
