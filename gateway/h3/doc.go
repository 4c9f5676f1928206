// Package h3 serves HTTP/3: a UDP address with QUIC on it, the handshakes of a
// tlsterm.Terminator, and requests for an http.Handler. It bounds what clients
// can make it hold (connections in all and per address, streams, windows,
// heads), makes addresses prove themselves under load, and ends without
// breaking off what is in flight.
//
// The frames, header compression and the first strictness are quic-go's; what
// it refuses without asking anybody is noticed here, named and counted.
package h3
