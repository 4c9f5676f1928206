package waf

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/corazawaf/coraza/v3/types"
)

// Action is what a verdict asks for.
type Action uint8

// Actions a rule may ask for.
const (
	Pass     Action = iota // go on
	Deny                   // refuse with Verdict.Status
	Redirect               // answer Verdict.Status with Location
	Drop                   // end the connection
	Fail                   // the engine failed: Verdict.Err says how
)

// Verdict is what an engine says at one point of an inspection. The zero value
// lets the request go on.
type Verdict struct {
	Action   Action
	Status   int
	Location string
	// Rule is the ID of the rule that decided.
	Rule int
	Err  error
}

// Inspection is one request on its way through an engine. It belongs to the
// request's goroutine; the calls come in the order Head, Body, Reply,
// ReplyBody, End, and after a verdict that is not Pass only End. Each call
// turns a panic of the engine into the verdict Fail.
type Inspection struct {
	guard  *Guard
	tx     transaction
	broken bool
	opaque bool // the declared type is binary
	took   time.Duration
	ended  bool
	over   bool // the body was longer than what was inspected
}

// Begin starts inspecting a request. End must be called, whatever happens.
func (g *Guard) Begin() *Inspection { return &Inspection{guard: g} }

// Head inspects the request line and the header fields.
func (i *Inspection) Head(r *Request) (v Verdict) {
	defer i.enter(&v)()
	tx := i.guard.engine.begin(r.ID)
	i.tx = tx
	vars := tx.Variables().TX()
	vars.Set(txPath, []string{r.Path})
	if i.guard.methods != nil {
		vars.Set(txMethods, i.guard.methods)
		vars.Set(txTypes, i.guard.types)
	}
	tx.ProcessConnection(r.Client.Addr().String(), int(r.Client.Port()), r.Server.Addr().String(), int(r.Server.Port()))
	tx.ProcessURI(r.Target, r.Method, r.Protocol)
	tx.SetServerName(r.Host)
	seen := false
	for _, f := range r.Fields {
		if !seen && strings.EqualFold(f.Name, "Content-Type") {
			i.opaque, seen = binaryType(mediaType(f.Value)), true
		}
		tx.AddRequestHeader(f.Name, f.Value)
	}
	return i.verdict(tx.ProcessRequestHeaders(), nil)
}

// Body inspects the request body, or its beginning if whole is false. It must
// be called for a request without a body too, because rules about arguments
// run only then. At most BodyLimit bytes of b are looked at.
func (i *Inspection) Body(b []byte, whole bool) (v Verdict) {
	defer i.enter(&v)()
	i.over = !whole || len(b) > i.guard.BodyLimit
	b = b[:min(len(b), i.guard.BodyLimit)]
	if len(b) > 0 {
		i.chooseParser(b)
		if it, _, err := i.tx.WriteRequestBody(b); it != nil || err != nil {
			return i.verdict(it, err)
		}
	}
	return i.verdict(i.tx.ProcessRequestBody())
}

// chooseParser corrects what the declared type says of how to parse the body.
func (i *Inspection) chooseParser(b []byte) {
	vars := i.tx.Variables()
	if i.opaque && binary(b) {
		// Else the CRS has it parsed as a form, which makes thousands of
		// nonsense arguments of an image.
		vars.RequestBodyProcessor().(setter).Set("RAW") // checked by probe
	}
	if i.over {
		// The parsers keep what they understood of a document that was cut;
		// this makes that no error. See bodyRules.
		vars.InboundDataError().(setter).Set("1") // checked by probe
	}
}

// Reply inspects the head of the upstream's reply.
func (i *Inspection) Reply(status int, protocol string, fields []Field) (v Verdict) {
	defer i.enter(&v)()
	for _, f := range fields {
		value := f.Value
		if strings.EqualFold(f.Name, "Content-Type") {
			value = strings.ToLower(value) // Coraza compares types as they are
		}
		i.tx.AddResponseHeader(f.Name, value)
	}
	return i.verdict(i.tx.ProcessResponseHeaders(status, protocol), nil)
}

// ReplyBody inspects the reply body, or its beginning; nil runs the rules that
// need none.
func (i *Inspection) ReplyBody(b []byte) (v Verdict) {
	defer i.enter(&v)()
	if len(b) > 0 {
		b = b[:min(len(b), i.guard.ReplyLimit)]
		if it, _, err := i.tx.WriteResponseBody(b); it != nil || err != nil {
			return i.verdict(it, err)
		}
	}
	return i.verdict(i.tx.ProcessResponseBody())
}

