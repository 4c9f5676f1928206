package config

import "github.com/gatehouse-proxy/gatehouse/config/problem"

// Counter is a plugin config that counts where others may count. Two plugins of
// one chain must not count in one place: each request would count twice. name
// tells the place, empty if it is the plugin's own; everywhere says that all
// routes have it in common; key is what a user changes to have another one.
type Counter interface {
	Counts() (name, key string, everywhere bool)
}

// counters checks a list of plugins that come behind the global ones.
func counters(global, list []Plugin, p func() *problem.List) {
	for i, pl := range list {
		c, is := pl.Config.(Counter)
		if !is {
			continue
		}
		name, key, everywhere := c.Counts()
		if name == "" {
			continue
		}
		twin := ""
		if j := counting(global, pl.Name, name); j >= 0 && everywhere {
			twin = index("plugins", j)
		}
		if j := counting(list[:i], pl.Name, name); j >= 0 {
			twin = problem.Join(p().Path(), index("plugins", j))
		}
		if twin != "" {
			p().Under(index("plugins", i)).Add(pl.Name, "is one with %s.%s, so that a request would count twice: give one of them another %s", twin, pl.Name, key)
		}
	}
}

// counting is which plugin of a kind counts in a place; -1: none.
func counting(list []Plugin, kind, place string) int {
	for i, pl := range list {
		if c, is := pl.Config.(Counter); is && pl.Name == kind {
			if name, _, _ := c.Counts(); name == place {
				return i
			}
		}
	}
	return -1
}
