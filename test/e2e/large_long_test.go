//go:build long

package e2e

// largeBody is what nobody holds in memory.
const largeBody = 1 << 30
