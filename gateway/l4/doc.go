// Package l4 passes connections on without asking what is spoken on them: to a
// backend by weight, or by the name in a TLS ClientHello that is not opened. It
// balances, retries, limits and blames endpoints through gateway/upstream as
// HTTP does, and leaves the copying to gateway/splice. Datagrams, in
// gateway/udp, choose their endpoints by the same routes.
package l4
