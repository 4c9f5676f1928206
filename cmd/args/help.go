package args

import (
	"fmt"
	"reflect"
	"strings"
)

// width is how wide help is at most.
const width = 80

// usage is the help of a command.
func (c *command) usage() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: %s\n\n%s\n", c.synopsis(), strings.Join(wrap(c.help, width), "\n"))
	if h, ok := c.target.Addr().Interface().(interface{ Help() string }); ok {
		fmt.Fprintf(&b, "\n%s\n", strings.Join(wrap(h.Help(), width), "\n"))
	}
	if len(c.arguments) > 0 {
		b.WriteString("\nArguments:\n")
		var rows [][2]string
		for _, a := range c.arguments {
			rows = append(rows, [2]string{a.summary(), a.help})
		}
		table(&b, rows)
	}
	b.WriteString("\nFlags:\n")
	rows := [][2]string{{"-h, --help", "Show this help."}}
	for _, f := range c.flags {
		short := "    "
		if f.short != "" {
			short = "-" + f.short + ", "
		}
		rows = append(rows, [2]string{short + f.summary(), f.about()})
	}
	table(&b, rows)
	if rows = c.leaves(); len(rows) > 0 {
		b.WriteString("\nCommands:\n")
		table(&b, rows)
		if c.parent == nil {
			fmt.Fprintf(&b, "\nRun \"%s <command> --help\" for more information on a command.\n", c.path)
		}
	}
	return b.String()
}

// synopsis is the command with what it cannot do without.
func (c *command) synopsis() string {
	if len(c.commands) > 0 {
		return c.path + " <command>"
	}
	words := []string{c.path}
	for _, f := range c.flags {
		if f.required {
			words = append(words, f.summary())
		}
	}
	for _, a := range c.arguments {
		words = append(words, a.summary())
	}
	return strings.Join(append(words, "[flags]"), " ")
}

// leaves are the commands below c that do something, with their help.
func (c *command) leaves() (rows [][2]string) {
	for _, s := range c.commands {
		if len(s.commands) > 0 {
			rows = append(rows, s.leaves()...)
			continue
		}
		_, name, _ := strings.Cut(s.path, " ") // without the program's
		rows = append(rows, [2]string{name, s.help})
	}
	return rows
}

// summary is the value as it is typed.
func (v *value) summary() string {
	switch {
	case v.argument && v.isSlice():
		return "<" + v.name + "> ..."
	case v.argument && !v.required:
		return "[<" + v.name + ">]"
	case v.argument:
		return "<" + v.name + ">"
	case v.isBool():
		return "--" + v.name
	}
	example := v.placeholder
	if example == "" {
		example = v.def
		if v.field.Kind() == reflect.String {
			example = fmt.Sprintf("%q", v.def)
		}
	}
	return "--" + v.name + "=" + example
}

// about is the help of a flag, and the variable that stands in for it.
func (v *value) about() string {
	if v.env == "" {
		return v.help
	}
	return strings.TrimSuffix(v.help, ".") + " ($" + v.env + ")."
}

// table writes two columns.
func table(b *strings.Builder, rows [][2]string) {
	left := 0
	for _, r := range rows {
		left = max(left, len(r[0]))
	}
	indent := 2 + left + 4
	for _, r := range rows {
		text := strings.Join(wrap(r[1], width-indent), "\n"+strings.Repeat(" ", indent))
		fmt.Fprintf(b, "  %-*s%s\n", left+4, r[0], text)
	}
}

// wrap breaks text into lines of at most n bytes, if its words allow it.
func wrap(text string, n int) []string {
	lines := []string{""}
	for _, w := range strings.Fields(text) {
		switch last := &lines[len(lines)-1]; {
		case *last == "":
			*last = w
		case len(*last)+1+len(w) <= n:
			*last += " " + w
		default:
			lines = append(lines, w)
		}
	}
	return lines
}
