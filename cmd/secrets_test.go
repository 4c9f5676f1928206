package cmd

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control"
	"github.com/gatehouse-proxy/gatehouse/control/secrets"
)

func TestStatusOfWhatIsShared(t *testing.T) {
	now := time.Now()
	tickets := secrets.TicketStatus{Rotate: (12 * time.Hour).String(), Shared: true, Generation: 7, Made: now.Add(-3 * time.Hour)}
	own := secrets.TicketStatus{Rotate: time.Minute.String(), Error: "the store is \x1b[2J away"}
	for name, tc := range map[string]struct {
		shared *secrets.Status
		text   string
		wrong  []string
	}{
		"nothing": {nil, "", nil},
		"all is well": {
			&secrets.Status{Up: true, Tickets: []secrets.TicketStatus{tickets}},
			"shared       certificates in the store, sealed\n             session tickets: secret 7, made 3h ago, rotated every 12h\n", nil,
		},
		"an order": {
			&secrets.Status{Up: true, Orders: []secrets.LockStatus{{Name: "certificate-shop-0123456789ab", Node: "edge-2"}}},
			"shared       certificates in the store, sealed; edge-2 orders shop-0123456789ab\n", nil,
		},
		"away": {
			&secrets.Status{Error: "store: read: refused", Tickets: []secrets.TicketStatus{own}},
			"shared       nothing at present: certificates and session tickets stay as they are here\n",
			[]string{"store: certificates and session tickets are not shared: store: read: refused"},
		},
		"tickets only": {
			&secrets.Status{Up: true, Tickets: []secrets.TicketStatus{own}},
			"shared       certificates in the store, sealed\n",
			[]string{"session tickets: this node has its own, which the others do not honour: the store is ?[2J away"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &status{Config: control.Status{Digest: "x", Loaded: now}, Shared: tc.shared}
			wrong := s.wrong(now)
			if !slices.Equal(wrong, tc.wrong) {
				t.Errorf("%q", wrong)
			}
			var out bytes.Buffer
			s.print(&out, wrong, now)
			if tc.text == "" && strings.Contains(out.String(), "shared") || !strings.Contains(out.String(), tc.text) {
				t.Error(out.String())
			}
		})
	}
}

func TestShortDurations(t *testing.T) {
	for in, want := range map[time.Duration]string{12 * time.Hour: "12h", time.Minute: "1m", 90 * time.Minute: "1h30m", 61 * time.Second: "1m1s", 30 * time.Second: "30s", 10 * time.Hour: "10h", 20 * time.Minute: "20m"} {
		if got := short(in.String()); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}
