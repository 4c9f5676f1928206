package snapshot

import "time"

// ServerSettings are a listener's limits on connections and requests. Sizes
// are in bytes; 0 means no limit for MaxBody and MaxPerClient.
type ServerSettings struct {
	MaxConnections, MaxPerClient int

	HeadBytes, HeadFields, URIBytes int
	MaxBody                         int64

	// PriorKnowledge lets connections in plain text begin as HTTP/2.
	PriorKnowledge                             bool
	MaxStreams, StreamWindow, ConnectionWindow int

	HeadTimeout, BodyTimeout, WriteTimeout, IdleTimeout time.Duration
}
