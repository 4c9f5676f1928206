// Package registry knows which instances of which services there are, and where
// to connect to them. Instances say so themselves and go on saying so (a lease),
// or an operator says it for them (a static entry). Every node keeps a copy of
// its own, from a snapshot and the changes since, also on disk, and goes on with
// it while the store is away; an emptied store empties no copy.
//
// An entry only says where to connect: it proves nothing about who answers there.
package registry