// Outcome is what an inspection came to.
type Outcome struct {
	// Score and ReplyScore are the CRS's anomaly scores at the blocking level.
	Score, ReplyScore int
	// Blocks says that a rule wanted to disrupt: in block mode it did.
	Blocks bool
	// Matches are the rules that matched with a log entry, in order.
	Matches []Match
	// Took is the time spent in the engine.
	Took time.Duration
}

// End finishes the inspection and gives its memory back. It is safe twice; the
// second call returns nothing.
func (i *Inspection) End() (out Outcome) {
	if i.ended {
		return Outcome{}
	}
	i.ended = true
	if i.tx == nil {
		return Outcome{Took: i.took}
	}
	var v Verdict
	func() {
		defer i.enter(&v)()
		if i.broken {
			return
		}
		i.tx.ProcessLogging()
		out = i.outcome()
	}()
	out.Took = i.took
	if i.broken {
		i.removeFiles()
	} else {
		_ = i.tx.Close() // a temporary file that cannot be removed harms nothing here
	}
	return out
}

// removeFiles removes what a transaction that cannot be closed has written: the
// multipart parser keeps parts in temporary files.
func (i *Inspection) removeFiles() {
	defer func() { _ = recover() }() // the transaction is in no defined state
	for _, name := range i.tx.Variables().FilesTmpNames().Get("") {
		_ = os.Remove(name)
	}
}

func (i *Inspection) outcome() Outcome {
	vars := i.tx.Variables().TX()
	out := Outcome{
		Score:      txNumber(vars, "blocking_inbound_anomaly_score"),
		ReplyScore: txNumber(vars, "blocking_outbound_anomaly_score"),
		Blocks:     i.tx.IsInterrupted() || i.tx.DetectionOnlyInterruption() != nil,
	}
	for _, m := range i.tx.MatchedRules() {
		if l, ok := m.(logged); ok && l.Log() {
			out.Matches = append(out.Matches, newMatch(m))
		}
	}
	return out
}

// Over reports that the body was longer than what was inspected.
func (i *Inspection) Over() bool { return i.over }

// PanicError is a panic inside the engine.
type PanicError struct {
	Value any
	Stack []byte
}

// Error implements error; it leaves the stack to those who ask for it.
func (e *PanicError) Error() string { return fmt.Sprintf("the engine panicked: %v", e.Value) }

// enter measures a call and catches a panic in it. A transaction that has
// panicked is never used again, nor given back.
func (i *Inspection) enter(v *Verdict) func() {
	began := time.Now()
	return func() {
		i.took += time.Since(began)
		if p := recover(); p != nil {
			i.broken = true
			*v = Verdict{Action: Fail, Err: &PanicError{Value: p, Stack: debug.Stack()}}
		}
	}
}

func (i *Inspection) verdict(it *types.Interruption, err error) Verdict {
	if err != nil {
		return Verdict{Action: Fail, Err: err}
	}
	if it == nil {
		return Verdict{}
	}
	v := Verdict{Action: Deny, Status: it.Status, Rule: it.RuleID}
	switch it.Action {
	case "redirect":
		v.Action, v.Location = Redirect, it.Data
		if v.Status < 300 || v.Status > 399 {
			v.Status = 302
		}
		return v
	case "drop":
		v.Action = Drop
	}
	if v.Status < 400 || v.Status > 599 {
		v.Status = 403
	}
	return v
}

// binaryType reports types whose bodies are not text. That of gRPC is none of
// them: the messages of a call are nobody's to inspect, and what comes here under
// its name goes where no gRPC is spoken.
func binaryType(t string) bool {
	switch t {
	case "application/octet-stream", "application/protobuf", "application/x-protobuf",
		"application/pdf", "application/zip", "application/gzip", "application/x-tar":
		return true
	}
	for _, p := range []string{"application/grpc-web", "image/", "audio/", "video/", "font/"} {
		if strings.HasPrefix(t, p) {
			return t != "image/svg+xml"
		}
	}
	return false
}

// binary reports that a body is binary indeed. The type alone must not decide:
// servers that parse JSON or XML whatever the type says are common, and with
// them naming another type would be a way around the inspection.
func binary(b []byte) bool {
	b = b[:min(len(b), 512)]
	for k, c := range b {
		if c == ' ' || c == '\t' || c == '\r' || c == '\n' {
			continue
		}
		if c == '{' || c == '[' || c == '"' || c == '<' {
			return false
		}
		b = b[k:]
		break
	}
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 && len(b) >= utf8.UTFMax {
			return true
		}
		if r < ' ' && r != '\t' && r != '\r' && r != '\n' {
			return true
		}
		b = b[n:]
	}
	return false
}
