package config_test

import (
	"bytes"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/config/unit"
)

// same compares configs to the last value, secrets included.
var same = cmp.Options{
	cmpopts.EquateComparable(netip.Prefix{}),
	cmp.Comparer(func(a, b unit.Secret) bool { return a.Reveal() == b.Reveal() }),
}

func TestGoodCorpus(t *testing.T) {
	for name, a := range archives(t, "testdata/good/*.txtar", 9) {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			c, s, dir, err := load(t, a)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := config.Print(&out, c, s); err != nil {
				t.Fatal(err)
			}
			again, s2, err := config.Parse(out.Bytes(), "printed.yaml", kinds(), options(dir))
			if err != nil {
				t.Fatalf("what was printed is refused: %v\n%s", err, out.String())
			}
			if d := cmp.Diff(c, again, same); d != "" {
				t.Errorf("printed and read again, -before +after:\n%s", d)
			}
			var second bytes.Buffer
			if err := config.Print(&second, again, s2); err != nil || second.String() != out.String() {
				t.Errorf("printing twice differs (%v):\n%s", err, cmp.Diff(out.String(), second.String()))
			}
			compare(t, name, a, "want.print", out.String())
		})
	}
}
