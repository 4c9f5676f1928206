package cmd

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"strings"
	"time"
	"unicode"

	"github.com/gatehouse-proxy/gatehouse/admin"
	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/control/fleet"
	"github.com/gatehouse-proxy/gatehouse/control/revision"
)

// fleetClient is an adminClient of commands about revisions.
type fleetClient struct {
	adminClient
	Node string `help:"Config of the node that is asked, to find its admin address and data folder." placeholder:"FILE"`
}

func (c *fleetClient) complete(env *environment) error {
	return c.adminClient.complete(env, c.Node)
}

// refused is what a command returns for an error of a node: a config that is
// not valid is wrong usage.
func refused(err error) error {
	var r *refusedError
	if errors.As(err, &r) && r.Status == http.StatusUnprocessableEntity {
		return &usageError{err}
	}
	return err
}

// packFiles reads what is to be published.
func packFiles(paths []string) ([]byte, error) {
	files, err := config.Read(paths, config.Options{})
	if err != nil {
		return nil, &usageError{err}
	}
	data, err := revision.Pack(files)
	if err != nil {
		return nil, &usageError{fmt.Errorf("gatehouse: %w", err)}
	}
	return data, nil
}

// planTimeout covers sending and building the largest configs.
const planTimeout = 2 * time.Minute

type planCommand struct {
	fleetClient
	Config []string `short:"c" required:"" sep:"none" help:"Config to publish, a file or a folder; may be repeated." placeholder:"FILE"`
}

// Run tells what applying would change.
func (c *planCommand) Run(env *environment) error {
	if err := c.complete(env); err != nil {
		return err
	}
	p, err := c.plan(env, c.Config)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return env.json(p)
	}
	printPlan(env.out, &p.Plan, true)
	return nil
}

// plan asks for a plan, and passes on what the node warns of.
func (c *fleetClient) plan(env *environment, paths []string) (*admin.Plan, error) {
	data, err := packFiles(paths)
	if err != nil {
		return nil, err
	}
	p := new(admin.Plan)
	if err := c.ask(call{method: http.MethodPost, path: "/api/v1/plan", body: data, timeout: planTimeout}, p); err != nil {
		return nil, refused(err)
	}
	for _, warning := range p.Warnings {
		env.warn(located(warning))
	}
	return p, nil
}

// publishing are the flags of commands that publish.
type publishing struct {
	Message    string        `short:"m" required:"" help:"Why; kept in the history." placeholder:"WHY"`
	Author     string        `help:"Who; default: the user and host of this command." placeholder:"NAME"`
	Wait       time.Duration `default:"30s" min:"0s" max:"10m" help:"How long every live node is waited for, at most 10m; 0: not at all."`
	NoRollback bool          `help:"Leave it published even if a node refuses it."`
}

type applyCommand struct {
	fleetClient
	publishing
	Config []string `short:"c" required:"" sep:"none" help:"Config to publish, a file or a folder; may be repeated." placeholder:"FILE"`
}

// Help is what is shown besides the flags.
func (*applyCommand) Help() string { return publishingHelp }

const publishingHelp = `Exit code 0: every live node runs it. 1: a node has refused it (the config before
it is then published again), has said nothing, or somebody else was faster. 2:
the config is not valid; nothing was published.`

// Run publishes a config and waits for the nodes.
func (c *applyCommand) Run(env *environment) error {
	if err := c.complete(env); err != nil {
		return err
	}
	p, err := c.plan(env, c.Config)
	if err != nil {
		return err
	}
	if c.Output != "json" {
		printPlan(env.out, &p.Plan, false)
	}
	data, err := packFiles(c.Config)
	if err != nil {
		return err
	}
	var packed struct {
		Files json.RawMessage `json:"files"`
	}
	if err := json.Unmarshal(data, &packed); err != nil {
		return err
	}
	return c.publish(env, c.publishing, p.Revision, admin.Publication{Files: packed.Files})
}

type rollbackCommand struct {
	fleetClient
	publishing
	Number uint64 `arg:"" min:"1" help:"Revision whose config is to be published again."`
}

// Help is what is shown besides the flags.
func (*rollbackCommand) Help() string { return publishingHelp }

// Run publishes an old config as a new revision.
func (c *rollbackCommand) Run(env *environment) error {
	if err := c.complete(env); err != nil {
		return err
	}
	var f admin.Fleet
	if err := c.get("/api/v1/fleet", &f); err != nil {
		return err
	}
	return c.publish(env, c.publishing, f.Latest, admin.Publication{Revision: c.Number})
}

