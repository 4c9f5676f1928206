package h1

import "time"

// SetParkAfter makes idle connections give up their goroutine sooner; before
// the first connection.
func (s *Server) SetParkAfter(d time.Duration) { s.parkAfter = d }

// SweepOnce does what every tick does.
func (s *Server) SweepOnce() {
	s.sweep(s.clock.Now())
}
