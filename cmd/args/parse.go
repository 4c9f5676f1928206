package args

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

// Choice is what a command line asks for: a command, or help.
type Choice struct {
	Command any    // a pointer to the struct of the command
	Help    string // not empty: help was asked for, and this is it
}

// Error is a mistake in a command line.
type Error struct {
	Path string // of the command whose help tells more
	text string
}

func (e *Error) Error() string { return e.text }

// Parse reads a command line, without the program's name, into the structs of
// its commands. A parser is good for one.
func (p *Parser) Parse(line []string) (*Choice, error) {
	r := &reader{at: p.root, rest: line}
	err := r.read()
	if r.help {
		return &Choice{Help: r.at.usage()}, nil // whoever asks for help has not finished
	}
	if err == nil {
		err = r.finish()
	}
	if err != nil {
		return nil, &Error{Path: r.at.path, text: err.Error()}
	}
	return &Choice{Command: r.at.target.Addr().Interface()}, nil
}

// reader is the way through one command line.
type reader struct {
	at    *command
	rest  []string
	taken int // arguments of at that have a value
	help  bool
}

func (r *reader) read() error {
	var first error // help may come after a mistake
	plain := false
	for len(r.rest) > 0 {
		word := r.rest[0]
		r.rest = r.rest[1:]
		var err error
		switch {
		case plain || word == "-" || !strings.HasPrefix(word, "-"):
			err = r.word(word)
		case word == "--":
			plain = true
		case strings.HasPrefix(word, "--"):
			name, text, given := strings.Cut(word[2:], "=")
			err = r.flag("--"+name, text, given)
		default:
			err = r.shorts(word)
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// word takes a word that is no flag: a command or an argument.
func (r *reader) word(word string) error {
	for _, c := range r.at.commands {
		if c.name == word {
			r.at = c
			return nil
		}
	}
	if r.at.fallback != nil {
		r.at = r.at.fallback
		return r.word(word)
	}
	if r.taken < len(r.at.arguments) {
		a := r.at.arguments[r.taken]
		if !a.isSlice() {
			r.taken++
		}
		return a.set(word)
	}
	if len(r.at.commands) > 0 {
		return fmt.Errorf("unknown command %s%s", shown(word), meant(word, r.at.names()))
	}
	return fmt.Errorf("unexpected argument %s", shown(word))
}

// flag takes a flag by its long or short name; given tells that text is its
// value, else the next word is.
func (r *reader) flag(name, text string, given bool) error {
	if name == "--help" {
		r.help = true
		return nil
	}
	f := r.find(name)
	switch {
	case f == nil:
		return fmt.Errorf("unknown flag %s%s", shown(name), meant(name, r.at.flagNames()))
	case given:
	case f.isBool():
		text = "true"
	case len(r.rest) == 0:
		return fmt.Errorf("%s: missing value", f.label())
	case len(r.rest[0]) > 1 && r.rest[0][0] == '-':
		return fmt.Errorf("%s: missing value; one that begins with a dash is written %[1]s=%s", f.label(), shown(r.rest[0]))
	default:
		text, r.rest = r.rest[0], r.rest[1:]
	}
	return f.set(text)
}

// find returns the flag of this command, else of the one that is meant if none
// is named; nil: there is no such flag.
func (r *reader) find(name string) *value {
	f := r.at.flag(name)
	if f == nil && r.at.fallback != nil {
		r.at = r.at.fallback
		f = r.at.flag(name)
	}
	return f
}

// shorts takes a word such as -n5, -n=5, -n or -abc: flags without a value may
// share a dash, and what follows the name of one with a value is that.
func (r *reader) shorts(word string) error {
	if long, _, _ := strings.Cut(word, "="); len(long) > 2 && r.find("-"+long) != nil {
		return fmt.Errorf("unknown flag %s, did you mean %q?", long, "-"+long) // -config is not -c with the value onfig
	}
	for letters := word[1:]; letters != ""; {
		_, size := utf8.DecodeRuneInString(letters)
		name := "-" + letters[:size]
		letters = letters[size:]
		if name == "-h" {
			r.help = true
			return nil
		}
		if f := r.find(name); letters != "" && f != nil && !f.isBool() {
			return f.set(strings.TrimPrefix(letters, "="))
		}
		if err := r.flag(name, "", false); err != nil {
			return err
		}
	}
	return nil
}

// finish checks that nothing is missing.
func (r *reader) finish() error {
	if r.at.fallback != nil {
		r.at = r.at.fallback
	}
	if len(r.at.commands) > 0 {
		return fmt.Errorf("expected one of %s", strings.Join(r.at.names(), ", "))
	}
	var missing []string
	for _, f := range r.at.flags {
		if f.required && !f.given {
			missing = append(missing, f.summary())
		}
		if err := f.settle(); err != nil {
			return err
		}
	}
	for _, a := range r.at.arguments {
		if a.required && !a.given {
			missing = append(missing, a.summary())
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing %s", strings.Join(missing, ", "))
	}
	return nil
}

func (c *command) flag(name string) *value {
	for _, f := range c.flags {
		if name == "--"+f.name || f.short != "" && name == "-"+f.short {
			return f
		}
	}
	return nil
}

func (c *command) names() (all []string) {
	for _, s := range c.commands {
		all = append(all, s.name)
	}
	return all
}

func (c *command) flagNames() []string {
	all := []string{"--help"}
	for _, f := range c.flags {
		all = append(all, "--"+f.name)
	}
	return all
}

// shown is a word for a message: as it was typed, if that can be seen.
func shown(word string) string {
	if q := strconv.Quote(word); word == "" || strings.Contains(word, " ") || q != `"`+word+`"` {
		return q
	}
	return word
}

// meant is a guess at what somebody wanted to type.
func meant(got string, known []string) string {
	if near := problem.Nearest(got, known); near != "" {
		return fmt.Sprintf(", did you mean %q?", near)
	}
	return ""
}
