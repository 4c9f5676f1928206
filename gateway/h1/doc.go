// Package h1 is the HTTP/1.x server: it turns the bytes of a connection into
// requests and calls one handler for each with a filled fasthttp.RequestCtx
// and the connection itself as the exchange.Front, then writes the reply the
// handler left in the context. It decides framing, keep-alive, time limits and
// what becomes of clients that go away; it knows nothing of routes or upstreams.
//
// A connection has one goroutine, except while it is idle for long, when it has
// none. A request and its memory are pooled and belong to a connection only
// while it is busy.
//
// A reply body stream that has `BufferedNow() int` (bytes its next Read returns
// without blocking) gets its first bytes into the same write as the head; for
// any other the head is sent before the first Read.
package h1
