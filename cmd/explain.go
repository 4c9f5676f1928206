package cmd

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway"
	"github.com/gatehouse-proxy/gatehouse/gateway/compile"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
)

type explainCommand struct {
	Config   []string `short:"c" required:"" sep:"none" help:"Config file, or a folder of them; may be repeated." placeholder:"FILE"`
	Method   string   `arg:"" help:"Method, such as GET."`
	URL      string   `arg:"" help:"Address, such as http://api.example.com/v1/users?id=1."`
	Header   []string `short:"H" sep:"none" help:"Header field, 'Name: value'; may be repeated." placeholder:"FIELD"`
	Listener string   `help:"Listener the request enters by; default: the first by name that speaks HTTP." placeholder:"NAME"`
}

// Run prints what the request would meet, in order.
func (x *explainCommand) Run(env *environment) error {
	cfg, src, err := loadConfig(x.Config, env.plugins)
	if err != nil {
		return &usageError{err}
	}
	head, err := x.head()
	if err != nil {
		return &usageError{fmt.Errorf("gatehouse: %w", err)}
	}
	result, err := dryRun(env, cfg, src)
	if err != nil {
		return &usageError{err}
	}
	l, err := x.pick(result.Snapshot)
	if err != nil {
		return &usageError{fmt.Errorf("gatehouse: %w", err)}
	}
	if passed := result.Streams[l.Name]; l.Protocol != snapshot.HTTP {
		x.printStreams(env, l, cfg.Listeners[l.Name].Protocol, passed)
		return nil
	}
	e := gateway.Explain(l, head)
	x.print(env, l, &e, result.Plans)
	return nil
}

func (x *explainCommand) head() (*fasthttp.RequestHeader, error) {
	u, err := url.Parse(x.URL)
	if err != nil {
		return nil, err
	}
	if u.Host == "" {
		return nil, fmt.Errorf("%q: the address needs a host, as in http://api.example.com/path", x.URL)
	}
	// What url.Parse makes of the path is not what a client would send: take it as written.
	_, rest, _ := strings.Cut(x.URL, "://")
	target := "/"
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		target, _, _ = strings.Cut(rest[i:], "#")
	}
	if target[0] == '?' {
		target = "/" + target
	}
	h := &fasthttp.RequestHeader{}
	h.SetMethod(strings.ToUpper(x.Method))
	h.SetRequestURI(target)
	h.SetHost(u.Host)
	for _, f := range x.Header {
		name, value, ok := strings.Cut(f, ":")
		if !ok || strings.TrimSpace(name) == "" {
			return nil, fmt.Errorf("-H %q: must be 'Name: value'", f)
		}
		h.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return h, nil
}

func (x *explainCommand) pick(s *snapshot.Snapshot) (*snapshot.Listener, error) {
	var names []string
	byName := map[string]*snapshot.Listener{}
	for _, l := range s.Listeners {
		names = append(names, l.Name)
		byName[l.Name] = l
	}
	slices.Sort(names)
	if len(names) == 0 {
		return nil, errors.New("this node's config comes from the store: give the files that are published")
	}
	if x.Listener == "" {
		for _, n := range names {
			if byName[n].Protocol == snapshot.HTTP {
				return byName[n], nil
			}
		}
		return byName[names[0]], nil
	}
	if l := byName[x.Listener]; l != nil {
		return l, nil
	}
	return nil, fmt.Errorf("--listener %q is not defined; known: %s", x.Listener, strings.Join(names, ", "))
}

func (x *explainCommand) print(env *environment, l *snapshot.Listener, e *gateway.Explanation, plans map[string]compile.Plan) {
	fmt.Fprintf(env.out, "listener   %s (%s)\n", l.Name, l.Address)
	if e.Refused != "" {
		fmt.Fprintf(env.out, "refused    %s, before any route is looked for\n", e.Refused)
		return
	}
	fmt.Fprintf(env.out, "host       %s\npath       %s\n", e.Host, e.Path)
	if e.Route == "" {
		fmt.Fprintln(env.out, "route      none: 404 no_route, after the global plugins")
	} else {
		p := plans[e.Route]
		steps := strings.Join(p.Steps, " → ")
		if steps == "" {
			steps = "none"
		}
		fmt.Fprintf(env.out, "route      %s\nplugins    %s\naction     %s\n", e.Route, steps, p.Action)
	}
	if len(e.Candidates) == 0 {
		return
	}
	fmt.Fprintln(env.out, "looked at  (in order of precedence)")
	for _, c := range e.Candidates {
		verdict := "does not match: " + c.Failed
		if c.Failed == "" {
			verdict = "matches"
		}
		fmt.Fprintf(env.out, "  %-20s host %s, path %s: %s\n", c.Route, c.Host, orAny(c.Path), verdict)
	}
}

// printStreams is for a listener that reads no requests.
func (x *explainCommand) printStreams(env *environment, l *snapshot.Listener, protocol string, passed map[string]string) {
	fmt.Fprintf(env.out, "listener   %s (%s), which speaks %s and reads no requests\n", l.Name, l.Address, protocol)
	for _, name := range slices.Sorted(maps.Keys(passed)) {
		if name == "" {
			continue
		}
		shown := name
		if name[0] == '.' {
			shown = "*" + name
		}
		fmt.Fprintf(env.out, "  %-20s %s\n", shown, passed[name])
	}
	switch {
	case passed[""] != "":
		fmt.Fprintf(env.out, "  %-20s %s\n", "any", passed[""])
	default:
		fmt.Fprintf(env.out, "  %-20s refused: 404 l4_no_route\n", "any other")
	}
}

func orAny(path string) string {
	if path == "" {
		return "any"
	}
	return path
}
