package strict

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

// maxDepth is how deep maps and lists may be nested. A config needs about 10;
// every stage behind the parser recurses.
const maxDepth = 100

// Parse reads one YAML document. It returns nil after a problem; then there is
// exactly one, for what comes after a syntax error cannot be trusted. A text
// without a document is an empty map.
func Parse(data []byte, file string, p *problem.List) *yaml.Node {
	if at, ok := badText(data); !ok {
		at.File = file
		p.AddAt(at, "", "is not UTF-8 text")
		return nil
	}
	var n yaml.Node
	l, err := yaml.NewLoader(bytes.NewReader(data), yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(maxDepth))))
	if err == nil {
		err = l.Load(&n)
	}
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		return &yaml.Node{Kind: yaml.DocumentNode, Line: 1, Column: 1, Content: []*yaml.Node{
			{Kind: yaml.MappingNode, Tag: "!!map", Line: 1, Column: 1},
		}}
	default:
		at, msg := syntax(data, err)
		at.File = file
		p.AddAt(at, "", "%s", msg)
		return nil
	}
	var second yaml.Node
	if err := l.Load(&second); !errors.Is(err, io.EOF) {
		at, msg := problem.Position{Line: max(second.Line, 1), Column: max(second.Column, 1)}, "has a second document (---); write one document a file"
		if err != nil {
			at, msg = syntax(data, err)
		}
		at.File = file
		p.AddAt(at, "", "%s", msg)
		return nil
	}
	return &n
}

// badText finds the first byte that is not UTF-8 or a control character that
// YAML does not allow.
func badText(data []byte) (problem.Position, bool) {
	at := problem.Position{Line: 1, Column: 1}
	if utf8.Valid(data) && bytes.IndexByte(data, 0) < 0 {
		return at, true
	}
	for len(data) > 0 {
		r, n := utf8.DecodeRune(data)
		switch {
		case r == utf8.RuneError && n == 1, r == 0:
			return at, false
		case r == '\n':
			at.Line, at.Column = at.Line+1, 1
		default:
			at.Column++
		}
		data = data[n:]
	}
	return at, true
}

// syntax turns the parser's error into a place and a sentence.
func syntax(data []byte, err error) (problem.Position, string) {
	var le *yaml.LoadError
	if !errors.As(err, &le) {
		return problem.Position{Line: 1, Column: 1}, "is not YAML: " + err.Error()
	}
	at := problem.Position{Line: le.Mark.Line, Column: le.Mark.Column}
	if !at.Known() {
		at = problem.Position{Line: 1, Column: 1}
	}
	if lineHasTab(data, at.Line) && strings.Contains(le.Message, "cannot start any token") {
		return at, "a tab cannot indent; use spaces"
	}
	msg := strings.TrimPrefix(le.Message, "yaml: ")
	if le.ContextMsg != "" {
		msg = le.ContextMsg + ": " + msg
		if le.ContextMark.Line > 0 && le.ContextMark.Line != at.Line {
			msg += " (it began on line " + strconv.Itoa(le.ContextMark.Line) + ")"
		}
	}
	return at, "is not YAML: " + msg
}

func lineHasTab(data []byte, line int) bool {
	for ; line > 1; line-- {
		i := bytes.IndexByte(data, '\n')
		if i < 0 {
			return false
		}
		data = data[i+1:]
	}
	text, _, _ := bytes.Cut(data, []byte("\n"))
	indent := text[:len(text)-len(bytes.TrimLeft(text, " \t"))]
	return bytes.IndexByte(indent, '\t') >= 0
}
