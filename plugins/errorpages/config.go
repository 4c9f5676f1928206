// Package errorpages is the plugin error_pages: it replaces the bodies of
// error replies with pages of one's own.
package errorpages

import (
	"regexp"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// Config of the plugin error_pages.
type Config struct {
	// Pages by status ("404"), class ("4xx", "5xx") or the name of a refusal
	// ("rate_limited"); the most particular counts.
	Pages map[string]Page `yaml:"pages" required:"true"`
	// Also replace errors that an upstream has answered.
	Upstream bool `yaml:"upstream" default:"false"`
}

// Page is one error in one or both languages. Texts may have ${status},
// ${reason}, ${title} and every attribute of the request.
type Page struct {
	HTML string `yaml:"html"`
	JSON string `yaml:"json"`
	// Files instead; they are read when the config is loaded.
	HTMLFile string `yaml:"html_file"`
	JSONFile string `yaml:"json_file"`
}

var statusKey = regexp.MustCompile(`^[45](xx|[0-9][0-9])$`)

// Validate implements strict.Validator.
func (c *Config) Validate(p *problem.List) {
	names := map[string]bool{}
	for _, r := range reason.All() {
		names[r.Name] = true
	}
	pages := p.Under("pages")
	for key, page := range c.Pages {
		pages.Check(statusKey.MatchString(key) || names[key], key, "must be a status from 400 to 599, 4xx, 5xx or the name of a refusal, got %q", key)
		u := pages.Under(key)
		u.Check(page.HTML == "" || page.HTMLFile == "", "html", "must not stand beside html_file")
		u.Check(page.JSON == "" || page.JSONFile == "", "json", "must not stand beside json_file")
		u.Check(page != Page{}, "", "must have html, json or a file of them")
		for name, text := range map[string]string{"html": page.HTML, "json": page.JSON} {
			if _, err := parse(text); err != nil {
				u.Add(name, "%v", err)
			}
		}
	}
}
