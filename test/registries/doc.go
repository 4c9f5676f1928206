// Package registries has the tests of the discovery sources against the real
// Consul and the real Kubernetes API server with its etcd, at the versions of
// consul/go.mod and kubernetes/go.mod. Those are modules of their own, so that
// nothing of the servers gets into ours. The tests build and start them on
// loopback; make test-long runs them.
package registries
