// Package waf inspects requests and replies with Coraza and the OWASP Core
// Rule Set: it turns a policy into an engine, shares engines among routes,
// runs transactions on them and reports what they found. It knows nothing of
// Fiber or of the exchange; package plugins/waf feeds it.
//
// A Guard is a policy bound to a route, an Engine the compiled rules behind
// it, an Inspection one request on its way through. All rule text is assembled
// here and every transaction is begun here, so that something cheaper can one
// day decide about harmless requests before Coraza is asked.
package waf

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"sort"
	"strings"

	coreruleset "github.com/corazawaf/coraza-coreruleset/v4"
	"github.com/corazawaf/coraza/v3"
	"github.com/corazawaf/coraza/v3/collection"
	"github.com/corazawaf/coraza/v3/experimental"
	"github.com/corazawaf/coraza/v3/experimental/plugins/plugintypes"
	"github.com/corazawaf/coraza/v3/types"
)

// digest identifies an engine: SHA-256 of the SecLang it was built from.
type digest = [sha256.Size]byte

// engine is one compiled set of rules. It never changes and is safe for
// concurrent use.
type engine struct {
	waf coraza.WAF
}

// transaction is what an inspection uses of a Coraza transaction. The second
// half is Coraza's experimental API.
type transaction interface {
	types.Transaction
	plugintypes.TransactionState
	// DetectionOnlyInterruption is what would have happened in On mode.
	DetectionOnlyInterruption() *types.Interruption
}

// logged is what a matched rule says of itself beyond types.MatchedRule.
type logged interface{ Log() bool }

// setter is a variable that can be set from outside.
type setter interface{ Set(value string) }

// build compiles a program. What a user wrote wrongly is named by its place.
func build(p *program) (*engine, error) {
	w, err := compile(p)
	if err != nil {
		return nil, blame(p, err)
	}
	e := &engine{waf: w}
	if err := e.probe(); err != nil {
		return nil, errors.Join(err, e.close())
	}
	return e, nil
}

func compile(p *program) (coraza.WAF, error) {
	ownOperators()
	// The rule set's data files are found where the text is: at the root.
	root, err := fs.Sub(coreruleset.FS, crsDir)
	if err != nil {
		return nil, fmt.Errorf("core rule set: %w", err)
	}
	w, err := coraza.NewWAF(coraza.NewWAFConfig().WithRootFS(rulesRoot{root}).WithDirectives(p.text()))
	if err != nil {
		return nil, fmt.Errorf("%s", strings.TrimPrefix(err.Error(), "invalid WAF config from string: "))
	}
	return w, nil
}

// rulesRoot is the rule set's data files, and nothing else: an error from it
// names the file only.
type rulesRoot struct{ fs.FS }

// Open implements fs.FS.
func (r rulesRoot) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return r.FS.Open(name)
}

// blame finds the user's directive that made compiling fail: the first one
// without which the rest compiles. Coraza's own errors often name no line.
func blame(p *program, cause error) error {
	n := p.users()
	if n == 0 {
		return fmt.Errorf("waf: %w", cause)
	}
	failed := map[int]error{n: cause}
	at := sort.Search(n+1, func(k int) bool {
		if _, known := failed[k]; known {
			return true
		}
		part, _ := p.first(k)
		w, err := compile(part)
		if err != nil {
			failed[k] = err
			return true
		}
		_ = closeWAF(w) // it was built only to see whether it can be
		return false
	})
	if at == 0 {
		return fmt.Errorf("waf: %w", failed[0])
	}
	_, place := p.first(at)
	return fmt.Errorf("%s: %w", place, failed[at])
}

// probe makes sure that the parts of Coraza's experimental API that
// inspections rely on are there, before the first request needs them.
func (e *engine) probe() error {
	tx, ok := e.waf.NewTransaction().(transaction)
	if !ok {
		return errors.New("waf: this version of coraza does not give access to its transactions")
	}
	defer tx.Close() //nolint:errcheck // nothing has been written to it
	_, ok1 := tx.Variables().RequestBodyProcessor().(setter)
	_, ok2 := tx.Variables().InboundDataError().(setter)
	if !ok1 || !ok2 {
		return errors.New("waf: this version of coraza does not let the body parser be chosen")
	}
	if tx.Variables().TX() == nil {
		return errors.New("waf: this version of coraza has no TX collection")
	}
	return nil
}

// begin starts a transaction. This is the only place where one is made.
func (e *engine) begin(id string) transaction {
	if id == "" {
		return e.waf.NewTransaction().(transaction) // checked by probe
	}
	return e.waf.NewTransactionWithID(id).(transaction)
}

// close gives back what Coraza memoised for this engine. Transactions in
// flight are not affected.
func (e *engine) close() error { return closeWAF(e.waf) }

func closeWAF(w coraza.WAF) error {
	if c, ok := w.(experimental.WAFCloser); ok {
		if err := c.Close(); err != nil {
			return fmt.Errorf("waf: closing an engine: %w", err)
		}
	}
	return nil
}

// txNumber is a variable of the TX collection as a number, 0 if it is none.
func txNumber(tx collection.Map, name string) int {
	values := tx.Get(name)
	if len(values) == 0 {
		return 0
	}
	n := 0
	for _, c := range values[0] {
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + int(c-'0')
	}
	return n
}
