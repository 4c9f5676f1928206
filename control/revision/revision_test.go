package revision_test

import (
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/control/revision"
	"github.com/gatehouse-proxy/gatehouse/control/store"
)

func key(t *testing.T) *revision.Key {
	t.Helper()
	k, created, err := revision.LoadOrCreateKey(filepath.Join(t.TempDir(), "sub", "control.key"))
	if err != nil || !created {
		t.Fatal(created, err)
	}
	return k
}

var noon = time.Date(2026, 3, 4, 12, 0, 0, 123456789, time.FixedZone("x", 3600))

func TestAPublishedRevisionIsVerified(t *testing.T) {
	k, other := key(t), key(t)
	data, err := revision.Pack([]config.File{{Name: "/etc/gatehouse/a.yaml", Data: []byte("a: 1\n")}, {Name: "b.yaml"}})
	if err != nil {
		t.Fatal(err)
	}
	r := k.New(7, data, "ann", "why", noon)
	if err := (revision.Keyring{other.Public(), k.Public()}).Verify(r); err != nil {
		t.Error(err)
	}
	files, err := revision.Unpack(r.Data)
	want := []config.File{{Name: "a.yaml", Data: []byte("a: 1\n")}, {Name: "b.yaml"}}
	if err != nil || !reflect.DeepEqual(files, want) {
		t.Errorf("%v, %v", files, err)
	}
}

func TestWhateverIsChangedShows(t *testing.T) {
	k, other := key(t), key(t)
	ring := revision.Keyring{k.Public()}
	for name, change := range map[string]func(r *store.Revision){
		"number":           func(r *store.Revision) { r.Number++ },
		"data":             func(r *store.Revision) { r.Data = []byte("other") },
		"data and digest":  func(r *store.Revision) { r.Data = []byte("other"); r.Digest = revision.Digest(r.Data) },
		"digest":           func(r *store.Revision) { r.Digest = revision.Digest(nil) },
		"author":           func(r *store.Revision) { r.Author = "bob" },
		"message":          func(r *store.Revision) { r.Message = "" },
		"author's end":     func(r *store.Revision) { r.Author, r.Message = "annw", "hy" },
		"time":             func(r *store.Revision) { r.Time = r.Time.Add(time.Second) },
		"signature":        func(r *store.Revision) { r.Signature[3] ^= 1 },
		"no signature":     func(r *store.Revision) { r.Signature = nil },
		"signed by others": func(r *store.Revision) { *r = *other.New(7, r.Data, "ann", "why", noon) },
		"no key":           func(r *store.Revision) { r.KeyID = "" },
		"others' signature under our name": func(r *store.Revision) {
			r.Signature = other.New(7, r.Data, "ann", "why", noon).Signature
		},
	} {
		r := k.New(7, []byte("data"), "ann", "why", noon)
		change(r)
		err := ring.Verify(r)
		want := revision.ErrBadSignature
		if r.KeyID != k.Public().ID() {
			want = revision.ErrUnknownKey
		}
		if !errors.Is(err, want) || !strings.Contains(err.Error(), "revision ") {
			t.Errorf("%s: got %v, want %v", name, err, want)
		}
	}
	if err := (revision.Keyring{}).Verify(k.New(1, nil, "", "", noon)); !errors.Is(err, revision.ErrUnknownKey) {
		t.Errorf("nobody is trusted: %v", err)
	}
}

func TestPackAndUnpackRefuse(t *testing.T) {
	if _, err := revision.Pack([]config.File{{Name: "a/x.yaml"}, {Name: "b/x.yaml"}}); err == nil ||
		!strings.Contains(err.Error(), "a/x.yaml and b/x.yaml") {
		t.Errorf("got %v", err)
	}
	for _, bad := range []string{
		``, `{}`, `[]`, `{"files":[]}`, `{"files":[{"name":"a"}]} x`, `{"files":[{"name":"a"}],"more":1}`,
		`{"files":[{"name":""}]}`, `{"files":[{"name":".."}]}`, `{"files":[{"name":"/etc/passwd"}]}`, `{"files":[{"name":"a\u0000b"}]}`,
		`{"files":[{"name":"a"},{"name":"a"}]}`, `{"files":[{"name":"a","data":"%"}]}`,
	} {
		if files, err := revision.Unpack([]byte(bad)); err == nil {
			t.Errorf("%s was unpacked to %v", bad, files)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte(`{"files":[{"name":"a.yaml","data":"YTogMQo="}]}`))
	f.Add([]byte(`{"files":[{"name":"../a"}]}`))
	f.Add([]byte(`{"files":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		files, err := revision.Unpack(data)
		if err != nil {
			return
		}
		again, err := revision.Pack(files)
		if err != nil {
			t.Fatal(err)
		}
		if twice, err := revision.Unpack(again); err != nil || len(twice) != len(files) {
			t.Fatalf("%v, %v", twice, err)
		}
	})
}

func TestPublicKeysAsText(t *testing.T) {
	p := key(t).Public()
	got, err := revision.ParsePublicKey(p.String())
	if err != nil || !reflect.DeepEqual(got, p) || len(p.ID()) != 12 {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "ed25519:", "rsa:" + base64.StdEncoding.EncodeToString(p), p.String() + "=", p.String()[:40]} {
		if _, err := revision.ParsePublicKey(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestTheKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.key")
	var keys [8]*revision.Key
	var wg sync.WaitGroup
	made := make(chan bool, len(keys))
	for i := range keys {
		wg.Go(func() {
			k, created, err := revision.LoadOrCreateKey(path)
			if err != nil {
				t.Error(err)
			}
			keys[i] = k
			made <- created
		})
	}
	wg.Wait()
	n := 0
	for range keys {
		if <-made {
			n++
		}
	}
	for _, k := range keys {
		if n != 1 || k.Public().String() != keys[0].Public().String() {
			t.Fatalf("%d keys were made by processes that began at once", n)
		}
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	pipe := filepath.Join(t.TempDir(), "pipe.key")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := revision.LoadKey(pipe); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("a pipe: %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, _, err := revision.LoadOrCreateKey(path); err == nil || !strings.Contains(err.Error(), "0640") {
		t.Errorf("a key that others can read was taken: %v", err)
	}
	for _, bad := range []string{"", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		path := filepath.Join(t.TempDir(), "bad.key")
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := revision.LoadOrCreateKey(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("got %v", err)
		}
		if b, _ := os.ReadFile(path); string(b) != bad {
			t.Error("the file was overwritten")
		}
	}
}
