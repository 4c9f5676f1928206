package repo_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strings"
	"testing"
)

// twice is what make test runs a second time without the race detector, by name.
var twice = regexp.MustCompile(`Alloc|Memory`)

// The concurrent packages are tested under the race detector only, which makes
// allocations of its own. A test that asks less of the code there must have a
// name that make test runs without it too.
func TestWhatTheRaceDetectorHidesIsNamed(t *testing.T) {
	found := 0
	for _, path := range goFiles(t) {
		if !strings.HasSuffix(path, "_test.go") || strings.Contains(path, "test/repo/") {
			continue
		}
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text := string(source)
		if !strings.Contains(text, "raceEnabled") && !strings.HasPrefix(text, "//go:build !race") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, source, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || !strings.HasPrefix(fn.Name.Name, "Test") || fn.Name.Name == "TestMain" {
				continue
			}
			body := text[fn.Pos()-f.FileStart : fn.End()-f.FileStart]
			if !strings.HasPrefix(text, "//go:build !race") && !strings.Contains(body, "raceEnabled") {
				continue
			}
			found++
			if !twice.MatchString(fn.Name.Name) {
				t.Errorf("%s: %s depends on the race detector; its name must match %s", path, fn.Name.Name, twice)
			}
		}
	}
	if found < 10 {
		t.Errorf("only %d tests depend on the race detector: this test looks in the wrong place", found)
	}
	makefile, err := os.ReadFile(root + "/Makefile")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(makefile), "-run '"+twice.String()+"' $(RACED)") {
		t.Error("the Makefile does not run those tests by the same pattern")
	}
}
