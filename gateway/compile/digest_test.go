package compile

import (
	"net/netip"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/config/unit"
)

func TestDigestSeesEveryDifference(t *testing.T) {
	type inner struct {
		Secret unit.Secret
		Nets   []netip.Prefix
	}
	type config struct {
		Name  string
		Share float64
		In    *inner
		Map   map[string]int
	}
	base := func() config {
		return config{"a", 0.5, &inner{"s", []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, map[string]int{"x": 1, "y": 2}}
	}
	want := digest(base())
	if digest(base()) != want {
		t.Fatal("equal values, different digests")
	}
	for name, edit := range map[string]func(*config){
		"string":  func(c *config) { c.Name = "b" },
		"float":   func(c *config) { c.Share = 0.25 },
		"secret":  func(c *config) { c.In.Secret = "t" },
		"prefix":  func(c *config) { c.In.Nets[0] = netip.MustParsePrefix("10.0.0.0/9") },
		"nil":     func(c *config) { c.In = nil },
		"map":     func(c *config) { c.Map["x"] = 3 },
		"map key": func(c *config) { delete(c.Map, "y") },
	} {
		c := base()
		edit(&c)
		if digest(c) == want {
			t.Errorf("%s: the difference was not seen", name)
		}
	}
}
