//go:build !long

package e2e

// largeBody is more than a node may have in memory.
const largeBody = 256 << 20
