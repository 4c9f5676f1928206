//go:build long

package waf

import "testing"

// Two hundred routes with four policies of the whole rule set, reloaded a
// hundred times: about 400 engines are built.
func TestReloadsKeepMemoryFlatLong(t *testing.T) {
	if grown := reload(t, 4, 200, 100, true); grown > 4<<20 {
		t.Fatalf("the heap grew by %d KiB", grown>>10)
	}
}
