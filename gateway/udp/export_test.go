package udp

// Kept is how many bytes sessions keep for a second try.
func Kept(s *Server) int64 { return s.kept.Load() }
