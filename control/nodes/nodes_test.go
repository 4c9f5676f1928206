package nodes

import (
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store/local"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

func TestNodesCountEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := local.New(t.TempDir())
		defer s.Close() //nolint:errcheck // nothing is left to lose
		join := func(name string) *Announcer {
			a := New(Settings{
				Store: s, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
				Self: func() Member { return Member{Node: name, Instance: "i" + name, File: true} },
			})
			a.Start(t.Context())
			return a
		}
		counts := func(when string, want int, list ...*Announcer) {
			t.Helper()
			for _, a := range list {
				if got := a.Live(); got != want {
					t.Errorf("%s: %d nodes, want %d", when, got, want)
				}
			}
		}
		a := join("a")
		synctest.Wait()
		counts("alone", 1, a)
		b, c := join("b"), join("c")
		time.Sleep(heartbeat + time.Second)
		counts("together", 3, a, b, c)
		list, err := List(t.Context(), s)
		if err != nil || len(list) != 3 || list[1].Node != "b" || !list[1].File {
			t.Errorf("%+v, %v", list, err)
		}
		// Who leaves says so, and counts until that is certain.
		c.Close()
		time.Sleep(heartbeat)
		counts("just gone", 3, a, b)
		time.Sleep(TTL)
		counts("long gone", 2, a, b)
		// What somebody else has written is no node.
		if err := s.Put(t.Context(), Folder, "x", []byte("garbage"), 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * TTL)
		counts("with garbage", 2, a, b)
		// While the store is away the last count stands.
		if err := s.Lend(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * TTL)
		counts("without the store", 2, a, b)
		s.Reclaim()
		time.Sleep(2 * TTL)
		counts("back", 2, a, b)
		a.Close()
		b.Close()
		b.Close()
	})
}
