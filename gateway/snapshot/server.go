package snapshot

import "time"

// ServerSettings are a listener's limits on connections and requests. Sizes
// are in bytes; 0 means no limit for MaxBody and MaxPerClient.
type ServerSettings struct {
	MaxConnections, MaxPerClient int

	HeadBytes, HeadFields, URIBytes int
	MaxBody                         int64

	// PriorKnowledge lets connections in plain text begin as HTTP/2.
	PriorKnowledge bool
	// WebSockets are taken over HTTP/2.
	WebSockets                                 bool
	MaxStreams, StreamWindow, ConnectionWindow int

	HeadTimeout, BodyTimeout, WriteTimeout, IdleTimeout time.Duration
}

// HTTP3 are the settings of HTTP/3.
type HTTP3 struct {
	// WebSockets are taken.
	WebSockets bool
	// MaxStreams is how many requests of one connection may run at once.
	MaxStreams int
	// AltSvcAge is how long clients may remember what they are told, AltSvcPort
	// the port: 0 tells nobody, and 0 is the port listened on.
	AltSvcAge  time.Duration
	AltSvcPort int
}
