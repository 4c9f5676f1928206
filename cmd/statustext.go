package cmd

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/gatehouse-proxy/gatehouse/gateway/compile"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

// wrong lists what somebody should do something about, a line each.
func (s *status) wrong(now time.Time) (list []string) {
	add := func(format string, args ...any) { list = append(list, visible(fmt.Sprintf(format, args...))) }
	if s.Config.Digest == "" {
		add("config: none is live yet")
	}
	if s.Fleet != nil {
		s.wrongFleet(add, now)
	} else if s.Config.Error != "" {
		add("config: the newest one was refused %s, an older one serves: %s", ago(s.Config.ErrorAt, now), s.Config.Error)
	}
	if s.Config.Missing != "" {
		add("config: this node does without a part of it: %s", s.Config.Missing)
	}
	s.wrongShared(add)
	if h := s.Handover; h != nil && h.Error != "" {
		add("handover: the last one failed %s: %s", ago(h.ErrorAt, now), h.Error)
	}
	s.wrongRegistry(add, now)
	for _, name := range slices.Sorted(maps.Keys(s.Config.Broken)) {
		add("route %s: answers 503: %s", name, s.Config.Broken[name])
	}
	for _, name := range slices.Sorted(maps.Keys(s.Upstreams)) {
		u := s.Upstreams[name]
		usable := slices.ContainsFunc(u.Endpoints, func(e upstream.EndpointStatus) bool { return e.Usable })
		if from := u.Source; from != nil && from.Error != "" {
			add("upstream %s: %s", name, sourceComplaint(from, now))
		}
		switch {
		case len(u.Endpoints) == 0:
			add("upstream %s: has no endpoints", name)
		case !usable:
			add("upstream %s: none of its endpoints can be used", name)
		case u.Panic:
			add("upstream %s: so few endpoints can be used that all of them get requests", name)
		}
	}
	for _, l := range s.Listeners {
		if l.Error != "" {
			add("listener %s: the authorities of client certificates cannot be read: %s", l.Name, l.Error)
		}
	}
	for _, c := range s.Certificates {
		if why := complaint(c, now); why != "" {
			add("certificate %s: %s", c.Name, why)
		}
	}
	return list
}

func complaint(c compile.CertificateStatus, now time.Time) string {
	var why string
	switch c.State {
	case "ok":
		return ""
	case "expired":
		why = "expired " + ago(c.NotAfter, now)
	case "not_yet_valid":
		why = "is valid from " + stamp(c.NotBefore) + " only"
	case "expiring":
		why = "expires " + in(c.NotAfter, now)
	case "missing":
		why = "there is none yet"
	default:
		why = "a newer one cannot be had"
	}
	if c.Error != "" {
		why += ": " + c.Error
	}
	if !c.Next.IsZero() && c.Next.After(now) {
		why += " (next try " + in(c.Next, now) + ")"
	}
	return why
}

// print writes the status for a person.
func (s *status) print(w io.Writer, wrong []string, now time.Time) {
	where := "node " + s.Node
	if s.Zone != "" {
		where += ", zone " + s.Zone
	}
	fmt.Fprintf(w, "gatehouse %s, %s\n", s.Version, visible(where))
	if s.Config.Digest != "" {
		fmt.Fprintf(w, "config       %s, live since %s (%s)\n", s.Config.Digest[:min(12, len(s.Config.Digest))], stamp(s.Config.Loaded), ago(s.Config.Loaded, now))
	}
	s.printRevision(w, now)
	s.printShared(w, now)
	s.printRegistry(w)
	for i, l := range s.Listeners {
		label := ""
		if i == 0 {
			label = "listeners"
		}
		fmt.Fprintf(w, "%-12s %s %s%s\n", label, l.Name, l.Address, l.spoken())
	}
	fmt.Fprintf(w, "connections  %d open, %d idle, %s\n", s.Connections.Open, s.Connections.Idle, count(s.Connections.Tunnels, "tunnel"))
	if h := s.Handover; h != nil {
		fmt.Fprintf(w, "handovers    %d succeeded, %d failed%s\n", h.Succeeded, h.Failed, map[bool]string{true: ", one is going on"}[h.Going])
	}
	s.printNodes(w, now)
	s.printSources(w, now)
	s.printUpstreams(w, now)
	s.printCertificates(w, now)
	if len(wrong) == 0 {
		fmt.Fprintln(w, "\nAll is well.")
		return
	}
	fmt.Fprintln(w, "\nWrong:")
	for _, line := range wrong {
		fmt.Fprintln(w, "  "+line)
	}
}

