package fleet

import (
	"context"
	"maps"
	"reflect"
	"slices"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/control/revision"
)

// Change is one named part of a config that another config has not, or has
// differently.
type Change struct {
	// Kind is where it stands: listeners, certificates, upstreams, consumers,
	// waf.policies, waf.patches, routes, plugins or waf.
	Kind string `json:"kind"`
	// Name is empty where there are no names.
	Name string `json:"name,omitempty"`
	// What is added, changed or removed.
	What string `json:"what"`
}

// Plan is what publishing a draft would change.
type Plan struct {
	// Revision it was compared with; 0: there is none.
	Revision uint64   `json:"revision"`
	Changes  []Change `json:"changes"`
	// Diff of the texts in unified form.
	Diff string `json:"diff"`
	// Warnings are about what the config hardly means.
	Warnings config.Problems `json:"-"`
}

// Plan checks packed files as Publish would and tells what would change.
func (p *Publisher) Plan(ctx context.Context, data []byte) (*Plan, error) {
	cfg, src, err := p.read(ctx, data)
	if err != nil {
		return nil, err
	}
	n, err := p.latest(ctx)
	if err != nil {
		return nil, err
	}
	plan := &Plan{Revision: n}
	old := new(config.Config)
	old.WAF.EventLog = cfg.WAF.EventLog // compared with nothing, it is no change
	var files []config.File
	if n > 0 {
		r, err := p.Revision(ctx, n)
		if err != nil {
			return nil, err
		}
		if files, err = revision.Unpack(r.Data); err != nil {
			return nil, err
		}
		if before, _, err := p.s.Parse(files); err == nil { // else all of it is new to this node
			old = before
		}
	}
	plan.Changes, plan.Diff = Compare(old, cfg), TextDiff(files, src.Files)
	if p.s.Advise != nil {
		plan.Warnings = p.s.Advise(cfg, src)
	}
	return plan, nil
}

// Compare lists what is different in b, by kind and name.
func Compare(a, b *config.Config) []Change {
	out := []Change{}
	out = changes(out, "listeners", a.Listeners, b.Listeners)
	out = changes(out, "certificates", a.Certificates, b.Certificates)
	out = changes(out, "upstreams", a.Upstreams, b.Upstreams)
	out = changes(out, "consumers", a.Consumers, b.Consumers)
	out = changes(out, "waf.policies", a.WAF.Policies, b.WAF.Policies)
	out = changes(out, "waf.patches", a.WAF.Patches, b.WAF.Patches)
	restA, restB := a.WAF, b.WAF
	restA.Policies, restA.Patches, restB.Policies, restB.Patches = nil, nil, nil, nil
	if !reflect.DeepEqual(restA, restB) {
		out = append(out, Change{Kind: "waf", What: "changed"})
	}
	if !slices.EqualFunc(a.Plugins, b.Plugins, func(x, y config.Plugin) bool { return reflect.DeepEqual(x, y) }) {
		out = append(out, Change{Kind: "plugins", What: "changed"})
	}
	return changes(out, "routes", a.Routes, b.Routes)
}

func changes[V any](out []Change, kind string, a, b map[string]V) []Change {
	names := slices.Sorted(maps.Keys(b))
	for name := range a {
		if _, there := b[name]; !there {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		old, was := a[name]
		now, is := b[name]
		switch {
		case !was:
			out = append(out, Change{kind, name, "added"})
		case !is:
			out = append(out, Change{kind, name, "removed"})
		case !reflect.DeepEqual(old, now):
			out = append(out, Change{kind, name, "changed"})
		}
	}
	return out
}

// TextDiff is the difference of files in unified form. A config that is one file
// is compared whatever the file is called.
func TextDiff(a, b []config.File) string {
	if len(a) == 1 && len(b) == 1 {
		return string(diff.Diff("a/"+a[0].Name, a[0].Data, "b/"+b[0].Name, b[0].Data))
	}
	text := func(list []config.File, name string) []byte {
		if i := slices.IndexFunc(list, func(f config.File) bool { return f.Name == name }); i >= 0 {
			return list[i].Data
		}
		return nil
	}
	names := map[string]bool{}
	for _, f := range slices.Concat(a, b) {
		names[f.Name] = true
	}
	var out []byte
	for _, name := range slices.Sorted(maps.Keys(names)) {
		out = append(out, diff.Diff("a/"+name, text(a, name), "b/"+name, text(b, name))...)
	}
	return string(out)
}
