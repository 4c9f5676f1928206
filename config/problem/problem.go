// Package problem collects everything that is wrong with a piece of config,
// each by the path a user can edit, so that one run shows all of it. It is a
// leaf; config turns paths into file, line and column.
package problem

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Problem is one thing that is wrong.
type Problem struct {
	// Path is where, in the user's own keys: "routes.users.plugins[0].rate_limit.limit".
	Path string
	// Message says what is wrong and what was expected, lower case, no full stop.
	Message string
	// At is the place in the text; the zero value when only the path is known.
	At Position
}

// Position is a place in a file. Line and Column count from 1; 0 is unknown.
type Position struct {
	File         string
	Line, Column int
}

// Known is true if p is a place.
func (p Position) Known() bool { return p.Line > 0 }

// String is "file:line:column", without the parts that are not known.
func (p Position) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Known() {
		if p.File != "" {
			b.WriteByte(':')
		}
		b.WriteString(strconv.Itoa(p.Line))
		b.WriteByte(':')
		b.WriteString(strconv.Itoa(p.Column))
	}
	return b.String()
}

// String is "file:line:column: path: message", without the parts that are not known.
func (p Problem) String() string {
	var b strings.Builder
	for _, part := range []string{p.At.String(), p.Path} {
		if part != "" {
			b.WriteString(part)
			b.WriteString(": ")
		}
	}
	b.WriteString(p.Message)
	return b.String()
}

// List collects problems below one path. The zero value is ready. A List is
// for one goroutine.
type List struct {
	at  string
	all *[]Problem
}

// Add notes a problem at key below the list's path; key may be "" for the path itself.
func (l *List) Add(key, format string, args ...any) {
	l.AddAt(Position{}, key, format, args...)
}

// AddAt is Add where the place in the text is known.
func (l *List) AddAt(at Position, key, format string, args ...any) {
	if l.all == nil {
		l.all = new([]Problem)
	}
	*l.all = append(*l.all, Problem{Path: Join(l.at, key), Message: fmt.Sprintf(format, args...), At: at})
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

// Len is how many problems there are, those of every view included.
func (l *List) Len() int { return len(l.All()) }

// Path is where this list's keys are below.
func (l *List) Path() string { return l.at }

// Err is nil if nothing is wrong, else one error naming every problem, one a line.
func (l *List) Err() error {
	all := l.All()
	if len(all) == 0 {
		return nil
	}
	lines := make([]string, len(all))
	for i, p := range all {
		lines[i] = p.String()
	}
	return errors.New(strings.Join(lines, "\n"))
}

// Sort orders problems by file, line, column and path; what has no place comes first.
func Sort(all []Problem) {
	slices.SortStableFunc(all, func(a, b Problem) int {
		if c := strings.Compare(a.At.File, b.At.File); c != 0 {
			return c
		}
		if c := a.At.Line - b.At.Line; c != 0 {
			return c
		}
		if c := a.At.Column - b.At.Column; c != 0 {
			return c
		}
		return strings.Compare(a.Path, b.Path)
	})
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
