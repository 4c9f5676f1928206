// Package problem collects everything that is wrong with a piece of config,
// each by the path a user can edit, so that one run shows all of it. It is a
// leaf; config turns paths into file, line and column.
package problem

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong.
type Problem struct {
	// Path is where, in the user's own keys: "routes.users.plugins[0].rate_limit.limit".
	Path string
	// Message says what is wrong and what was expected, lower case, no full stop.
	Message string
}

// List collects problems below one path. The zero value is ready. A List is
// for one goroutine.
type List struct {
	at  string
	all *[]Problem
}

// Add notes a problem at key below the list's path; key may be "" for the path itself.
func (l *List) Add(key, format string, args ...any) {
	if l.all == nil {
		l.all = new([]Problem)
	}
	*l.all = append(*l.all, Problem{Path: Join(l.at, key), Message: fmt.Sprintf(format, args...)})
}

// Check is Add when ok is false.
func (l *List) Check(ok bool, key, format string, args ...any) {
	if !ok {
		l.Add(key, format, args...)
	}
}

// Under returns a view of the same list whose path is one key longer.
func (l *List) Under(key string) *List {
	if l.all == nil {
		l.all = new([]Problem)
	}
	return &List{at: Join(l.at, key), all: l.all}
}

// All returns the problems in the order found, those of every view included.
func (l *List) All() []Problem {
	if l.all == nil {
		return nil
	}
	return *l.all
}

// Path is where this list's keys are below.
func (l *List) Path() string { return l.at }

// Err is nil if nothing is wrong, else one error naming every problem by path.
func (l *List) Err() error {
	all := l.All()
	if len(all) == 0 {
		return nil
	}
	lines := make([]string, len(all))
	for i, p := range all {
		lines[i] = p.Path + ": " + p.Message
	}
	return fmt.Errorf("%s", strings.Join(lines, "\n"))
}

// Join appends a key or an index ("[2]") to a path.
func Join(path, key string) string {
	switch {
	case path == "":
		return key
	case key == "":
		return path
	case key[0] == '[':
		return path + key
	default:
		return path + "." + key
	}
}
