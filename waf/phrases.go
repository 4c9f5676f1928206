package waf

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/corazawaf/coraza/v3/experimental/plugins"
	"github.com/corazawaf/coraza/v3/experimental/plugins/plugintypes"

	"github.com/gatehouse-proxy/gatehouse/waf/phrase"
)

// ownOperators has Coraza use package phrase for lists of phrases. Coraza knows
// its operators by name for the whole process, so that this is done once, before
// the first rules are compiled.
var ownOperators = sync.OnceFunc(func() {
	plugins.RegisterOperator("pm", newPhrases)
	plugins.RegisterOperator("pmFromFile", newPhrasesFromFile)
	plugins.RegisterOperator("pmf", newPhrasesFromFile)
})

// phrases is the operator @pm, and @pmFromFile: true if one of them is in the
// value. It decides, and captures, as Coraza's own does, but that Coraza's @pm
// without a phrase is always true.
type phrases struct {
	set *phrase.Set
}

// mostCaptured is how many of the phrases in a value rules can see: TX.0 to TX.9.
const mostCaptured = 10

// Evaluate implements plugintypes.Operator.
func (p *phrases) Evaluate(tx plugintypes.TransactionState, value string) bool {
	if !p.set.In(value) {
		return false
	}
	if tx.Capturing() {
		p.capture(tx, value)
	}
	return true
}

// capture lets rules see the phrases that are in the value, from left to right,
// the longest of those that begin at one place, and none that overlap.
func (p *phrases) capture(tx plugintypes.TransactionState, value string) {
	for n := range mostCaptured {
		from, to, ok := p.set.Find(value)
		if !ok {
			return
		}
		tx.CaptureField(n, value[from:to])
		value = value[to:]
	}
}

func newPhrases(o plugintypes.OperatorOptions) (plugintypes.Operator, error) {
	return compilePhrases(o, "listed\x00"+o.Arguments, func() ([]string, error) {
		list := strings.Split(strings.ToLower(o.Arguments), " ")
		if !slices.ContainsFunc(list, func(p string) bool { return p != "" }) {
			return nil, errors.New("@pm needs a phrase to look for")
		}
		return list, nil
	})
}

func newPhrasesFromFile(o plugintypes.OperatorOptions) (plugintypes.Operator, error) {
	return compilePhrases(o, "file\x00"+strings.Join(o.Path, ",")+"\x00"+o.Arguments, func() ([]string, error) {
		text, err := readData(o)
		if err != nil {
			return nil, err
		}
		var list []string
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				list = append(list, strings.ToLower(line))
			}
		}
		return list, nil
	})
}

// compilePhrases shares a set with every engine that has the same phrases; Coraza
// forgets it with the last of them.
func compilePhrases(o plugintypes.OperatorOptions, key string, list func() ([]string, error)) (plugintypes.Operator, error) {
	compile := func() (any, error) {
		l, err := list()
		if err != nil {
			return nil, err
		}
		return phrase.New(l), nil
	}
	var made any
	var err error
	if o.Memoizer == nil {
		made, err = compile()
	} else {
		made, err = o.Memoizer.Do("phrases\x00"+key, compile)
	}
	if err != nil {
		return nil, err
	}
	set, ok := made.(*phrase.Set)
	if !ok {
		return nil, fmt.Errorf("phrases: coraza kept a %T for them", made)
	}
	return &phrases{set}, nil
}

// readData reads a data file of the rule set, from the first folder that has it.
func readData(o plugintypes.OperatorOptions) (string, error) {
	if path.IsAbs(o.Arguments) {
		text, err := fs.ReadFile(o.Root, o.Arguments)
		return string(text), err
	}
	err := error(&fs.PathError{Op: "open", Path: o.Arguments, Err: fs.ErrNotExist})
	for _, dir := range o.Path {
		var text []byte
		if text, err = fs.ReadFile(o.Root, path.Join(dir, o.Arguments)); err == nil {
			return string(text), nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return "", err
}
