package waf

import (
	"fmt"
	"strings"
)

// maxLine is the longest line Coraza's parser reads; it drops silently what
// follows a longer one (bufio.Scanner's default), so that one must be refused.
const maxLine = 64<<10 - 1

// directive is one SecLang directive, its continuation lines joined as Coraza
// joins them.
type directive struct {
	// line is where it begins, counted from 1.
	line int
	// name is in lower case, args is the rest.
	name, args string
	// raw is the directive as written, lines and all.
	raw string
}

// scan splits SecLang text into directives. It follows Coraza's own reader:
// comments and empty lines are skipped even between continued lines.
func scan(text string) ([]directive, error) {
	var (
		out   []directive
		buf   strings.Builder
		raw   strings.Builder
		first int
		ticks bool
	)
	n := 0
	for line := range strings.Lines(text) {
		n++
		if len(line) > maxLine {
			return nil, fmt.Errorf("line %d: longer than %d bytes", n, maxLine)
		}
		s := strings.TrimSpace(line)
		if s == "" || s[0] == '#' {
			continue
		}
		if raw.Len() == 0 {
			first = n
		}
		raw.WriteString(s)
		raw.WriteByte('\n')
		if !ticks && s[len(s)-1] == '`' {
			ticks = true
		} else if ticks && s[0] == '`' {
			ticks = false
		}
		if ticks {
			buf.WriteString(s)
			buf.WriteByte('\n')
			continue
		}
		if cut, more := strings.CutSuffix(s, `\`); more {
			buf.WriteString(cut)
			continue
		}
		buf.WriteString(s)
		name, args, _ := strings.Cut(buf.String(), " ")
		out = append(out, directive{line: first, name: strings.ToLower(name), args: strings.TrimSpace(args), raw: raw.String()})
		buf.Reset()
		raw.Reset()
	}
	if raw.Len() > 0 {
		return nil, fmt.Errorf("line %d: the directive does not end", first)
	}
	return out, nil
}

// variable is one entry of a rule's list of variables.
type variable struct {
	name, key      string
	count, exclude bool
}

// action is one entry of a rule's list of actions.
type action struct{ key, value string }

// link is one SecRule or SecAction: a rule, or one link of a chain.
type link struct {
	variables []variable
	operator  string
	actions   []action
}

func (l *link) action(key string) (string, bool) {
	for _, a := range l.actions {
		if a.key == key {
			return a.value, true
		}
	}
	return "", false
}

// parseLink reads a SecRule or SecAction; it is strict only as far as it must
// be, because Coraza parses the same text afterwards.
func parseLink(d directive) (link, error) {
	if d.name == "secaction" {
		return link{actions: parseActions(unquote(d.args))}, nil
	}
	vars, rest, ok := strings.Cut(d.args, " ")
	rest = strings.TrimSpace(rest)
	if !ok || !strings.HasPrefix(rest, `"`) {
		return link{}, fmt.Errorf(`SecRule must read: VARIABLES "OPERATOR" "ACTIONS"`)
	}
	op, rest, ok := cutQuoted(rest)
	if !ok {
		return link{}, fmt.Errorf("the operator's quote does not end")
	}
	return link{
		variables: parseVariables(unquote(vars)),
		operator:  op,
		actions:   parseActions(unquote(strings.TrimSpace(rest))),
	}, nil
}

func unquote(s string) string {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		return s[1 : len(s)-1]
	}
	return s
}

// cutQuoted splits s after its leading quoted string, in which \" does not end it.
func cutQuoted(s string) (quoted, rest string, ok bool) {
	escapes := 0
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			escapes++
		case s[i] == '"' && escapes%2 == 0:
			return s[1:i], s[i+1:], true
		default:
			escapes = 0
		}
	}
	return "", "", false
}

func parseVariables(s string) []variable {
	var out []variable
	for s != "" {
		end := variableEnd(s)
		v := variable{name: s[:end]}
		s = strings.TrimPrefix(s[end:], "|")
		v.name, v.exclude = strings.CutPrefix(v.name, "!")
		v.name, v.count = strings.CutPrefix(v.name, "&")
		v.name, v.key, _ = strings.Cut(v.name, ":")
		v.name = strings.ToUpper(strings.TrimSpace(v.name))
		out = append(out, v)
	}
	return out
}

// variableEnd is where the first variable of a list ends: at a '|' that is not
// inside a /regular expression/.
func variableEnd(s string) int {
	colon := strings.IndexAny(s, ":|")
	if colon < 0 {
		return len(s)
	}
	if s[colon] == '|' {
		return colon
	}
	rest := s[colon+1:]
	rest = strings.TrimPrefix(rest, "'")
	at := len(s) - len(rest)
	if strings.HasPrefix(rest, "/") {
		escaped := false
		for i := 1; i < len(rest); i++ {
			switch {
			case escaped:
				escaped = false
			case rest[i] == '\\':
				escaped = true
			case rest[i] == '/':
				if bar := strings.IndexByte(rest[i:], '|'); bar >= 0 {
					return at + i + bar
				}
				return len(s)
			}
		}
	}
	if bar := strings.IndexByte(rest, '|'); bar >= 0 {
		return at + bar
	}
	return len(s)
}

// parseActions splits a list of actions at the commas outside quotes.
func parseActions(s string) []action {
	var out []action
	start, quoted := 0, false
	add := func(part string) {
		key, value, _ := strings.Cut(part, ":")
		value = strings.TrimSpace(value)
		if len(value) >= 2 && value[0] == '\'' && value[len(value)-1] == '\'' {
			value = value[1 : len(value)-1]
		}
		if key = strings.ToLower(strings.TrimSpace(key)); key != "" {
			out = append(out, action{key, value})
		}
	}
	for i := range len(s) {
		if i > 0 && s[i-1] == '\\' {
			continue
		}
		switch s[i] {
		case '\'':
			quoted = !quoted
		case ',':
			if !quoted {
				add(s[start:i])
				start = i + 1
			}
		}
	}
	add(s[start:])
	return out
}
