package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/control/fleet"
	"github.com/gatehouse-proxy/gatehouse/control/nodes"
	"github.com/gatehouse-proxy/gatehouse/control/revision"
	"github.com/gatehouse-proxy/gatehouse/control/store"
)

const (
	// reading is how long the store may take to answer what is only read.
	reading = 10 * time.Second
	// sending is how long a client may take to send a config.
	sending = time.Minute
	// maxWait bounds how long a client can have nodes waited for.
	maxWait = 10 * time.Minute
	// maxHistory bounds one page of the history, defaultHistory is its usual size.
	maxHistory, defaultHistory = 1000, 50
)

// Publication is the body of POST /api/v1/revisions.
type Publication struct {
	Author  string `json:"author"`
	Message string `json:"message"`
	// Files in the form of revision.Pack, or
	Files json.RawMessage `json:"files,omitempty"`
	// Revision whose files are to be published again.
	Revision uint64 `json:"revision,omitempty"`
}

// Revision is what GET /api/v1/revisions/N answers.
type Revision struct {
	store.Revision
	Files []File `json:"files"`
}

// File is one file of a revision; Data is base64 in JSON.
type File struct {
	Name string `json:"name"`
	Data []byte `json:"data"`
}

// History is what GET /api/v1/revisions answers, newest first.
type History struct {
	Revisions []store.Revision `json:"revisions"`
}

// Fleet is what GET /api/v1/fleet answers.
type Fleet struct {
	// Latest is the store's newest revision; 0 also where the node's config is a
	// file.
	Latest uint64         `json:"latest"`
	Nodes  []nodes.Member `json:"nodes"`
	// Alerts are what is wrong with them.
	Alerts []fleet.Alert `json:"alerts,omitempty"`
}

// Plan is what POST /api/v1/plan answers.
type Plan struct {
	fleet.Plan
	// Warnings are about what the config may say and hardly means.
	Warnings []Place `json:"warnings,omitempty"`
}

// Problem is an error in the form of RFC 9457.
type Problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	// Problems are the places in the config that are wrong.
	Problems []Place `json:"problems,omitempty"`
}

// Place is one thing that is wrong with a config.
type Place struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Path    string `json:"path,omitempty"`
	Message string `json:"message"`
}

func places(all config.Problems) (list []Place) {
	for _, one := range all {
		list = append(list, Place{one.At.File, one.At.Line, one.At.Column, one.Path, one.Message})
	}
	return list
}

func (a *Server) fleetRoutes(mux *http.ServeMux) {
	mux.Handle("GET /api/v1/fleet", a.guarded(http.HandlerFunc(a.fleet)))
	for pattern, serve := range map[string]func(http.ResponseWriter, *http.Request) error{
		"POST /api/v1/plan":           a.plan,
		"POST /api/v1/revisions":      a.publish,
		"GET /api/v1/revisions":       a.history,
		"GET /api/v1/revisions/{nth}": a.revision,
	} {
		mux.Handle(pattern, a.guarded(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			err := errNoFleet
			if a.settings.Fleet != nil {
				err = serve(w, r)
			}
			if err != nil {
				problem(w, err)
			}
		})))
	}
}

// failure is an error with its status.
type failure struct {
	status int
	why    string
}

// Error implements error.
func (f *failure) Error() string { return f.why }

func refuse(status int, format string, args ...any) error {
	return &failure{status, fmt.Sprintf(format, args...)}
}

var errNoFleet = refuse(http.StatusNotFound, "the config of this node is a file (node.config: file): there are no revisions")

// problem answers an error.
func problem(w http.ResponseWriter, err error) {
	p := Problem{Status: http.StatusServiceUnavailable, Detail: err.Error()}
	var (
		f     *failure
		all   config.Problems
		stale *fleet.StaleError
		draft *fleet.DraftError
	)
	switch {
	case errors.As(err, &f):
		p.Status = f.status
	case errors.As(err, &all):
		p.Status, p.Detail, p.Problems = http.StatusUnprocessableEntity, "the config is not valid", places(all)
	case errors.As(err, &stale):
		p.Status = http.StatusPreconditionFailed
	case errors.Is(err, store.ErrConflict):
		p.Status, p.Detail = http.StatusConflict, "somebody else has published at the same time: look at what has changed, and apply again"
	case errors.As(err, &draft):
		p.Status = http.StatusUnprocessableEntity
	case errors.Is(err, fleet.ErrNoControl):
		p.Status = http.StatusForbidden
	case errors.Is(err, store.ErrNotFound):
		p.Status, p.Detail = http.StatusNotFound, "there is no such revision, or it is no longer kept (node.control.history)"
	}
	p.Title = http.StatusText(p.Status)
	replyAs(w, p.Status, "application/problem+json", p)
}

// body reads what a client sends, within bounds.
func body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	// Where deadlines cannot be set, the server's own applies.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(sending))
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, revision.MaxSize))
	if large := new(http.MaxBytesError); errors.As(err, &large) {
		return nil, refuse(http.StatusRequestEntityTooLarge, "a config may have %d bytes", revision.MaxSize)
	}
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "the body could not be read: %v", err)
	}
	return b, nil
}

func (a *Server) plan(w http.ResponseWriter, r *http.Request) error {
	data, err := body(w, r)
	if err != nil {
		return err
	}
	plan, err := a.settings.Fleet.Plan(r.Context(), data)
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, Plan{*plan, places(plan.Warnings)})
	return nil
}

