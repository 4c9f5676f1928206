package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config/unit"
	"github.com/gatehouse-proxy/gatehouse/mesh/registry"
)

// maxInstance bounds the body of what is said about one instance.
const maxInstance = 128 << 10

// Registration is the body of PUT /api/v1/services/SERVICE/ID.
type Registration struct {
	Host       string            `json:"host"`
	Port       int               `json:"port,omitempty"`
	SecurePort int               `json:"secure_port,omitempty"`
	Zone       string            `json:"zone,omitempty"`
	Weight     int               `json:"weight,omitempty"`
	Metadata   map[string]string `json:"metadata,omitempty"`
	// Status is up if it is absent.
	Status registry.Status `json:"status,omitempty"`
	// TTL is how long the instance stays without a heartbeat; absent: for ever.
	TTL unit.Duration `json:"ttl,omitempty"`
}

// Instance is an instance as the API shows it.
type Instance struct {
	registry.Instance
	// Effective is the status that counts.
	Effective registry.Status `json:"effective"`
	Tag       string          `json:"tag"`
	// Missing is since when the store does not have it.
	Missing time.Time `json:"missing,omitzero"`
}

// Service is one service with its instances.
type Service struct {
	Service   string     `json:"service"`
	Instances []Instance `json:"instances"`
}

// Services is what GET /api/v1/services answers, by name.
type Services struct {
	Services []Service        `json:"services"`
	Registry registry.Summary `json:"registry"`
}

func (a *Server) serviceRoutes(mux *http.ServeMux) {
	const one = "/api/v1/services/{service}/{id}"
	for pattern, serve := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /api/v1/services":           a.services,
		"GET /api/v1/services/{service}": a.service,
		"GET " + one:                     a.instance,
		"PUT " + one:                     a.register,
		"DELETE " + one:                  a.deregister,
		"POST " + one + "/heartbeat":     a.heartbeat,
		"POST " + one + "/drain":         a.drain,
		"PUT " + one + "/status":         a.setStatus,
		"DELETE " + one + "/status":      a.clearStatus,
		"PATCH " + one + "/metadata":     a.setMetadata,
	} {
		mux.Handle(pattern, a.guarded(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), reading)
			defer cancel()
			err := errNoRegistry
			if a.settings.Registry != nil {
				err = serve(w, r.WithContext(ctx))
			}
			if err != nil {
				registryProblem(w, err)
			}
		})))
	}
}

var errNoRegistry = refuse(http.StatusNotFound, "this node has no service registry")

// registryProblem answers an error of the registry.
func registryProblem(w http.ResponseWriter, err error) {
	invalid := new(registry.InvalidError)
	switch why := err.Error(); {
	case errors.As(err, &invalid):
		err = refuse(http.StatusUnprocessableEntity, "%s", why)
	case errors.Is(err, registry.ErrNotFound):
		err = refuse(http.StatusNotFound, "%s", why)
	case errors.Is(err, registry.ErrStale):
		err = refuse(http.StatusPreconditionFailed, "%s", why)
	case errors.Is(err, registry.ErrExists), errors.Is(err, registry.ErrBusy):
		err = refuse(http.StatusConflict, "%s", why)
	case errors.Is(err, registry.ErrFull):
		err = refuse(http.StatusInsufficientStorage, "%s", why)
	}
	problem(w, err)
}

func show(e *registry.Entry) Instance {
	i := Instance{Instance: *e.Instance, Effective: e.Effective(), Tag: e.Tag, Missing: e.Missing}
	i.Details = nil
	return i
}

func showAll(list []*registry.Entry) []Instance {
	out := make([]Instance, len(list)) // none is [] in JSON
	for i, e := range list {
		out[i] = show(e)
	}
	return out
}

func (a *Server) services(w http.ResponseWriter, r *http.Request) error {
	a.settings.Registry.Looked(r.Context())
	v := a.settings.Registry.View()
	out := Services{Services: []Service{}, Registry: a.settings.Registry.Summary()}
	for _, name := range slices.Sorted(maps.Keys(v.Services)) {
		out.Services = append(out.Services, Service{name, showAll(v.Services[name])})
	}
	reply(w, http.StatusOK, out)
	return nil
}

func (a *Server) service(w http.ResponseWriter, r *http.Request) error {
	a.settings.Registry.Looked(r.Context())
	name := r.PathValue("service")
	list := a.settings.Registry.Instances(name)
	if len(list) == 0 {
		return refuse(http.StatusNotFound, "there is no service %.120q", name)
	}
	reply(w, http.StatusOK, Service{name, showAll(list)})
	return nil
}

