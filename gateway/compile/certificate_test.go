package compile

import (
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
)

func TestStatesOfCertificates(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	day := 24 * time.Hour
	for name, tc := range map[string]struct {
		in    tlsterm.Stats
		state string
		days  int
	}{
		"good":             {tlsterm.Stats{NotBefore: now.Add(-day), NotAfter: now.Add(10*day - time.Second)}, "ok", 9},
		"soon":             {tlsterm.Stats{NotBefore: now.Add(-60 * day), NotAfter: now.Add(14*day - time.Second)}, "expiring", 13},
		"not so soon":      {tlsterm.Stats{NotBefore: now.Add(-60 * day), NotAfter: now.Add(14 * day)}, "ok", 14},
		"short-lived":      {tlsterm.Stats{NotBefore: now.Add(-2 * day), NotAfter: now.Add(4 * day)}, "ok", 4},
		"short-lived, old": {tlsterm.Stats{NotBefore: now.Add(-5 * day), NotAfter: now.Add(day)}, "expiring", 1},
		"none":             {tlsterm.Stats{}, "missing", 0},
		"none, and why":    {tlsterm.Stats{Fault: "x"}, "missing", 0},
		"nothing newer":    {tlsterm.Stats{NotBefore: now.Add(-day), NotAfter: now.Add(day), Fault: "x"}, "failing", 1},
		"too old":          {tlsterm.Stats{NotBefore: now.Add(-2 * day), NotAfter: now.Add(-time.Second)}, "expired", -1},
		"too old, and why": {tlsterm.Stats{NotBefore: now.Add(-2 * day), NotAfter: now.Add(-day), Fault: "x"}, "expired", -1},
		"too early":        {tlsterm.Stats{NotBefore: now.Add(time.Hour), NotAfter: now.Add(day)}, "not_yet_valid", 1},
	} {
		if s := certificateStatus(tc.in, now); s.State != tc.state || s.DaysLeft != tc.days || s.Error != tc.in.Fault {
			t.Errorf("%s: %+v", name, s)
		}
	}
}
