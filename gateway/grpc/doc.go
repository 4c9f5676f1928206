// Package grpc is the syntax of gRPC over HTTP as a proxy in the middle needs
// it (PROTOCOL-HTTP2.md and PROTOCOL-WEB.md of the gRPC project): content types,
// status codes, messages, timeouts and frames. It holds no state of a call and
// knows nothing of protobuf.
package grpc
