package ftw

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// Result is what came of a request.
type Result struct {
	// Status of the reply; 0 if the connection ended without one.
	Status int
	// Log is what the WAF logged of this request, in ModSecurity's error-log form.
	Log string
}

// Check says how a result differs from what a stage wants; "" if it does not.
func (w Want) Check(r Result) string {
	var wrong []string
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	for _, id := range w.IDs {
		if !has(r.Log, id) {
			bad("rule %d did not match", id)
		}
	}
	for _, id := range w.NoIDs {
		if has(r.Log, id) {
			bad("rule %d matched", id)
		}
	}
	if w.Status != 0 && r.Status != w.Status {
		bad("status %d, want %d", r.Status, w.Status)
	}
	if w.Error != nil && *w.Error != (r.Status == 0) {
		bad("status %d, want an error: %v", r.Status, *w.Error)
	}
	if w.Match != "" && !found(w.Match, r.Log) {
		bad("the log does not match %q", w.Match)
	}
	if w.NoMatch != "" && found(w.NoMatch, r.Log) {
		bad("the log matches %q", w.NoMatch)
	}
	return strings.Join(wrong, "; ")
}

func has(log string, id int) bool { return strings.Contains(log, fmt.Sprintf(`[id "%d"]`, id)) }

func found(expr, log string) bool {
	rx, err := regexp.Compile(expr)
	return err == nil && rx.MatchString(log)
}

// Reply is what a test wants the upstream to answer.
type Reply struct {
	Status  int
	Headers map[string]string
	Body    string
}

// Reflect is the upstream of the tests: a request to /reflect whose body is a
// JSON object {status, headers, body, encodedBody} is answered with just that,
// all others with 200.
func Reflect(path string, body []byte) (Reply, error) {
	if path != "/reflect" {
		return Reply{Status: 200}, nil
	}
	var spec struct {
		Status  int               `json:"status"`
		Headers map[string]string `json:"headers"`
		Body    string            `json:"body"`
		Encoded string            `json:"encodedBody"`
	}
	if err := json.Unmarshal(body, &spec); err != nil {
		return Reply{}, fmt.Errorf("ftw: reflect: %w", err)
	}
	r := Reply{Status: spec.Status, Headers: spec.Headers, Body: spec.Body}
	if spec.Encoded != "" {
		b, err := base64.StdEncoding.DecodeString(spec.Encoded)
		if err != nil {
			return Reply{}, fmt.Errorf("ftw: reflect: encodedBody: %w", err)
		}
		r.Body = string(b)
	}
	if r.Status == 0 {
		r.Status = 200
	}
	return r, nil
}
