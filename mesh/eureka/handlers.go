package eureka

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/mesh/registry"
)

// names are those of the path, as the registry has them.
func names(r *http.Request) (service, id string) {
	return strings.ToLower(r.PathValue("app")), r.PathValue("id")
}

func (s *Server) register(w http.ResponseWriter, r *http.Request) error {
	body, err := s.body(w, r)
	if err != nil {
		return err
	}
	parse := parseXML
	if strings.Contains(r.Header.Get("Content-Type"), "json") {
		parse = parseJSON
	}
	root, err := parse(body)
	if err != nil {
		return wrong("the body %v", err)
	}
	i, err := read(root, r.PathValue("app"))
	if err != nil {
		return err
	}
	if _, _, err := s.s.Registry.Register(r.Context(), i, registry.Expect{}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// renew is a heartbeat. Who has changed since it registered has to do so again.
func (s *Server) renew(w http.ResponseWriter, r *http.Request) error {
	service, id := names(r)
	if registry.CheckNames(service, id) != nil {
		return registry.ErrNotFound
	}
	if text := r.URL.Query().Get("lastDirtyTimestamp"); text != "" {
		dirty, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return wrong("lastDirtyTimestamp must be a number, got %.40q", text)
		}
		if e := s.s.Registry.Get(service, id); e != nil && e.Origin == origin {
			var d details
			if json.Unmarshal(e.Details, &d) == nil && d.LastDirty > 0 && dirty > d.LastDirty {
				return registry.ErrNotFound
			}
		}
	}
	if err := s.s.Registry.Heartbeat(r.Context(), service, id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *Server) cancel(w http.ResponseWriter, r *http.Request) error {
	service, id := names(r)
	if err := s.s.Registry.Deregister(r.Context(), service, id, registry.Expect{}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *Server) override(w http.ResponseWriter, r *http.Request) error {
	value := r.URL.Query().Get("value")
	status, known := statuses[value]
	if !known {
		return wrong("value must be UP, DOWN, STARTING, OUT_OF_SERVICE or UNKNOWN, got %.40q", value)
	}
	if value == "UNKNOWN" {
		status = "" // that is Eureka's word for no override
	}
	return s.decide(w, r, status)
}

// clear ends an override. What Eureka's clients suggest as the status from then
// on is not needed: what the instance says of itself is known.
func (s *Server) clear(w http.ResponseWriter, r *http.Request) error { return s.decide(w, r, "") }

func (s *Server) decide(w http.ResponseWriter, r *http.Request, status registry.Status) error {
	service, id := names(r)
	if _, err := s.s.Registry.Override(r.Context(), service, id, status, registry.Expect{}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *Server) metadata(w http.ResponseWriter, r *http.Request) error {
	service, id := names(r)
	m := map[string]string{}
	for key, values := range r.URL.Query() {
		m[key] = values[0]
	}
	if _, err := s.s.Registry.SetMetadata(r.Context(), service, id, m, registry.Expect{}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// peer accepts nothing: nodes share their store.
func (s *Server) peer(http.ResponseWriter, *http.Request) error {
	return wrong("this server has no peers; take it out of the list of peers, and point clients at it")
}

func (s *Server) all(w http.ResponseWriter, r *http.Request) error   { return s.cached(w, r, false) }
func (s *Server) delta(w http.ResponseWriter, r *http.Request) error { return s.cached(w, r, true) }

func (s *Server) cached(w http.ResponseWriter, r *http.Request, delta bool) error {
	s.s.Registry.Looked(r.Context())
	body, err := s.cache.get(s.s.Registry, form{delta: delta, json: wantsJSON(r), gzip: gzipped(r)})
	if err != nil {
		return err
	}
	reply(w, wantsJSON(r), gzipped(r), body)
	return nil
}

// one answers with what is not worth keeping.
func one(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := encode(v, wantsJSON(r))
	if err != nil {
		return err
	}
	reply(w, wantsJSON(r), false, body)
	return nil
}

func (s *Server) app(w http.ResponseWriter, r *http.Request) error {
	s.s.Registry.Looked(r.Context())
	service, _ := names(r)
	list := s.s.Registry.Instances(service)
	if len(list) == 0 {
		return registry.ErrNotFound
	}
	return one(w, r, newApplication(service, list))
}

func (s *Server) instance(w http.ResponseWriter, r *http.Request) error {
	s.s.Registry.Looked(r.Context())
	e := s.s.Registry.Get(names(r))
	if e == nil {
		return registry.ErrNotFound
	}
	return one(w, r, show(e, registry.Added))
}

func (s *Server) byID(w http.ResponseWriter, r *http.Request) error {
	s.s.Registry.Looked(r.Context())
	e := s.s.Registry.Find(r.PathValue("id"))
	if e == nil {
		return registry.ErrNotFound
	}
	return one(w, r, show(e, registry.Added))
}

func (s *Server) vip(w http.ResponseWriter, r *http.Request) error {
	return s.byVIP(w, r, func(x *shown) string { return x.VIP })
}

func (s *Server) secureVIP(w http.ResponseWriter, r *http.Request) error {
	return s.byVIP(w, r, func(x *shown) string { return x.SecureVIP })
}

// byVIP lists the instances that serve a virtual address.
func (s *Server) byVIP(w http.ResponseWriter, r *http.Request, addresses func(*shown) string) error {
	s.s.Registry.Looked(r.Context())
	want := r.PathValue("vip")
	all := newApplications(s.s.Registry.View(), false, func(x *shown) bool {
		for a := range strings.SplitSeq(addresses(x), ",") {
			if strings.EqualFold(strings.TrimSpace(a), want) {
				return true
			}
		}
		return false
	})
	if len(all.List) == 0 {
		return registry.ErrNotFound
	}
	return one(w, r, all)
}
