package gateway

import (
	"testing"
	"time"
)

func TestFloodsAreLoggedOnceASecond(t *testing.T) {
	var s sampler
	at := time.Unix(1000, 0)
	for i, tc := range []struct {
		at      time.Duration
		skipped uint64
		ok      bool
	}{{0, 0, true}, {1, 0, false}, {999 * time.Millisecond, 0, false}, {time.Second, 2, true}, {time.Second, 0, false}, {time.Hour, 1, true}, {2 * time.Hour, 0, true}} {
		if skipped, ok := s.take(at.Add(tc.at)); skipped != tc.skipped || ok != tc.ok {
			t.Errorf("%d: %d, %v", i, skipped, ok)
		}
	}
}
