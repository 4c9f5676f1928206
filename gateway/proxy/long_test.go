//go:build long

package proxy_test

import "testing"

// TestHugeBodies streams 10 GiB up and down, with and without a length.
func TestHugeBodies(t *testing.T) { testLarge(t, 10<<30) }
