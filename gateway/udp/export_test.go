package udp

import "time"

// Kept is how many bytes sessions keep for a second try.
func Kept(s *Server) int64 { return s.kept.Load() }

// SetQuiet is how long a session must have been quiet to give way.
func SetQuiet(s *Server, d time.Duration) {
	s.mu.Lock()
	s.quiet = d
	s.mu.Unlock()
}
