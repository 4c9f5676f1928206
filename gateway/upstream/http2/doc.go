// Package http2 is the HTTP/2 client of the gateway: for each endpoint one
// connection, or a few when its streams are used up, that many requests share.
// It has the same contract as its sibling http1, down to deadlines and to what
// may be repeated.
//
// Frames, header compression and flow control are net/http's: its ClientConn
// gives us one connection without a pool, a balancer or a retry of its own, it
// follows the protocol's security fixes with the toolchain, and x/net/http2,
// the other choice, has declared that part deprecated. What is ours is all that
// a gateway must decide itself: when to connect and how often (pool.go), what a
// connection is worth (link.go), when time is up (deadline.go), what a failure
// means for the next try (fault.go), and the way between the two forms of a
// message (request.go, reply.go).
//
// No PING is sent on a timer: servers of gRPC answer a quiet client that does
// with GOAWAY, which would end the long, silent streams that it is meant to
// guard. A connection whose peer does not acknowledge what was sent is ended by
// TCP, and one that is silent when a request times out is asked (net/http sends
// a PING with such a request's RST_STREAM) and ended unless it answers.
package http2