func (a *Server) publish(w http.ResponseWriter, r *http.Request) error {
	q, err := publication(w, r)
	if err != nil {
		return err
	}
	d := fleet.Draft{Author: q.Author, Message: q.Message}
	if d.Expect, err = expected(r.Header.Get("If-Match")); err != nil {
		return err
	}
	wait, rollback, err := waiting(r)
	if err != nil {
		return err
	}
	switch {
	case (q.Revision > 0) == (q.Files != nil):
		return refuse(http.StatusBadRequest, "the body needs exactly one of files and revision")
	case q.Revision > 0:
		old, err := a.settings.Fleet.Revision(r.Context(), q.Revision)
		if err != nil {
			return err
		}
		d.Data = old.Data
	default:
		files, err := revision.Unpack(append(append([]byte(`{"files":`), q.Files...), '}'))
		if err != nil {
			return refuse(http.StatusUnprocessableEntity, "%v", err)
		}
		if d.Data, err = revision.Pack(files); err != nil {
			return refuse(http.StatusUnprocessableEntity, "%v", err)
		}
	}
	applied, err := a.settings.Fleet.Apply(r.Context(), d, wait, rollback)
	if err != nil {
		return err
	}
	w.Header().Set("Location", fmt.Sprintf("/api/v1/revisions/%d", applied.Revision.Number))
	reply(w, http.StatusCreated, applied)
	return nil
}

func publication(w http.ResponseWriter, r *http.Request) (*Publication, error) {
	data, err := body(w, r)
	if err != nil {
		return nil, err
	}
	q := new(Publication)
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.DisallowUnknownFields()
	if err := d.Decode(q); err != nil {
		return nil, refuse(http.StatusBadRequest, "the body is not what is expected here: %v", err)
	}
	return q, nil
}

// expected reads If-Match: the number of a revision in quotes, or *.
func expected(text string) (*uint64, error) {
	switch {
	case text == "":
		return nil, refuse(http.StatusPreconditionRequired, `send If-Match: "N", the revision this one was made from ("0": the first), or If-Match: *`)
	case text == "*":
		return nil, nil
	}
	inner, ok := strings.CutPrefix(text, `"`)
	inner, closed := strings.CutSuffix(inner, `"`)
	n, err := strconv.ParseUint(inner, 10, 64)
	if !ok || !closed || err != nil {
		return nil, refuse(http.StatusBadRequest, `If-Match must be "N", the number of a revision in quotes, or *, got %.40s`, text)
	}
	return &n, nil
}

// waiting reads the query: wait is a duration, rollback a boolean.
func waiting(r *http.Request) (wait time.Duration, rollback bool, err error) {
	q := r.URL.Query()
	rollback = true
	if text := q.Get("wait"); text != "" {
		if wait, err = time.ParseDuration(text); err != nil || wait < 0 || wait > maxWait {
			return 0, false, refuse(http.StatusBadRequest, "wait must be a duration up to %v, got %.40q", maxWait, text)
		}
	}
	if text := q.Get("rollback"); text != "" {
		if rollback, err = strconv.ParseBool(text); err != nil {
			return 0, false, refuse(http.StatusBadRequest, "rollback must be true or false, got %.40q", text)
		}
	}
	return wait, rollback, nil
}

func (a *Server) history(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	before, err := number(q.Get("before"), 0)
	if err != nil {
		return refuse(http.StatusBadRequest, "before must be the number of a revision, got %.40q", q.Get("before"))
	}
	limit, err := number(q.Get("limit"), defaultHistory)
	if err != nil || limit == 0 || limit > maxHistory {
		return refuse(http.StatusBadRequest, "limit must be from 1 to %d, got %.40q", maxHistory, q.Get("limit"))
	}
	ctx, cancel := context.WithTimeout(r.Context(), reading)
	defer cancel()
	list, err := a.settings.Fleet.History(ctx, before, int(limit))
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, History{append([]store.Revision{}, list...)}) // none is [] in JSON
	return nil
}

func number(text string, otherwise uint64) (uint64, error) {
	if text == "" {
		return otherwise, nil
	}
	return strconv.ParseUint(text, 10, 64)
}

func (a *Server) revision(w http.ResponseWriter, r *http.Request) error {
	n, err := number(r.PathValue("nth"), 0)
	if err != nil || n == 0 {
		return refuse(http.StatusNotFound, "%.40q is not the number of a revision", r.PathValue("nth"))
	}
	ctx, cancel := context.WithTimeout(r.Context(), reading)
	defer cancel()
	got, err := a.settings.Fleet.Revision(ctx, n)
	if err != nil {
		return err
	}
	files, err := revision.Unpack(got.Data)
	if err != nil {
		return err
	}
	out := Revision{Revision: *got}
	for _, f := range files {
		out.Files = append(out.Files, File(f))
	}
	w.Header().Set("ETag", fmt.Sprintf("%q", strconv.FormatUint(n, 10)))
	reply(w, http.StatusOK, out)
	return nil
}

func (a *Server) fleet(w http.ResponseWriter, r *http.Request) {
	if a.settings.Members == nil {
		problem(w, errNoFleet)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), reading)
	defer cancel()
	var out Fleet
	var err error
	if a.settings.Fleet != nil {
		out.Latest, err = a.settings.Fleet.Latest(ctx)
	}
	if err == nil {
		out.Nodes, err = a.settings.Members(ctx)
	}
	if err != nil {
		problem(w, err)
		return
	}
	if a.settings.Fleet != nil {
		out.Alerts = a.settings.Fleet.Alerts(out.Nodes)
	}
	reply(w, http.StatusOK, out)
}
