package http2

import (
	"context"
	"errors"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

// dial is a connection in the making, for all who wait for it.
type dial struct {
	done chan struct{}
	err  error // read after done
}

// wait finds a stream for a call that none was free for: on a new connection, or
// on any that has one again where no more connections are allowed.
func (p *Pool) wait(call *transport.Call) (*link, error) {
	w, err := transport.Wait(call)
	if err != nil {
		return nil, err
	}
	defer w.End()
	var place *waiter
	for {
		p.mu.Lock()
		l, d := p.reserve(), (*dial)(nil)
		if l == nil {
			d = p.connecting()
		}
		p.mu.Unlock()
		switch {
		case l != nil:
			return l, nil
		case d != nil:
			err = d.wait(w)
		case place != nil:
			err = p.room.wait(place, w)
		default:
			if place, err = p.room.enter(p); err == nil {
				defer p.room.leave(place)
			}
		}
		if err != nil {
			return nil, err
		}
	}
}

// wait returns when the dial has ended. An error is a *transport.Failure.
func (d *dial) wait(w *transport.Waiting) error {
	select {
	case <-d.done:
	case <-w.Done():
		return w.Failure(w.Err())
	}
	if d.err != nil {
		f, _ := w.DialFailure(d.err)
		return f
	}
	return nil
}

// connecting is the dial under way, or a new one where the limiter allows it.
// p.mu is held.
func (p *Pool) connecting() *dial {
	if p.dial != nil {
		return p.dial
	}
	if p.room != nil && !p.settings.Limiter.TryConnection() {
		return nil
	}
	d := &dial{done: make(chan struct{})}
	p.dial = d
	// It is not the first request's alone, and so not part of that.
	p.manager.wg.Go(func() {
		l, err := p.connect()
		p.mu.Lock()
		if err == nil && l.over() { // or whoever waits would have it dialed for ever
			err = errOverAlready
		}
		p.dial, d.err = nil, err
		if err == nil {
			p.links = append(p.links, l)
			l.since = time.Now() // not before: it may take the endpoint long to say SETTINGS
			l.timer.Reset(p.settings.IdleTimeout)
		}
		p.mu.Unlock()
		close(d.done)
		p.freed()
	})
	return d
}

var errOverAlready = errors.New("the endpoint ended the connection as soon as it was made")

var errNoStreams = errors.New("the endpoint takes no requests: its SETTINGS allow no streams")

// connect makes a connection and finds out whether requests can be sent on it.
func (p *Pool) connect() (*link, error) {
	ctx, cancel := context.WithTimeout(p.manager.ctx, p.settings.DialTimeout)
	defer cancel()
	nc, err := p.settings.Dial(ctx, "tcp", p.settings.Address)
	if err != nil {
		if p.room != nil {
			p.room.release()
		}
		return nil, p.failed(err)
	}
	limitSilence(nc, userTimeout)
	l := newLink(p, nc)
	p.open.Add(1)
	p.manager.add(l)
	err = l.greet() // before anything is answered
	p.manager.reads.Go(l.in.run)
	if err == nil {
		err = l.settle(ctx)
	}
	if err == nil && l.most.Load() == 0 {
		err = errNoStreams
	}
	if err != nil {
		l.close()
		return nil, p.failed(err)
	}
	p.connects.Add(1)
	return l, nil
}

// failed counts a dial that came to nothing by the endpoint's fault.
func (p *Pool) failed(err error) error {
	if !reason.OwnFault(err) && !errors.Is(err, transport.ErrOtherProtocol) {
		p.failures.Add(1)
	}
	return err
}
