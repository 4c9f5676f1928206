package h1

// Whole returns the complete body if it has already been received and nothing
// of it was read, else nil; it counts as reading it. Asking the stream itself,
// and not the front, cannot miss that a plugin has put another in its place.
func (b *requestBody) Whole() []byte {
	if b.count.Load() != 0 {
		return nil
	}
	return b.c.Whole()
}