func (a *Server) instance(w http.ResponseWriter, r *http.Request) error {
	a.settings.Registry.Looked(r.Context())
	e := a.settings.Registry.Get(r.PathValue("service"), r.PathValue("id"))
	if e == nil {
		return registry.ErrNotFound
	}
	return replyEntry(w, http.StatusOK, e)
}

func replyEntry(w http.ResponseWriter, code int, e *registry.Entry) error {
	w.Header().Set("ETag", fmt.Sprintf("%q", e.Tag))
	reply(w, code, show(e))
	return nil
}

// conditions reads If-Match and If-None-Match. Neither is required: an instance
// that registers knows best.
func conditions(r *http.Request) (x registry.Expect, err error) {
	match, none := r.Header.Get("If-Match"), r.Header.Get("If-None-Match")
	switch {
	case none == "*":
		x.Absent = true
	case none != "":
		return x, refuse(http.StatusBadRequest, "If-None-Match must be *, got %.40q", none)
	}
	if match == "" || match == "*" {
		return x, nil
	}
	inner, ok := strings.CutPrefix(match, `"`)
	inner, closed := strings.CutSuffix(inner, `"`)
	if !ok || !closed || inner == "" {
		return x, refuse(http.StatusBadRequest, `If-Match must be "TAG", as ETag has it, or *, got %.40s`, match)
	}
	x.Tag = inner
	return x, nil
}

// said reads a body about one instance into v.
func said(w http.ResponseWriter, r *http.Request, v any) error {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxInstance))
	if large := new(http.MaxBytesError); errors.As(err, &large) {
		return refuse(http.StatusRequestEntityTooLarge, "the body may have %d bytes", maxInstance)
	}
	if err != nil {
		return refuse(http.StatusBadRequest, "the body could not be read: %v", err)
	}
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return refuse(http.StatusBadRequest, "the body is not what is expected here: %v", err)
	}
	if d.More() {
		return refuse(http.StatusBadRequest, "the body is not what is expected here: there is more behind it")
	}
	return nil
}

func (a *Server) register(w http.ResponseWriter, r *http.Request) error {
	var q Registration
	if err := said(w, r, &q); err != nil {
		return err
	}
	x, err := conditions(r)
	if err != nil {
		return err
	}
	if q.Status == "" {
		q.Status = registry.Up
	}
	e, created, err := a.settings.Registry.Register(r.Context(), registry.Instance{
		Service: r.PathValue("service"), ID: r.PathValue("id"), Host: q.Host, Port: q.Port, SecurePort: q.SecurePort,
		Zone: q.Zone, Weight: q.Weight, Metadata: q.Metadata, Status: q.Status, TTL: q.TTL, Origin: "api",
	}, x)
	if err != nil {
		return err
	}
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	return replyEntry(w, code, e)
}

func (a *Server) deregister(w http.ResponseWriter, r *http.Request) error {
	x, err := conditions(r)
	if err != nil {
		return err
	}
	if err := a.settings.Registry.Deregister(r.Context(), r.PathValue("service"), r.PathValue("id"), x); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *Server) heartbeat(w http.ResponseWriter, r *http.Request) error {
	if err := a.settings.Registry.Heartbeat(r.Context(), r.PathValue("service"), r.PathValue("id")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *Server) drain(w http.ResponseWriter, r *http.Request) error {
	return a.override(w, r, registry.Drain)
}

func (a *Server) setStatus(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		Status registry.Status `json:"status"`
	}
	if err := said(w, r, &q); err != nil {
		return err
	}
	if q.Status == "" {
		return refuse(http.StatusBadRequest, "status is required")
	}
	return a.override(w, r, q.Status)
}

func (a *Server) clearStatus(w http.ResponseWriter, r *http.Request) error {
	return a.override(w, r, "")
}

func (a *Server) override(w http.ResponseWriter, r *http.Request, s registry.Status) error {
	x, err := conditions(r)
	if err != nil {
		return err
	}
	e, err := a.settings.Registry.Override(r.Context(), r.PathValue("service"), r.PathValue("id"), s, x)
	if err != nil {
		return err
	}
	return replyEntry(w, http.StatusOK, e)
}

func (a *Server) setMetadata(w http.ResponseWriter, r *http.Request) error {
	var q map[string]string
	if err := said(w, r, &q); err != nil {
		return err
	}
	x, err := conditions(r)
	if err != nil {
		return err
	}
	e, err := a.settings.Registry.SetMetadata(r.Context(), r.PathValue("service"), r.PathValue("id"), q, x)
	if err != nil {
		return err
	}
	return replyEntry(w, http.StatusOK, e)
}
