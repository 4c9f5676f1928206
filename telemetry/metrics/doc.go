// Package metrics counts what a node does and shows it to Prometheus. Every
// counter that a request touches is a handle bound when its route or upstream
// is compiled; counting is a few atomic additions on sharded cells, without
// labels to look up and without allocation. The cells are read, summed and
// labelled only when somebody scrapes.
//
// Label values come from the config (routes, upstreams, listeners, endpoints)
// or from closed lists (status codes, reasons, outcomes), never from a request.
package metrics
