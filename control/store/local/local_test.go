package local_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/control/store/local"
	"github.com/gatehouse-proxy/gatehouse/control/store/storetest"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

func open(t *testing.T, dir string) *local.Store {
	t.Helper()
	s, err := local.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) (store.Store, func() store.Store) {
		s := open(t, t.TempDir())
		return s, func() store.Store { return s } // one node only
	})
}

func TestRevisionsAndValuesOutliveTheProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s, err := local.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(t.Context(), &store.Revision{Number: 1, Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "certs", "a", []byte("y"), 0); err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(time.Hour)
	for range 2 {
		if _, err := s.Count(t.Context(), []store.Count{{Key: "c", N: 3, End: end}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(dir, "store.db"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	s = open(t, dir)
	if r, err := s.Revision(t.Context(), 1); err != nil || string(r.Data) != "x" {
		t.Errorf("%v, %v", r, err)
	}
	if v, err := s.Get(t.Context(), "certs", "a"); err != nil || string(v) != "y" {
		t.Errorf("%q, %v", v, err)
	}
	if out, err := s.Count(t.Context(), []store.Count{{Key: "c", N: 1, End: end}}); err != nil || out[0].Sum != 7 {
		t.Errorf("%+v, %v", out, err)
	}
}

func TestCountersAreWrittenBackByThemselves(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	end := time.Now().Add(time.Hour)
	if _, err := s.Count(t.Context(), []store.Count{{Key: "c", N: 3, End: end}, {Key: "over", N: 1, End: time.Now().Add(-time.Second)}}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "store.db")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		b, err := os.ReadFile(path) // as a crash would leave it
		if err != nil {
			t.Fatal(err)
		}
		crashed := t.TempDir()
		if err := os.WriteFile(filepath.Join(crashed, "store.db"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := local.Open(crashed)
		if err != nil {
			continue // it was being written
		}
		out, err := again.Count(t.Context(), []store.Count{{Key: "c", End: end}, {Key: "over", End: end}})
		if e := again.Close(); err != nil || e != nil {
			t.Fatal(err, e)
		}
		if out[0].Sum == 3 && out[1].Sum == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", out)
		}
	}
}

func TestAFileThatIsNoStoreIsNamed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "store.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("not a store ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := local.Open(dir); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(b), "not a store") {
		t.Errorf("the file was changed: %.20q, %v", b, err)
	}
}

func TestFileIsOpenedByTheFirstUse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := local.New(dir)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("a store nobody uses has left something: %v", err)
	}
	if err := s.Put(t.Context(), "certs", "a", []byte("y"), 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "certs", "a"); err == nil || errors.Is(err, store.ErrNotFound) {
		t.Errorf("a closed store answers: %v", err)
	}
}

// TestLend: while a successor has the file, what uses the store waits.
func TestLend(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	one := open(t, dir)
	if err := one.Put(ctx, "a", "b", []byte("one"), 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := one.Lend(); err != nil {
			t.Fatal(err)
		}
	}
	put := make(chan error, 1)
	go func() { put <- one.Put(ctx, "a", "c", []byte("two"), 0) }()
	two := open(t, dir)
	if b, err := two.Get(ctx, "a", "b"); err != nil || string(b) != "one" {
		t.Errorf("%q, %v", b, err)
	}
	select {
	case err := <-put:
		t.Fatalf("it did not wait: %v", err)
	default:
	}
	if err := two.Close(); err != nil {
		t.Fatal(err)
	}
	one.Reclaim()
	one.Reclaim()
	if err := <-put; err != nil {
		t.Error(err)
	}
	if err := one.Lend(); err != nil {
		t.Fatal(err)
	}
	go func() { put <- one.Put(ctx, "a", "d", nil, 0) }()
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-put; err == nil {
		t.Error("a closed store was used")
	}
}
