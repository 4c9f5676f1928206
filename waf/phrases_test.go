package waf

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/corazawaf/coraza/v3/experimental/plugins/plugintypes"
)

// captured is a transaction that takes down what an operator captures.
type captured struct {
	plugintypes.TransactionState
	on   bool
	list []string
}

func (c *captured) Capturing() bool { return c.on }

func (c *captured) CaptureField(n int, value string) {
	if n != len(c.list) {
		value = "out of turn: " + value
	}
	c.list = append(c.list, value)
}

func TestPhrasesAreCaptured(t *testing.T) {
	for _, c := range []struct {
		phrases, value string
		want           []string // nil: no match
	}{
		{"he she hers", "Ushers, sHe", []string{"she", "sHe"}},
		{"a ab abc", "abcab a", []string{"abc", "ab", "a"}},
		{"aa", "aaaaa", []string{"aa", "aa"}},
		{"a", strings.Repeat("a", 12), slices.Repeat([]string{"a"}, 10)},
		{"two  spaces", "one space", nil},
		{"x", "", nil},
	} {
		op, err := newPhrases(plugintypes.OperatorOptions{Arguments: c.phrases})
		if err != nil {
			t.Fatal(err)
		}
		for _, on := range []bool{false, true} {
			tx := &captured{on: on}
			if op.Evaluate(tx, c.value) != (c.want != nil) || on && !slices.Equal(tx.list, c.want) || !on && tx.list != nil {
				t.Errorf("%q in %q, capturing %v: %q, want %q", c.phrases, c.value, on, tx.list, c.want)
			}
		}
	}
}

// memo remembers what was compiled, as Coraza does for all its engines.
type memo map[string]any

func (m memo) Do(key string, compile func() (any, error)) (any, error) {
	if v, ok := m[key]; ok {
		return v, nil
	}
	v, err := compile()
	if err == nil {
		m[key] = v
	}
	return v, err
}

func TestPhrasesFromFile(t *testing.T) {
	o := plugintypes.OperatorOptions{
		Path: []string{"none", "crs"}, Arguments: "list.data", Memoizer: memo{},
		Root: fstest.MapFS{"crs/list.data": {Data: []byte("# a comment\n  Two Words \r\n\n/etc/passwd")}},
	}
	op, err := newPhrasesFromFile(o)
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]bool{"x two words": true, "/ETC/PASSWD": true, "a comment": false, "two": false, "": false} {
		if op.Evaluate(&captured{}, value) != want {
			t.Errorf("%q: not %v", value, want)
		}
	}
	if again, err := newPhrasesFromFile(o); err != nil || again.(*phrases).set != op.(*phrases).set {
		t.Errorf("compiled once more, or %v", err)
	}
	// A list in the rule of the same text as the file's name is another one.
	o.Arguments = strings.Join(o.Path, ",") + "\x00list.data"
	if listed, err := newPhrases(o); err != nil || listed.(*phrases).set == op.(*phrases).set {
		t.Errorf("the file's phrases, or %v", err)
	}
	for _, name := range []string{"other.data", "/crs/list.data", "../list.data"} {
		o.Arguments = name
		if _, err := newPhrasesFromFile(o); err == nil || len(o.Memoizer.(memo)) != 2 {
			t.Errorf("%s: %v, %d remembered", name, err, len(o.Memoizer.(memo)))
		}
	}
}
