package strict_test

import (
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
)

// FuzzExpand holds for every text: an escaped text expands to itself, names
// are well-formed, and a text without a reference stays.
func FuzzExpand(f *testing.F) {
	for _, s := range []string{"", "${A}", "$${A}", "$$${A}", "${A:-b}", "${a}", "${A", "${${A}}", "${A:-${B}}", "${}", "$", "${A}$"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		none := func(name, _ string, _ bool) string {
			t.Errorf("Escape(%q) has the reference %q", s, name)
			return ""
		}
		if got := strict.Expand(strict.Escape(s), none); got != s {
			t.Fatalf("Escape(%q) expands to %q", s, got)
		}
		refs := 0
		got := strict.Expand(s, func(name, _ string, _ bool) string {
			refs++
			if name == "" || strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" || name[0] >= '0' && name[0] <= '9' {
				t.Errorf("%q has the reference %q", s, name)
			}
			return "x"
		})
		if strict.HasReference(s) != (refs > 0 || got != s) {
			t.Fatalf("HasReference(%q) is %v", s, strict.HasReference(s))
		}
		if !strings.Contains(s, "${") && got != s {
			t.Fatalf("%q expands to %q", s, got)
		}
	})
}
