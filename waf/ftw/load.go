// Package ftw reads regression tests of the OWASP Core Rule Set (YAML files in
// the form of "Framework for Testing WAFs") and judges a WAF by them. It sends
// nothing itself: the caller says how a raw request is sent and what the WAF
// logged, so that the same tests run in memory and over a socket. It is for
// tests only; no part of the gateway imports it.
package ftw

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

// Case is one test: stages that are sent one after another.
type Case struct {
	// ID is rule and number: "942100-3".
	ID string
	// Rule is the rule the test is about.
	Rule   int
	Stages []Stage
}

// Stage is one request and what must come of it.
type Stage struct {
	// Raw is the request as it goes over the wire.
	Raw []byte
	// Want is what must be true afterwards.
	Want Want
}

// Want is what a stage expects. Zero fields expect nothing.
type Want struct {
	// IDs must all be in the log, NoIDs must not.
	IDs, NoIDs []int
	// Status of the reply.
	Status int
	// Match and NoMatch are regular expressions on the log.
	Match, NoMatch string
	// Error says that the server must end the connection without a reply;
	// nil where the test does not say.
	Error *bool
}

type file struct {
	Rule  int `yaml:"rule_id"`
	Tests []struct {
		ID     int `yaml:"test_id"`
		Stages []struct {
			Input  input  `yaml:"input"`
			Output output `yaml:"output"`
		} `yaml:"stages"`
	} `yaml:"tests"`
}

type input struct {
	Method       *string   `yaml:"method"`
	URI          *string   `yaml:"uri"`
	Version      *string   `yaml:"version"`
	Data         *string   `yaml:"data"`
	Encoded      string    `yaml:"encoded_request"`
	Headers      yaml.Node `yaml:"headers"`
	Autocomplete *bool     `yaml:"autocomplete_headers"`
}

type output struct {
	Status int   `yaml:"status"`
	Error  *bool `yaml:"expect_error"`
	Log    struct {
		IDs     []int  `yaml:"expect_ids"`
		NoIDs   []int  `yaml:"no_expect_ids"`
		Match   string `yaml:"match_regex"`
		NoMatch string `yaml:"no_match_regex"`
	} `yaml:"log"`
}

// Families returns the folders of tests in fsys whose names contain one of the
// parts ("942"); all without a part.
func Families(fsys fs.FS, parts ...string) ([]string, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("ftw: %w", err)
	}
	var out []string
	for _, e := range entries {
		match := func(p string) bool { return strings.Contains(e.Name(), "-"+p+"-") }
		if e.IsDir() && (len(parts) == 0 || slices.ContainsFunc(parts, match)) {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// Load reads all tests in a folder of fsys, in the order of their files.
func Load(fsys fs.FS, dir string) ([]Case, error) {
	names, err := fs.Glob(fsys, dir+"/*.yaml")
	if err != nil {
		return nil, fmt.Errorf("ftw: %w", err)
	}
	var out []Case
	for _, name := range names {
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, fmt.Errorf("ftw: %w", err)
		}
		var f file
		if err := yaml.Unmarshal(text, &f); err != nil {
			return nil, fmt.Errorf("ftw: %s: %w", name, err)
		}
		for _, t := range f.Tests {
			c := Case{ID: strconv.Itoa(f.Rule) + "-" + strconv.Itoa(t.ID), Rule: f.Rule}
			for _, s := range t.Stages {
				raw, err := s.Input.request()
				if err != nil {
					return nil, fmt.Errorf("ftw: %s: test %d: %w", name, t.ID, err)
				}
				o := s.Output
				c.Stages = append(c.Stages, Stage{Raw: raw, Want: Want{
					IDs: o.Log.IDs, NoIDs: o.Log.NoIDs, Match: o.Log.Match, NoMatch: o.Log.NoMatch,
					Status: o.Status, Error: o.Error,
				}})
			}
			out = append(out, c)
		}
	}
	return out, nil
}

func (in *input) request() ([]byte, error) {
	if in.Encoded != "" {
		raw, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(in.Encoded), ""))
		if err != nil {
			return nil, fmt.Errorf("encoded_request: %w", err)
		}
		return raw, nil
	}
	h, err := fields(&in.Headers)
	if err != nil {
		return nil, err
	}
	body := ""
	if in.Data != nil {
		body = expand(*in.Data)
	}
	method := or(in.Method, "GET")
	if in.Autocomplete == nil || *in.Autocomplete {
		h, body = complete(method, h, body)
	}
	if kind, _ := h.get("Content-Type"); strings.Contains(kind, "multipart/form-data;") {
		body = strings.ReplaceAll(strings.ReplaceAll(body, "\r\n", "\n"), "\n", "\r\n")
		h.set("Content-Length", strconv.Itoa(len(body)))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s\r\n", method, or(in.URI, "/"), or(in.Version, "HTTP/1.1"))
	for _, f := range h {
		b.WriteString(f[0] + ": " + f[1] + "\r\n")
	}
	return []byte(b.String() + "\r\n" + body), nil
}

func or(s *string, otherwise string) string {
	if s == nil {
		return otherwise
	}
	return *s
}
