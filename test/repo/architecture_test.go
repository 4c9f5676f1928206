package repo_test

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestArchitectureIsTrue: docs/architecture.md has a place for every package,
// and every path and function it names is there.
func TestArchitectureIsTrue(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	folders := map[string]bool{}
	for _, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, "| `") {
			for _, f := range foldersOf(strings.SplitN(line, "|", 3)[1]) {
				folders[f] = true
			}
		}
	}
	for f := range folders {
		if st, err := os.Stat(filepath.Join(root, f)); err != nil || !st.IsDir() {
			t.Errorf("%s/ is in the table of folders, and not there", f)
		}
	}
	for _, p := range packages(t) {
		if !placed(p.ImportPath, folders) {
			t.Errorf("%s has no place in docs/architecture.md", p.ImportPath)
		}
	}
	// `folder/file.go` and maybe (`Function`)
	files := regexp.MustCompile("`([a-z0-9_]+/[a-z0-9_/]*\\.go)`(?: \\(`(\\w+)`\\))?")
	for _, m := range files.FindAllStringSubmatch(string(text), -1) {
		code, err := os.ReadFile(filepath.Join(root, m[1]))
		if err != nil {
			t.Error(err)
			continue
		}
		if m[2] != "" && !regexp.MustCompile(`(?m)^func (\([^)]*\) )?`+m[2]+`\(`).Match(code) {
			t.Errorf("%s has no function %s", m[1], m[2])
		}
	}
}

// foldersOf are the folders of a row: those behind the first stand beside it, or
// in it, unless they are written out.
func foldersOf(cell string) (out []string) {
	for i, m := range regexp.MustCompile("`([^`]+)/`").FindAllStringSubmatch(cell, -1) {
		f := m[1]
		if i > 0 && !strings.HasPrefix(f, "docs/") && strings.Contains(out[0], "/") {
			f = path.Join(path.Dir(out[0]), f)
		}
		out = append(out, f)
	}
	return out
}

// placed is true if a folder of the table is p's, or has it as a part. That of
// gateway/ and control/ are those packages alone.
func placed(p string, folders map[string]bool) bool {
	for f := p; f != "."; f = path.Dir(f) {
		if folders[f] && (f == p || f != "gateway" && f != "control") {
			return true
		}
	}
	return false
}
