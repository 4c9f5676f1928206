package secrets_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/secrets"
	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/control/store/local"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
)

// nobody has no certificates.
type nobody struct{}

// Look implements secrets.Certificates.
func (nobody) Look() {}

// Challenged implements secrets.Certificates.
func (nobody) Challenged(map[string][]byte) []string { return nil }

// holder is a node as far as session tickets go.
type holder struct {
	*secrets.Tickets
	t      *testing.T
	log    *logbook
	cable  *cable
	shared *secrets.Shared
}

const rotate = 10 * time.Minute

// hold makes a node with tickets on a store, in a bubble of synctest.
func hold(t *testing.T, s store.Store, name, secret string) *holder {
	t.Helper()
	h := &holder{t: t, log: &logbook{}, cable: &cable{Store: s}}
	h.shared = secrets.New(secrets.Settings{
		Store: h.cable, Key: key(t, secret), Node: name, Log: slog.New(slog.NewTextHandler(h.log, nil)),
	})
	h.shared.Start(nobody{})
	h.Tickets = h.shared.Tickets(rotate)
	return h
}

func (h *holder) begin() *holder {
	h.t.Helper()
	if err := h.Start(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	return h
}

func (h *holder) end() {
	if err := h.Tickets.Close(context.Background()); err != nil {
		h.t.Error(err)
	}
	h.shared.Close()
	if h.t.Failed() {
		h.t.Log(h.log)
	}
}

// state is the only set's.
func (h *holder) state() secrets.TicketStatus {
	h.t.Helper()
	s := h.shared.Status().Tickets
	if len(s) != 1 {
		h.t.Fatalf("%+v", s)
	}
	return s[0]
}

// honours reports whether a secret is any of the node's.
func (h *holder) honours(secret tlsterm.TicketSecret) bool {
	s := h.Secrets()
	return s.Current == secret || slices.Contains(s.Previous, secret)
}

// bubble runs f with a store of its own, in virtual time.
func bubble(t *testing.T, f func(t *testing.T, s store.Store)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := local.New(dir)
		defer s.Close()
		f(t, s)
	})
}

// agree makes sure that all have the same secret, of this generation.
func agree(t *testing.T, generation uint64, list ...*holder) tlsterm.TicketSecret {
	t.Helper()
	first := list[0].Secrets()
	for _, h := range list {
		if s := h.Secrets(); s.Current != first.Current {
			t.Fatal("they have different secrets")
		}
		if s := h.state(); !s.Shared || s.Generation != generation || s.Error != "" || s.Rotate != rotate.String() || s.Made.IsZero() {
			t.Fatalf("%+v, want generation %d", s, generation)
		}
	}
	return first.Current
}

func TestTicketsOfAFleet(t *testing.T) {
	bubble(t, func(t *testing.T, s store.Store) {
		var list []*holder
		for i := range 3 {
			h := hold(t, s, "n"+strconv.Itoa(i), secret).begin()
			defer h.end()
			list = append(list, h)
		}
		synctest.Wait()
		began := time.Now()
		var seen []tlsterm.TicketSecret
		for generation := range uint64(6) {
			now := agree(t, generation+1, list...)
			if slices.Contains(seen, now) {
				t.Fatal("a secret is used again")
			}
			seen = append(seen, now)
			for i, old := range seen {
				if want := len(seen)-i <= 3; list[2].honours(old) != want {
					t.Errorf("generation %d in %d: honoured %v", i+1, generation+1, !want)
				}
			}
			p := list[0].Secrets()
			due := began.Add(time.Duration(generation+1) * rotate)
			time.Sleep(time.Until(due) - 5*time.Second)
			if list[0].Secrets() != p {
				t.Error("they change too early, or for nothing")
			}
			time.Sleep(time.Until(due) + 70*time.Second) // ten at most, each time
			synctest.Wait()
		}
		// Who joins has them at once, and changes nothing.
		late := hold(t, s, "late", secret).begin()
		defer late.end()
		agree(t, 7, append(list, late)...)
	})
}

