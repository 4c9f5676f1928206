package config_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/gatehouse-proxy/gatehouse/config"
)

var update = flag.Bool("update", false, "write the expected results anew; read the difference")

// environment is what the corpus may refer to.
func environment(name string) (string, bool) {
	v, ok := map[string]string{
		"PORT": "8080", "HOST": "127.0.0.1", "SECRET": "0123456789abcdef", "LONG_SECRET": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3", "EMPTY": "", "WORD": "abc",
	}[name]
	return v, ok
}

// options reads from dir alone.
func options(dir string) config.Options {
	return config.Options{Env: environment, Dir: dir}
}

// unpack writes the files of an archive but those called want.*.
func unpack(t *testing.T, a *txtar.Archive) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range a.Files {
		if strings.HasPrefix(f.Name, "want.") {
			continue
		}
		name := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// load loads in.yaml of an archive, or the folder conf if there is one.
func load(t *testing.T, a *txtar.Archive) (c *config.Config, s *config.Source, dir string, err error) {
	t.Helper()
	dir = unpack(t, a)
	path := filepath.Join(dir, "in.yaml")
	if _, err := os.Stat(filepath.Join(dir, "conf")); err == nil {
		path = filepath.Join(dir, "conf")
	}
	c, s, err = config.Load([]string{path}, kinds(), options(dir))
	return c, s, dir, err
}

func archives(t testing.TB, pattern string, least int) map[string]*txtar.Archive {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) < least {
		t.Fatalf("%s: %d files, want at least %d (%v)", pattern, len(names), least, err)
	}
	out := make(map[string]*txtar.Archive, len(names))
	for _, n := range names {
		a, err := txtar.ParseFile(n)
		if err != nil {
			t.Fatal(err)
		}
		out[n] = a
	}
	return out
}

func TestBadCorpus(t *testing.T) {
	for name, a := range archives(t, "testdata/bad/*.txtar", 90) {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			c, s, dir, err := load(t, a)
			if err == nil || c != nil || s == nil {
				t.Fatalf("accepted: config %v, source %v", c, s)
			}
			var all config.Problems
			if !errors.As(err, &all) || len(all) == 0 {
				t.Fatalf("error is a %T: %v", err, err)
			}
			got := strings.ReplaceAll(err.Error(), dir+string(filepath.Separator), "") + "\n"
			compare(t, name, a, "want.err", got)
		})
	}
}

// compare compares with, or writes, one file of an archive.
func compare(t *testing.T, name string, a *txtar.Archive, file, got string) {
	t.Helper()
	for i := range a.Files {
		if a.Files[i].Name != file {
			continue
		}
		if *update {
			a.Files[i].Data = []byte(got)
			break
		}
		if d := cmp.Diff(string(a.Files[i].Data), got); d != "" {
			t.Fatalf("want -, got +:\n%s", d)
		}
		return
	}
	if !*update {
		t.Fatalf("%s has no %s; run with -update", name, file)
	}
	if !strings.Contains(string(txtar.Format(a)), "-- "+file+" --") {
		a.Files = append(a.Files, txtar.File{Name: file, Data: []byte(got)})
	}
	if err := os.WriteFile(name, txtar.Format(a), 0o600); err != nil {
		t.Fatal(err)
	}
}
