// Package wire is the syntax of HTTP/1 messages: request and response heads and
// body framing, read strictly (RFC 9112) and without allocation. The server
// (h1) and the upstream client share it, so that both sides of the gateway
// agree on where a message ends. It knows nothing of sockets.
package wire
