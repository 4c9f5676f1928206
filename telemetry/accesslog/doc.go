// Package accesslog writes one line for every request, as JSON or for people.
// A line is encoded by hand without allocation and joins a buffer in memory; a
// goroutine writes the buffer out. A disk that is slow or full costs lines,
// which are counted, never the request.
//
// What can carry credentials (headers, query parameters) is masked here, so
// that no caller can forget to.
package accesslog
