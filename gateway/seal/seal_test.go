package seal_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/seal"
)

func TestOnlyTheSameKeyAndNameOpen(t *testing.T) {
	one, err := seal.New(strings.Repeat("a", seal.MinSecret))
	if err != nil {
		t.Fatal(err)
	}
	two, err := seal.New(strings.Repeat("b", seal.MinSecret))
	if err != nil {
		t.Fatal(err)
	}
	plain := []byte("-----BEGIN PRIVATE KEY-----")
	sealed := one.Seal("cert-a", plain)
	if got, err := one.Open("cert-a", sealed); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("%q, %v", got, err)
	}
	if bytes.Contains(sealed, []byte("PRIVATE")) || bytes.Equal(sealed, one.Seal("cert-a", plain)) {
		t.Error("it can be read, or tells that the same was sealed twice")
	}
	refuse := func(what string, k *seal.Key, name string, b []byte) {
		t.Helper()
		if got, err := k.Open(name, b); !errors.Is(err, seal.ErrForeign) || got != nil {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
	refuse("another key", two, "cert-a", sealed)
	refuse("another name", one, "cert-b", sealed)
	refuse("plain text", one, "cert-a", plain)
	refuse("nothing", one, "cert-a", nil)
	for i := range sealed {
		refuse("cut", one, "cert-a", sealed[:i])
		b := bytes.Clone(sealed)
		b[i] ^= 1
		refuse("one bit", one, "cert-a", b)
	}
}

func TestTheFileIsMadeOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data", "secret.key")
	keys := make([]*seal.Key, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			k, err := seal.Load(path)
			if err != nil {
				t.Error(err)
			}
			keys[i] = k
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for _, k := range keys {
		if got, err := keys[0].Open("x", k.Seal("x", []byte("y"))); err != nil || string(got) != "y" {
			t.Fatal("two nodes of one folder have two keys")
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if list, err := os.ReadDir(filepath.Dir(path)); err != nil || len(list) != 1 {
		t.Errorf("left behind: %v, %v", list, err)
	}
}

func TestFilesThatAreNoKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret.key")
	write := func(text string, mode os.FileMode) error {
		t.Helper()
		os.Remove(path)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		_, err := seal.Load(path)
		return err
	}
	long := strings.Repeat("x", seal.MinSecret)
	if err := write(long+"\n", 0o600); err != nil {
		t.Error(err)
	}
	if err := write(long, 0o644); err == nil || !strings.Contains(err.Error(), "may be read by others (mode 0644)") {
		t.Errorf("readable for everybody: %v", err)
	}
	if err := write("short\n", 0o600); err == nil || !strings.Contains(err.Error(), "must have at least 32 bytes, has 5") || !strings.Contains(err.Error(), path) {
		t.Errorf("too short: %v", err)
	}
	os.Remove(path)
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Load(path); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("a pipe: %v", err)
	}
	os.Remove(path)
	if err := write(long, 0o600); err != nil {
		t.Error(err)
	}
	if _, err := seal.Load(filepath.Join(path, "below-a-file")); err == nil {
		t.Error("a folder that cannot be made")
	}
}