// A node without the store goes on with the last secrets, then with its own, and
// comes back; its own are honoured there until they are old.
func TestTicketsWithoutTheStore(t *testing.T) {
	bubble(t, func(t *testing.T, s store.Store) {
		a, b := hold(t, s, "a", secret).begin(), hold(t, s, "b", secret).begin()
		defer a.end()
		defer b.end()
		first := agree(t, 1, a, b)
		a.cable.cut.Store(true)
		time.Sleep(rotate - time.Minute)
		if a.Secrets().Current != first {
			t.Fatal("the last secret was given up early")
		}
		if s := a.state(); s.Error == "" || !s.Shared {
			t.Errorf("%+v", s)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		own := a.Secrets().Current
		if own == first || !a.honours(first) {
			t.Fatal("no secret of its own, or the last one is forgotten")
		}
		if s := a.state(); s.Shared || !strings.Contains(s.Error, "cut") || s.Generation != 0 {
			t.Errorf("%+v", s)
		}
		if n := strings.Count(a.log.String(), "goes on with its own"); n != 1 {
			t.Errorf("said %d times", n)
		}
		time.Sleep(rotate)
		synctest.Wait()
		if a.Secrets().Current == own || !a.honours(own) || !a.honours(first) {
			t.Error("its own secrets do not change as others do")
		}
		second := a.Secrets().Current
		a.cable.cut.Store(false)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		agree(t, 3, a, b)
		if !a.honours(own) || !a.honours(second) {
			t.Error("what it handed out on its own is worth nothing")
		}
		if b.honours(own) {
			t.Error("the others know it")
		}
		time.Sleep(2*rotate + time.Minute)
		synctest.Wait()
		agree(t, 5, a, b)
		if a.honours(own) || a.honours(second) {
			t.Error("they are never forgotten")
		}
	})
}

// A node that starts without the store has secrets of its own until it answers.
func TestTicketsStartWithoutTheStore(t *testing.T) {
	bubble(t, func(t *testing.T, s store.Store) {
		a := hold(t, s, "a", secret)
		defer a.end()
		a.cable.cut.Store(true)
		own := a.Secrets().Current
		a.begin()
		if a.Secrets().Current != own || a.state().Shared {
			t.Error("secrets from nowhere")
		}
		a.cable.cut.Store(false)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if agree(t, 1, a) == own || !a.honours(own) {
			t.Error("not the fleet's, or the first ones are forgotten")
		}
	})
}

func TestTicketsInAnEmptiedStore(t *testing.T) {
	bubble(t, func(t *testing.T, s store.Store) {
		a, b := hold(t, s, "a", secret).begin(), hold(t, s, "b", secret).begin()
		defer a.end()
		defer b.end()
		time.Sleep(rotate + 2*time.Minute)
		synctest.Wait()
		before := agree(t, 2, a, b)
		list, err := s.List(t.Context(), "secrets")
		for _, v := range list {
			err = errors.Join(err, s.Delete(t.Context(), "secrets", v.Name))
		}
		if err != nil || len(list) < 4 {
			t.Fatal(list, err)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if agree(t, 2, a, b) != before {
			t.Error("another secret")
		}
		c := hold(t, s, "c", secret).begin()
		defer c.end()
		agree(t, 2, a, b, c)
		// What was left of the time goes on.
		time.Sleep(rotate - 4*time.Minute)
		synctest.Wait()
		agree(t, 2, a, b, c)
		time.Sleep(4 * time.Minute)
		synctest.Wait()
		agree(t, 3, a, b, c)
	})
}

// Whatever stands under our names, nodes agree again, and never on something
// that the store made up.
func TestTicketsAndWrongData(t *testing.T) {
	for name, spoil := range map[string]map[string]string{
		"garbage":          {"tickets-600": "garbage"},
		"empty":            {"tickets-600": ""},
		"another entry":    {"tickets-600": "KEY"},
		"a mark of words":  {"rotation-600": "soon"},
		"a mark far ahead": {"rotation-600": "9007199254740993"},
		"no mark":          {"rotation-600": "-"},
		"an old mark":      {"rotation-600": "1"},
		"a key's ID":       {"key": "none"},
		"both":             {"tickets-600": "x", "rotation-600": "18446744073709551615"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s store.Store) {
				a, b := hold(t, s, "a", secret).begin(), hold(t, s, "b", secret).begin()
				defer a.end()
				defer b.end()
				time.Sleep(rotate + time.Minute)
				synctest.Wait()
				before := agree(t, 2, a, b)
				var err error
				for entry, text := range spoil {
					data := []byte(text)
					switch text {
					case "KEY":
						data = key(t, secret).Seal("certificate-x", []byte("x"))
					case "-":
						data = nil
					}
					if data == nil {
						err = errors.Join(err, s.Delete(t.Context(), "secrets", entry))
					} else {
						err = errors.Join(err, s.Put(t.Context(), "secrets", entry, data, 0))
					}
				}
				if err = errors.Join(err, s.Put(t.Context(), "secrets", "version", []byte(name), 0)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(15 * time.Second)
				synctest.Wait()
				generation := a.state().Generation
				agree(t, generation, a, b)
				if generation < 2 || generation > 3 || !a.honours(before) || !b.honours(before) {
					t.Errorf("generation %d", generation)
				}
			})
		})
	}
}

// An old set, sealed as it should be, does not come back.
func TestTicketsAreNotTurnedBack(t *testing.T) {
	bubble(t, func(t *testing.T, s store.Store) {
		a := hold(t, s, "a", secret).begin()
		defer a.end()
		synctest.Wait()
		old, err := s.Get(t.Context(), "secrets", "tickets-600")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3*rotate + time.Minute)
		synctest.Wait()
		now := agree(t, 4, a)
		if err := s.Put(t.Context(), "secrets", "tickets-600", old, 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if a.Secrets().Current != now && !a.honours(now) {
			t.Error("an old secret is current again")
		}
		if after, err := s.Get(t.Context(), "secrets", "tickets-600"); err != nil || string(after) == string(old) {
			t.Error("the old set is still there")
		}
	})
}

// A node with another secret takes nothing, and spoils nothing; once all have
// the new secret and somebody has removed the old one's ID, it goes on with that.
func TestTicketsWithAnotherSecret(t *testing.T) {
	bubble(t, func(t *testing.T, s store.Store) {
		a := hold(t, s, "a", secret).begin()
		defer a.end()
		now := agree(t, 1, a)
		b := hold(t, s, "b", otherSecret).begin()
		defer b.end()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if x := b.state(); x.Shared || !strings.Contains(x.Error, "node.secret_key") || b.honours(now) {
			t.Errorf("%+v", x)
		}
		if n := strings.Count(b.log.String(), "this node shares no certificates"); n != 1 {
			t.Errorf("said %d times", n)
		}
		if agree(t, 1, a) != now {
			t.Error("another secret")
		}
		// The ID goes while an old node is alive: it puts it back.
		if err := s.Delete(t.Context(), "secrets", "key"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if b.state().Shared || !a.state().Shared {
			t.Error("the secret of the fleet has changed under a live node")
		}
		a.end()
		if err := s.Delete(t.Context(), "secrets", "key"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		agree(t, b.state().Generation, b)
		if b.honours(now) {
			t.Error("it knows what it cannot read")
		}
	})
}