// spoken says what is, unless it is plain HTTP over TCP.
func (l *listenerStatus) spoken() string {
	switch {
	case l.Protocol == "tls":
		return " TLS, passed on"
	case l.Protocol == "udp":
		return " UDP"
	case l.Protocol == "tcp" && l.TLS:
		return " TLS, TCP"
	case l.Protocol == "tcp":
		return " TCP"
	case l.HTTP3:
		return " TLS, HTTP/3"
	case l.TLS:
		return " TLS"
	}
	return ""
}

func (s *status) printUpstreams(w io.Writer, now time.Time) {
	if len(s.Upstreams) == 0 {
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nUPSTREAM\tENDPOINT\tSTATE\tACTIVE\tDONE\tLAST ERROR")
	for _, name := range slices.Sorted(maps.Keys(s.Upstreams)) {
		shown := name
		if len(s.Upstreams[name].Endpoints) == 0 {
			fmt.Fprintf(t, "%s\tnone\t\t\t\t\n", shown)
		}
		for _, e := range s.Upstreams[name].Endpoints {
			fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%s\n", shown, e.Address, endpointState(e, now), e.Active, e.Done, lastError(e, now))
			shown = ""
		}
	}
	_ = t.Flush() // as with any output: nobody is left to tell
}

// printSources tells where endpoints come from that are not in the config.
func (s *status) printSources(w io.Writer, now time.Time) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head := "\nUPSTREAM\tFOUND BY\tENDPOINTS\tCONFIRMED\tFAILURES\tLAST ERROR\n"
	for _, name := range slices.Sorted(maps.Keys(s.Upstreams)) {
		from := s.Upstreams[name].Source
		if from == nil {
			continue
		}
		problem := from.Error
		if problem == "" {
			problem = from.Note
		}
		fmt.Fprintf(t, "%s%s\t%s %s\t%d\t%s\t%d\t%s\n", head, name, from.Kind, visible(from.Target), from.Endpoints, confirmed(from, now), from.Failures, visible(strings.ReplaceAll(problem, "\n", "; ")))
		head = ""
	}
	_ = t.Flush() // see printUpstreams
}

func confirmed(s *upstream.SourceStatus, now time.Time) string {
	switch {
	case s.Answered.IsZero():
		return "never"
	case s.FromDisk:
		return "from disk, " + span(now.Sub(s.Answered)) + " old"
	}
	return ago(s.Answered, now)
}

func sourceComplaint(s *upstream.SourceStatus, now time.Time) string {
	list := "there is no list of endpoints"
	switch {
	case s.FromDisk:
		list = "the list of endpoints is from disk, " + span(now.Sub(s.Answered)) + " old"
	case !s.Answered.IsZero():
		list = "the list of endpoints is " + span(now.Sub(s.Answered)) + " old"
	}
	return list + ": " + s.Kind + " " + s.Target + ": " + s.Error
}

func endpointState(e upstream.EndpointStatus, now time.Time) string {
	switch {
	case e.EjectedUntil.After(now):
		return "ejected, back " + in(e.EjectedUntil, now)
	case e.Health == "unknown" && e.Usable:
		return "usable"
	default:
		return e.Health
	}
}

func lastError(e upstream.EndpointStatus, now time.Time) string {
	switch {
	case e.Health == "unhealthy" && e.ProbeError != "":
		return visible(e.ProbeError)
	case e.LastError != "":
		return visible(e.LastError) + ", " + ago(e.LastErrorAt, now)
	default:
		return ""
	}
}

func (s *status) printCertificates(w io.Writer, now time.Time) {
	if len(s.Certificates) == 0 {
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nCERTIFICATE\tSTATE\tDAYS LEFT\tFROM\tNEXT ORDER\tHOSTS")
	for _, c := range s.Certificates {
		days, next := "-", "-"
		if !c.NotAfter.IsZero() {
			days = fmt.Sprint(c.DaysLeft)
		}
		switch {
		case c.Source != "acme":
		case c.Next.After(now):
			next = in(c.Next, now)
		default:
			next = "now"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", c.Name, c.State, days, c.Source, next, hosts(c.Hosts))
	}
	_ = t.Flush() // see printUpstreams
}

// maxHosts is how many hosts of a certificate are listed.
const maxHosts = 3

func hosts(list []string) string {
	if len(list) <= maxHosts {
		return visible(strings.Join(list, ", "))
	}
	return visible(fmt.Sprintf("%s and %d more", strings.Join(list[:maxHosts], ", "), len(list)-maxHosts))
}

// visible keeps what others wrote, an authority or an upstream, from moving the
// cursor of a terminal about.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) && r != '\n' {
			return '?'
		}
		return r
	}, strings.ReplaceAll(s, "\n", "\n    "))
}

func stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

func ago(t, now time.Time) string {
	if t.IsZero() {
		return "at a time unknown"
	}
	return span(now.Sub(t)) + " ago"
}

func in(t, now time.Time) string { return "in " + span(t.Sub(now)) }

// span is a duration in one unit, as people say it.
func span(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}
