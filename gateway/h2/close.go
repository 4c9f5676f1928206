package h2

import (
	"context"
	"errors"
	"time"
)

// closeTime is how long Close waits for handlers that it has interrupted.
const closeTime = 5 * time.Second

// Shutdown tells every client that no more streams are taken, lets those in
// progress finish, and returns when the last connection has gone or, with an
// error, when ctx is done; Close ends the rest.
func (s *Server) Shutdown(ctx context.Context) error {
	s.closing.Store(true)
	s.conns.Each((*conn).drain)
	if at, ok := ctx.Deadline(); ok {
		half, cancel := context.WithTimeout(ctx, time.Until(at)/2)
		defer cancel()
		s.conns.Wait(half.Done())
		s.telling.Store(true)
		s.conns.Each((*conn).tell)
	}
	if !s.conns.Wait(ctx.Done()) {
		return ctx.Err()
	}
	s.end()
	return nil
}

// Close closes every connection, interrupts what their handlers wait for, and
// waits for them. Its error says that some did not end. Closing twice is allowed.
func (s *Server) Close() error {
	s.closing.Store(true)
	s.conns.Each((*conn).abandon)
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	ok := s.conns.Wait(ctx.Done())
	s.end()
	if !ok {
		return errors.New("h2: handlers did not return in time")
	}
	return nil
}

// end stops what the first connection started.
func (s *Server) end() {
	s.clock.Stop()
	s.workers.close(s.conns.Len() == 0)
}
