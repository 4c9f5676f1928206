// Package args reads a command line into a struct of commands, and writes the
// help for it. It knows nothing of what the commands do.
//
// A field is a command if it is a struct with the tag cmd, an argument if it
// has the tag arg, and else a flag. Other tags: help, name, short, default, env,
// enum, min and max (of a number or a duration), placeholder, required,
// optional; default:"withargs" marks the command that is meant if none is named.
// Methods are never looked up by name: a program that does that keeps every
// exported method of every type it links, a quarter of this one.
package args

import (
	"fmt"
	"reflect"
	"strings"
	"unicode"
)

// Parser reads command lines.
type Parser struct{ root *command }

// New returns a parser for the struct that commands points to. A mistake in
// its tags is one of the program and panics.
func New(name, about string, commands any) *Parser {
	root := &command{path: name, help: about, target: reflect.ValueOf(commands).Elem()}
	root.fields(root.target)
	return &Parser{root}
}

// command is one command, or one that has commands below it.
type command struct {
	name, path string // path is how a person types it: gatehouse services list
	help       string
	target     reflect.Value // the struct
	parent     *command
	commands   []*command
	fallback   *command // what is meant if no command is named; nil: nothing
	flags      []*value
	arguments  []*value
}

// value is a flag or an argument.
type value struct {
	name        string
	short       string // empty: none
	help        string
	placeholder string
	def         string
	env         string
	enum        []string
	min, max    string // empty: no bound
	required    bool
	argument    bool
	field       reflect.Value
	given       bool
}

func (c *command) fields(target reflect.Value) {
	for i := range target.NumField() {
		f, v := target.Type().Field(i), target.Field(i)
		_, isCommand := f.Tag.Lookup("cmd")
		switch {
		case f.Anonymous:
			c.fields(v)
		case !f.IsExported():
		case isCommand:
			c.command(f, v)
		default:
			c.value(f, v)
		}
	}
}

func (c *command) command(f reflect.StructField, v reflect.Value) {
	name := dashed(f.Name)
	sub := &command{name: name, path: c.path + " " + name, help: f.Tag.Get("help"), target: v, parent: c}
	sub.fields(v)
	c.commands = append(c.commands, sub)
	if f.Tag.Get("default") == "withargs" {
		c.fallback = sub
	}
}

func (c *command) value(f reflect.StructField, v reflect.Value) {
	_, argument := f.Tag.Lookup("arg")
	_, optional := f.Tag.Lookup("optional")
	_, required := f.Tag.Lookup("required")
	x := &value{
		name: dashed(f.Name), short: f.Tag.Get("short"), help: f.Tag.Get("help"), placeholder: f.Tag.Get("placeholder"),
		def: f.Tag.Get("default"), env: f.Tag.Get("env"), min: f.Tag.Get("min"), max: f.Tag.Get("max"),
		argument: argument, required: required || argument && !optional, field: v,
	}
	if name, ok := f.Tag.Lookup("name"); ok {
		x.name = name
	}
	if list, ok := f.Tag.Lookup("enum"); ok {
		x.enum = strings.Split(list, ",")
	}
	if !x.takes() {
		panic(fmt.Sprintf("BUG: %s.%s: no value on a command line is a %s", c.path, f.Name, f.Type))
	}
	for _, bound := range []string{x.min, x.max} {
		x.compare(bound) // panics if it is no bound
	}
	if argument {
		c.arguments = append(c.arguments, x)
	} else {
		c.flags = append(c.flags, x)
	}
}

// dashed is the name of a field on the command line: DataDir is data-dir.
func dashed(name string) string {
	var b strings.Builder
	lower := false
	for _, r := range name {
		if unicode.IsUpper(r) && lower {
			b.WriteByte('-')
		}
		lower = unicode.IsLower(r)
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
