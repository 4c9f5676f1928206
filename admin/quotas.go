package admin

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Quota is what one consumer has used of one quota in the current day or month.
type Quota struct {
	Quota    string `json:"quota"`
	Consumer string `json:"consumer"`
	// Where says which routes have the quota.
	Where string `json:"where"`
	Plan  string `json:"plan"`
	// Window is day or month.
	Window    string    `json:"window"`
	Used      int64     `json:"used"`
	Limit     int64     `json:"limit"`
	Remaining int64     `json:"remaining"`
	Resets    time.Time `json:"resets"`
}

// QuotaPage is what GET /api/v1/quotas answers.
type QuotaPage struct {
	Quotas []Quota `json:"quotas"`
	// Next is where the next page begins, as the query's after; empty: this is the
	// last one.
	Next string `json:"next,omitempty"`
}

// QuotaQuery says what is to be listed, by consumer: one of them, or up to Limit
// that come after After.
type QuotaQuery struct {
	Quota, Consumer string
	After           string
	Limit           int
}

// QuotaReset says what is to be taken off what a consumer has used.
type QuotaReset struct {
	// Quota may be empty: all of them.
	Quota, Consumer string
	// Window is day, month, or empty: both.
	Window string
	// Units is how many; 0: all.
	Units int64
}

// Quotas list what consumers have used, and take it off.
type Quotas interface {
	List(ctx context.Context, q QuotaQuery) (*QuotaPage, error)
	// Reset is ErrNoQuota if the live config has none of that name.
	Reset(ctx context.Context, r QuotaReset) (*QuotaPage, error)
}

// ErrNoQuota: the live config has no such quota.
var ErrNoQuota = errors.New("the running config has no such quota")

const (
	defaultQuotas = 100
	maxQuotas     = 1000
)

func (a *Server) quotaRoutes(mux *http.ServeMux) {
	for pattern, serve := range map[string]func(*http.Request) (*QuotaPage, error){
		"GET /api/v1/quotas":    a.quotas,
		"DELETE /api/v1/quotas": a.resetQuota,
	} {
		mux.Handle(pattern, a.guarded(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), reading)
			defer cancel()
			var page *QuotaPage
			err := ErrNoQuota
			if a.settings.Quotas != nil {
				page, err = serve(r.WithContext(ctx))
			}
			if errors.Is(err, ErrNoQuota) {
				err = refuse(http.StatusNotFound, "%v", err)
			}
			if err != nil {
				problem(w, err)
				return
			}
			reply(w, http.StatusOK, page)
		})))
	}
}

// parameters reads a query that has no others than those known, and each once:
// one that is misspelt must not mean all there is.
func parameters(r *http.Request, known ...string) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "the query cannot be read: %v", err)
	}
	for _, name := range slices.Sorted(maps.Keys(q)) {
		switch {
		case !slices.Contains(known, name):
			return nil, refuse(http.StatusBadRequest, "there is no parameter %.40q; there are %s", name, strings.Join(known, ", "))
		case len(q[name]) > 1:
			return nil, refuse(http.StatusBadRequest, "%s must be given once", name)
		case q[name][0] == "":
			return nil, refuse(http.StatusBadRequest, "%s must not be empty", name)
		}
	}
	return q, nil
}

func (a *Server) quotas(r *http.Request) (*QuotaPage, error) {
	q, err := parameters(r, "quota", "consumer", "after", "limit")
	if err != nil {
		return nil, err
	}
	limit, err := number(q.Get("limit"), defaultQuotas)
	if err != nil || limit == 0 || limit > maxQuotas {
		return nil, refuse(http.StatusBadRequest, "limit must be from 1 to %d consumers, got %.40q", maxQuotas, q.Get("limit"))
	}
	return a.settings.Quotas.List(r.Context(), QuotaQuery{q.Get("quota"), q.Get("consumer"), q.Get("after"), int(limit)})
}

func (a *Server) resetQuota(r *http.Request) (*QuotaPage, error) {
	q, err := parameters(r, "quota", "consumer", "window", "units")
	if err != nil {
		return nil, err
	}
	x := QuotaReset{Quota: q.Get("quota"), Consumer: q.Get("consumer"), Window: q.Get("window")}
	if x.Consumer == "" {
		return nil, refuse(http.StatusBadRequest, "consumer must say whose quota is to be reset")
	}
	if x.Window != "" && x.Window != "day" && x.Window != "month" {
		return nil, refuse(http.StatusBadRequest, "window must be day or month, got %.40q", x.Window)
	}
	if text := q.Get("units"); text != "" {
		if x.Units, err = strconv.ParseInt(text, 10, 64); err != nil || x.Units < 1 {
			return nil, refuse(http.StatusBadRequest, "units must be a whole number from 1, got %.40q", text)
		}
	}
	page, err := a.settings.Quotas.Reset(r.Context(), x)
	if a.settings.Log != nil {
		about := []any{"consumer", x.Consumer, "quota", x.Quota, "window", x.Window, "units", x.Units, "client", r.RemoteAddr}
		if err != nil {
			a.settings.Log.Warn("a quota was not reset", append(about, "error", err)...)
		} else {
			a.settings.Log.Info("a quota was reset", about...)
		}
	}
	return page, err
}