// publish publishes what was made from revision latest, and tells what came of it.
func (c *fleetClient) publish(env *environment, p publishing, latest uint64, q admin.Publication) error {
	q.Author, q.Message = p.Author, p.Message
	if q.Author == "" {
		q.Author = whoami()
	}
	body, err := json.Marshal(q)
	if err != nil {
		return err
	}
	query := url.Values{"wait": {p.Wait.String()}, "rollback": {fmt.Sprint(!p.NoRollback)}}
	var a fleet.Applied
	err = c.ask(call{
		method: http.MethodPost, path: "/api/v1/revisions?" + query.Encode(), body: body,
		ifMatch: fmt.Sprintf("%q", fmt.Sprint(latest)), timeout: planTimeout + p.Wait,
	}, &a)
	if err != nil {
		return refused(err)
	}
	if c.Output == "json" {
		err = env.json(a)
	} else {
		printApplied(env, &a)
	}
	if o := a.Outcome; err == nil && (a.Error != "" || o != nil && len(o.Refused)+len(o.Silent) > 0) {
		return errSilent
	}
	return err
}

func printApplied(env *environment, a *fleet.Applied) {
	fmt.Fprintf(env.out, "published as revision %d\n", a.Revision.Number)
	if o := a.Outcome; o != nil {
		if len(o.Running) > 0 {
			fmt.Fprintf(env.out, "live on %s\n", visible(strings.Join(o.Running, ", ")))
		}
		for _, r := range o.Refused {
			fmt.Fprintf(env.err, "gatehouse: node %s refused revision %d: %s\n", visible(r.Node), a.Revision.Number, visible(r.Error))
		}
		if len(o.Silent) > 0 {
			fmt.Fprintf(env.err, "gatehouse: nothing was heard from %s\n", visible(strings.Join(o.Silent, ", ")))
		}
	}
	if a.Rollback > 0 {
		fmt.Fprintf(env.err, "gatehouse: back to the config of revision %d, as revision %d\n", a.BackTo, a.Rollback)
	}
	if a.Error != "" {
		fmt.Fprintf(env.err, "gatehouse: %s\n", visible(a.Error))
	}
}

// whoami is the user and host of this command.
func whoami() string {
	name := os.Getenv("USER")
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, _ := os.Hostname() // without one the user has to do
	if host == "" {
		return name
	}
	return name + "@" + host
}

type historyCommand struct {
	fleetClient
	Limit  int    `short:"n" default:"20" min:"1" max:"1000" help:"How many, at most 1000."`
	Before uint64 `help:"Only those older than this one." placeholder:"N"`
}

// Run lists revisions, newest first.
func (c *historyCommand) Run(env *environment) error {
	if err := c.complete(env); err != nil {
		return err
	}
	var h admin.History
	if err := c.get(fmt.Sprintf("/api/v1/revisions?limit=%d&before=%d", c.Limit, c.Before), &h); err != nil {
		return err
	}
	if c.Output == "json" {
		return env.json(h.Revisions)
	}
	printHistory(env.out, h.Revisions)
	if n := len(h.Revisions); n > 0 && n < c.Limit && h.Revisions[n-1].Number > 1 {
		fmt.Fprintln(env.out, "Older ones are no longer kept (node.control.history).")
	}
	return nil
}

type showCommand struct {
	fleetClient
	Number uint64 `arg:"" min:"1" help:"Revision."`
}

// Run prints the files of a revision.
func (c *showCommand) Run(env *environment) error {
	if err := c.complete(env); err != nil {
		return err
	}
	r, err := c.revision(c.Number)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return env.json(r)
	}
	fmt.Fprintf(env.out, "# revision %d by %s at %s: %s\n", r.Number, orNobody(r.Author), stamp(r.Time), oneLine(r.Message))
	for _, f := range r.Files {
		fmt.Fprintf(env.out, "# %s\n%s", visible(f.Name), printable(string(f.Data)))
		if !strings.HasSuffix(string(f.Data), "\n") {
			fmt.Fprintln(env.out)
		}
	}
	return nil
}

func (c *fleetClient) revision(n uint64) (*admin.Revision, error) {
	r := new(admin.Revision)
	if err := c.get(fmt.Sprintf("/api/v1/revisions/%d", n), r); err != nil {
		return nil, fmt.Errorf("revision %d: %w", n, err)
	}
	return r, nil
}

type diffCommand struct {
	fleetClient
	From uint64 `arg:"" min:"1" help:"Revision."`
	To   uint64 `arg:"" min:"1" help:"Revision to compare it with."`
}

// Run prints what is different in a revision's text, in unified form.
func (c *diffCommand) Run(env *environment) error {
	if err := c.complete(env); err != nil {
		return err
	}
	var files [2][]config.File
	for i, n := range []uint64{c.From, c.To} {
		r, err := c.revision(n)
		if err != nil {
			return err
		}
		for _, f := range r.Files {
			files[i] = append(files[i], config.File(f))
		}
	}
	text := fleet.TextDiff(files[0], files[1])
	if c.Output == "json" {
		return env.json(map[string]string{"diff": text})
	}
	_, err := fmt.Fprint(env.out, printable(text))
	return err
}

// printable is visible for texts of many lines.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) && r != '\n' && r != '\t' {
			return '?'
		}
		return r
	}, s)
}
