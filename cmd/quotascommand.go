package cmd

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"text/tabwriter"

	"github.com/gatehouse-proxy/gatehouse/admin"
)

// quotasCommand is what is done with quotas.
type quotasCommand struct {
	List  quotasListCommand  `cmd:"" default:"withargs" help:"List what consumers have used of their quotas."`
	Reset quotasResetCommand `cmd:"" help:"Take what a consumer has used off its count: all of it, or so many units."`
}

type quotasListCommand struct {
	registryClient
	Consumer string `help:"Only this consumer; any name, also one that the config does not have." placeholder:"NAME"`
	Quota    string `help:"Only the quota of this name." placeholder:"NAME"`
	Limit    int    `short:"n" default:"100" min:"1" max:"1000" help:"How many consumers, at most 1000."`
	After    string `help:"Only consumers whose names come after this one." placeholder:"NAME"`
}

// Help is what is shown besides the flags.
func (*quotasListCommand) Help() string {
	return `Listed are the consumers of the config, and others who have asked this node in the
last day. What nodes have leased and not spent counts as used.`
}

// Run prints one page.
func (c *quotasListCommand) Run(env *environment) error {
	if err := c.complete(env); err != nil {
		return err
	}
	query := url.Values{"limit": {strconv.Itoa(c.Limit)}}
	for key, value := range map[string]string{"consumer": c.Consumer, "quota": c.Quota, "after": c.After} {
		if value != "" {
			query.Set(key, value)
		}
	}
	var page admin.QuotaPage
	if err := c.get("/api/v1/quotas?"+query.Encode(), &page); err != nil {
		return err
	}
	if c.Output == "json" {
		return env.json(page)
	}
	printQuotas(env.out, &page)
	return nil
}

func printQuotas(w io.Writer, page *admin.QuotaPage) {
	if len(page.Quotas) == 0 {
		fmt.Fprintln(w, "no consumer has a quota here")
	} else {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "CONSUMER\tQUOTA\tWHERE\tPLAN\tWINDOW\tUSED\tLIMIT\tLEFT\tRESETS")
		for _, q := range page.Quotas {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\n", oneLine(q.Consumer), oneLine(q.Quota), oneLine(q.Where), orDash(q.Plan),
				q.Window, q.Used, q.Limit, q.Remaining, stamp(q.Resets))
		}
		_ = t.Flush() // nobody is left to tell
	}
	if page.Next != "" {
		fmt.Fprintf(w, "There are more: --after %q\n", page.Next)
	}
}

type quotasResetCommand struct {
	registryClient
	Consumer string `arg:"" help:"Name of the consumer."`
	Quota    string `help:"Only the quota of this name. Default: all." placeholder:"NAME"`
	Window   string `enum:"day,month,both" default:"both" help:"day, month or both."`
	Units    int    `min:"1" help:"So many units are granted anew, of those that were used. Default: all." placeholder:"N"`
}

// Run resets, and prints what is used then.
func (c *quotasResetCommand) Run(env *environment) error {
	if err := c.complete(env); err != nil {
		return err
	}
	query := url.Values{"consumer": {c.Consumer}}
	if c.Quota != "" {
		query.Set("quota", c.Quota)
	}
	if c.Window != "both" {
		query.Set("window", c.Window)
	}
	if c.Units > 0 {
		query.Set("units", strconv.Itoa(c.Units))
	}
	var page admin.QuotaPage
	if err := c.ask(call{method: http.MethodDelete, path: "/api/v1/quotas?" + query.Encode()}, &page); err != nil {
		return err
	}
	if c.Output == "json" {
		return env.json(page)
	}
	printQuotas(env.out, &page)
	return nil
}
