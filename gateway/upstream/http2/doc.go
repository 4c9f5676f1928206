// Package http2 is the HTTP/2 client of the gateway: for each endpoint one
// connection, or a few when its streams are used up, that many requests share.
// It has the same contract as its sibling http1, down to deadlines and to what
// may be repeated.
//
// One goroutine reads each connection (read.go, receive.go) and wakes those who
// wait for what it has read once it has dealt with all that had come. Whoever
// makes a request writes its frames himself, into a buffer whose content goes out
// together (send.go; see gateway/h2/frames), so that a small call takes no
// goroutine and no memory of its own; only a body that is yet to come has a
// goroutine (upload.go). Besides, there is when to connect and how often
// (pool.go, wait.go), what a connection is worth (link.go), when time is up
// (deadline.go), what a failure means for the next try (fault.go), and the way
// between the two forms of a message (request.go, reply.go).
//
// No PING is sent on a timer: servers of gRPC answer a quiet client that does
// with GOAWAY, which would end the long, silent streams that it is meant to
// guard. A connection whose peer does not acknowledge what was sent is ended by
// TCP, and one that is silent when a request times out is asked by a PING and
// ended unless it answers.
package http2
