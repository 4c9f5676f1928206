package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/nodes"
	"github.com/gatehouse-proxy/gatehouse/control/revision"
	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// alarms are what a member says about the fleet, as "node kind".
func (m *member) alarms() string {
	m.t.Helper()
	list, err := m.Members(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	var out []string
	for _, a := range m.Alerts(list) {
		out = append(out, strings.TrimSpace(a.Node+" "+a.Kind))
		if a.Text == "" {
			m.t.Errorf("%+v", a)
		}
	}
	return strings.Join(out, ", ")
}

func (m *member) metric(want string) {
	m.t.Helper()
	if text := m.scrape(); !strings.Contains(text, want+"\n") {
		m.t.Errorf("%s is not in the metrics:\n%s", want, text)
	}
}

func TestWhatIsWrongWithTheFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		a := join(t, "a", s, options{})
		ring := revision.Keyring{a.key.Public()}
		b := join(t, "b", &flaky{Store: s}, options{gateway: true, trusted: ring})
		c := join(t, "c", s, options{gateway: true, trusted: ring})
		a.publish("one")
		time.Sleep(time.Minute)
		if got := a.alarms(); got != "" {
			t.Errorf("all is well, and it says %s", got)
		}
		a.metric(`gatehouse_fleet_nodes{state="current"} 3`)
		a.metric(`gatehouse_fleet_lag_seconds 0`)

		// One refuses, one says that it is still there and hears nothing.
		b.store.(*flaky).deaf.Store(true)
		a.publish("two!c")
		time.Sleep(5 * time.Second)
		if got := a.alarms(); got != "c refusing" {
			t.Errorf("after five seconds: %s", got)
		}
		time.Sleep(30 * time.Second)
		if got := a.alarms(); got != "b behind, c refusing" {
			t.Errorf("after half a minute: %s", got)
		}
		a.metric(`gatehouse_fleet_nodes{state="current"} 1`)
		a.metric(`gatehouse_fleet_nodes{state="behind"} 1`)
		a.metric(`gatehouse_fleet_nodes{state="refusing"} 1`)
		if strings.Contains(a.scrape(), "gatehouse_fleet_lag_seconds 0\n") {
			t.Error("there is no lag")
		}
		b.store.(*flaky).deaf.Store(false)
		c.mended.Store(true)
		time.Sleep(2 * time.Minute)
		if got := a.alarms(); got != "" {
			t.Errorf("after it is over: %s", got)
		}

		// Another of the same name, of another version, and something foreign.
		time.Sleep(1300 * time.Millisecond) // not in step with the first
		twin := join(t, "c", s, options{gateway: true, trusted: ring, version: "v2"})
		if err := s.Put(t.Context(), nodes.Folder, "x", []byte("{"), 0); err != nil {
			t.Fatal(err)
		}
		if err := s.Put(t.Context(), nodes.Folder, "f", []byte(`{"node":"f","instance":"i","file":true}`), 0); err != nil {
			t.Fatal(err)
		}
		if err := s.Put(t.Context(), nodes.Folder, "d", []byte(`{"node":"d","instance":"i","revision":2,"from_disk":true,"version":"v3"}`), 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		got := a.alarms()
		for _, want := range []string{"c twin", "x unreadable", "d from_disk", "versions"} {
			if !strings.Contains(got, want) {
				t.Errorf("%s is not in %s", want, got)
			}
		}
		if strings.Contains(got, "f ") {
			t.Errorf("a node with a config of its own: %s", got)
		}
		a.metric(`gatehouse_fleet_nodes{state="file"} 1`)
		a.metric(`gatehouse_fleet_nodes{state="unreadable"} 1`)
		a.metric(`gatehouse_fleet_nodes{state="from_disk"} 1`)
		for _, m := range []*member{a, b, c, twin} {
			m.leave()
		}
	})
}

// full is a store that can be read only.
type full struct{ store.Store }

var errFull = errors.New("it is full")

func (full) Put(context.Context, string, string, []byte, time.Duration) error { return errFull }

func TestAStoreThatCanOnlyBeReadIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		a := join(t, "a", s, options{})
		a.publish("one")
		b := join(t, "b", full{s}, options{gateway: true, trusted: revision.Keyring{a.key.Public()}})
		time.Sleep(time.Minute)
		if st := b.Status().Store; !st.Up || st.WriteError != "it is full" || time.Since(st.WriteErrorSince) < 50*time.Second {
			t.Errorf("%+v", st)
		}
		b.metric("gatehouse_fleet_store_writable 0")
		a.metric("gatehouse_fleet_store_writable 1")
		if n := strings.Count(b.log.String(), "cannot be written to"); n != 1 {
			t.Errorf("logged %d times", n)
		}
		if b.history() != "one" {
			t.Error(fmt.Sprint("it runs ", b.history()))
		}
		a.leave()
		b.leave()
	})
}
