package acme

import (
	"context"
	"sync"
)

// localLocker is for what one process must not do twice at the same time:
// after a reload, a worker that is being stopped and its successor may want the
// same certificate, and two certificates may want to make the same account.
type localLocker struct {
	mu   sync.Mutex // guards held
	held map[string]chan struct{}
}

func newLocalLocker() *localLocker { return &localLocker{held: map[string]chan struct{}{}} }

// lock waits for the lock of a name until ctx is done; unlock gives it back.
func (l *localLocker) lock(ctx context.Context, name string) (unlock func(), err error) {
	l.mu.Lock()
	c := l.held[name]
	if c == nil {
		c = make(chan struct{}, 1)
		l.held[name] = c
	}
	l.mu.Unlock()
	select {
	case c <- struct{}{}:
		return func() { <-c }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// lock waits for a lock that one worker of this node can have, and then for one
// that one node can have; alone leaves that out. held is done when it is lost.
func (n *Node) lock(ctx context.Context, own, shared string, alone bool) (held context.Context, unlock func(), err error) {
	release, err := n.locker.lock(ctx, own)
	if err != nil {
		return nil, nil, err
	}
	if alone || n.s.Shared == nil {
		return ctx, release, nil
	}
	held, give, err := n.s.Shared.Lock(ctx, shared)
	if err != nil {
		release()
		return nil, nil, away(ctx, err)
	}
	return held, func() { give(); release() }, nil
}
