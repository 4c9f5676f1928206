package cmd

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/gateway"
	"github.com/gatehouse-proxy/gatehouse/gateway/compile"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
)

type explainCommand struct {
	Config   []string `short:"c" required:"" sep:"none" help:"Config file, or a folder of them; may be repeated." placeholder:"FILE"`
	Method   string   `arg:"" help:"Method, such as GET."`
	URL      string   `arg:"" help:"Address, such as http://api.example.com/v1/users?id=1."`
	Header   []string `short:"H" sep:"none" help:"Header field, 'Name: value'; may be repeated." placeholder:"FIELD"`
	Listener string   `help:"Listener the request enters by; default: the one whose port and scheme the address has, else the first by name that speaks HTTP." placeholder:"NAME"`
}

// Run prints what the request would meet, in order.
func (x *explainCommand) Run(env *environment) error {
	cfg, src, err := loadConfig(x.Config, env.plugins)
	if err != nil {
		return &usageError{err}
	}
	u, head, err := x.head()
	if err != nil {
		return &usageError{fmt.Errorf("gatehouse: %w", err)}
	}
	result, err := dryRunAs(env, cfg, src, compile.Sketch)
	if err != nil {
		return &usageError{err}
	}
	l, err := x.pick(result.Snapshot, u)
	if err != nil {
		return &usageError{fmt.Errorf("gatehouse: %w", err)}
	}
	passed := result.Streams[l.Name]
	if l.Protocol != snapshot.HTTP {
		x.printStreams(env, l, cfg.Listeners[l.Name].Protocol, passed)
		return nil
	}
	fmt.Fprintf(env.out, "listener   %s (%s)\n", l.Name, l.Address)
	if to := passedOn(passed, strings.ToLower(u.Hostname())); to != "" {
		fmt.Fprintf(env.out, "name       %s, in the TLS handshake: %s, unopened\n", strings.ToLower(u.Hostname()), to)
		return nil
	}
	e := gateway.Explain(l, head)
	if r := cfg.Listeners[l.Name].RedirectToHTTPS; r != nil && e.Refused == "" {
		x.printRedirect(env, &e, r)
		return nil
	}
	x.print(env, &e, result.Plans)
	return nil
}

func (x *explainCommand) head() (*url.URL, *fasthttp.RequestHeader, error) {
	u, err := url.Parse(x.URL)
	if err != nil {
		return nil, nil, err
	}
	if u.Host == "" {
		return nil, nil, fmt.Errorf("%q: the address needs a host, as in http://api.example.com/path", x.URL)
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
			return nil, nil, fmt.Errorf("-H %q: must be 'Name: value'", f)
		}
		h.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return u, h, nil
}

func (x *explainCommand) pick(s *snapshot.Snapshot, u *url.URL) (*snapshot.Listener, error) {
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
		likely, most := byName[names[0]], -1
		for _, n := range names {
			if points := likeliness(byName[n], u); points > most {
				likely, most = byName[n], points
			}
		}
		return likely, nil
	}
	if l := byName[x.Listener]; l != nil {
		return l, nil
	}
	return nil, fmt.Errorf("--listener %q is not defined; known: %s", x.Listener, strings.Join(names, ", "))
}

// likeliness orders listeners by how well they fit an address: its port says
// most, then that requests are read at all, then whether TLS is spoken.
func likeliness(l *snapshot.Listener, u *url.URL) int {
	secure, points := strings.EqualFold(u.Scheme, "https"), 0
	port := u.Port()
	switch {
	case port != "":
	case secure:
		port = "443"
	default:
		port = "80"
	}
	if _, own, _ := net.SplitHostPort(l.Address); own == port && l.Protocol != snapshot.UDP {
		points += 4
	}
	if l.Protocol == snapshot.HTTP {
		points += 2
	}
	if secure == (l.TLS != nil) {
		points++
	}
	return points
}

// passedOn says where a name goes that is passed on unopened; empty: it is not.
func passedOn(plans map[string]string, name string) string {
	for at := plans[name]; ; at = plans[name] {
		i := strings.IndexByte(name[min(1, len(name)):], '.')
		if at != "" || i < 0 {
			return at
		}
		name = name[i+1:] // ".REST"
	}
}

// printRedirect is for a listener in plain text that sends clients to https.
func (x *explainCommand) printRedirect(env *environment, e *gateway.Explanation, r *config.HTTPSRedirect) {
	to := "https://" + e.Host
	if r.Port != 443 {
		to += fmt.Sprintf(":%d", r.Port)
	}
	fmt.Fprintf(env.out, "host       %s\npath       %s\nroute      redirect_to_https of the listener, before any other\naction     redirect with %d to %s\n",
		e.Host, e.Path, r.Status, to)
}

func (x *explainCommand) print(env *environment, e *gateway.Explanation, plans map[string]compile.Plan) {
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
