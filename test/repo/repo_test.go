package repo_test

import (
	"bufio"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// root is the repository's folder as seen from here.
const root = "../.."

func goFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != root {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") {
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestEveryPackageHasOneComment(t *testing.T) {
	docs := map[string]int{}
	for _, path := range goFiles(t) {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		key := filepath.Dir(path)
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		docs[key] += 0
		if f.Doc != nil {
			docs[key]++
		}
	}
	for dir, n := range docs {
		if n != 1 {
			t.Errorf("%s: %d package comments, want 1", dir, n)
		}
	}
}

// longest is more than a person holds in the head; generated files and test
// tables are exempt.
const longest = 500

func TestFilesAreShort(t *testing.T) {
	for _, path := range goFiles(t) {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		lines, generated := 0, false
		for s := bufio.NewScanner(f); s.Scan(); lines++ {
			generated = generated || strings.HasPrefix(s.Text(), "// Code generated")
		}
		f.Close()
		if lines > longest && !generated {
			t.Errorf("%s: %d lines, want at most %d", path, lines, longest)
		}
	}
}

func TestEveryPluginHasAReadmeInTheSameOrder(t *testing.T) {
	want := []string{"## Name", "## Description", "## Syntax", "## Examples", "## Metrics"}
	notPlugins := []string{"internal", "plugintest"}
	dirs, err := os.ReadDir(root + "/plugins")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if !d.IsDir() || slices.Contains(notPlugins, d.Name()) {
			continue
		}
		path := filepath.Join(root, "plugins", d.Name(), "README.md")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
			continue
		}
		at := -1
		for _, w := range want {
			i := strings.Index(string(text), "\n"+w+"\n")
			if i < 0 || i < at {
				t.Errorf("%s: section %q is missing or out of order", path, w)
			}
			at = i
		}
	}
}

func TestGoRunsWithThePinnedFasthttp(t *testing.T) {
	mod, err := os.ReadFile(root + "/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	// 1.76 and older lose 1xx replies and close-delimited bodies; see docs/adr/0002.
	if !strings.Contains(string(mod), "github.com/valyala/fasthttp v1.77.0") {
		t.Error("go.mod: fasthttp must be v1.77.0")
	}
}

// goleak alone has not the patience for a machine that is busy.
func TestLeaksAreFoundByTestLeak(t *testing.T) {
	alone := regexp.MustCompile(`goleak\.(Verify|Find)`)
	for _, path := range goFiles(t) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if alone.Match(text) && filepath.Dir(path) != filepath.Join(root, "test/leak") {
			t.Errorf("%s: calls goleak, want test/leak to do it", path)
		}
	}
}
