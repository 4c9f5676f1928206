// Package file finds endpoints in a file, YAML or JSON, that other programs
// write. It is looked at every two seconds; a file that is wrong changes
// nothing.
package file

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/discovery"
	"github.com/gatehouse-proxy/gatehouse/gateway/filewatch"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

// maxSize bounds the file: MaxEndpoints with 500 bytes each.
const maxSize = 16 << 20

// maxProblems of a file are told.
const maxProblems = 3

// Source is a file with a list of endpoints.
type Source struct {
	path  string
	every time.Duration
}

var _ upstream.Source = (*Source)(nil)

// New makes a source of the file at path; it reads nothing yet.
func New(path string) *Source { return &Source{path: path, every: filewatch.Interval} }

// Name implements upstream.Source.
func (s *Source) Name() (kind, target string) { return "file", s.path }

// Run implements upstream.Source.
func (s *Source) Run(ctx context.Context, report func(upstream.Report)) {
	var list []upstream.EndpointSettings
	f := filewatch.New(filewatch.Settings{
		Path: s.path, Limit: maxSize,
		Load: func(content []byte) (err error) {
			list, err = parse(content, s.path)
			return err
		},
	})
	for {
		if err := f.Load(); err != nil {
			report(upstream.Report{Err: told(err)})
		} else {
			report(upstream.Report{Endpoints: list})
		}
		if !discovery.Sleep(ctx, s.every) {
			return
		}
	}
}

// told leaves the path out where each problem has it as its place.
func told(err error) error {
	var p config.Problems
	if !errors.As(err, &p) {
		return err
	}
	if n := len(p); n > maxProblems {
		rest := problem.Problem{Message: fmt.Sprintf("and %d more", n-maxProblems)}
		p = append(append(config.Problems{}, p[:maxProblems]...), rest)
	}
	return p
}

func parse(content []byte, path string) ([]upstream.EndpointSettings, error) {
	given, err := config.ParseEndpoints(content, path)
	if err != nil {
		return nil, err
	}
	list := make([]upstream.EndpointSettings, 0, len(given))
	for _, e := range given {
		list = append(list, upstream.EndpointSettings{Address: e.Address, Weight: e.Weight, Zone: e.Zone, Priority: e.Priority})
	}
	return list, nil
}
