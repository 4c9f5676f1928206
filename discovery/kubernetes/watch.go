package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/gatehouse-proxy/gatehouse/discovery"
	"github.com/gatehouse-proxy/gatehouse/discovery/remote"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

// errGone says that what came after our version cannot be told: all must be
// listed anew.
var errGone = errors.New("the version we know is none to go on from")

// watcher keeps the slices of one service.
type watcher struct {
	client  *remote.Client
	s       *Settings
	path    string
	report  func(upstream.Report)
	backoff *discovery.Backoff

	slices  map[string]*slice
	stored  int    // endpoints in them
	version string // that slices are of
	list    []upstream.EndpointSettings
	note    string
}

// follow lists and then watches until that is no longer possible.
func (w *watcher) follow(ctx context.Context) error {
	if err := w.relist(ctx); err != nil {
		return err
	}
	w.tell()
	for {
		began := time.Now()
		opened, err := w.watch(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch {
		case errors.Is(err, errGone), err != nil && !opened:
			return err
		case err != nil: // it broke: what was missed is told by the next one
			if !discovery.Sleep(ctx, w.backoff.Next()) {
				return ctx.Err()
			}
		default: // a server that ends every watch at once must not keep a node busy
			if !discovery.Sleep(ctx, pause-time.Since(began)) {
				return ctx.Err()
			}
		}
	}
}

// tell passes on what the slices say now.
func (w *watcher) tell() {
	w.list, w.note = endpoints(w.slices, w.s)
	w.confirm()
}

func (w *watcher) confirm() { w.report(upstream.Report{Endpoints: w.list, Note: w.note}) }

func (w *watcher) query() url.Values {
	return url.Values{"labelSelector": {"kubernetes.io/service-name=" + w.s.Service}}
}

// relist reads all slices, page by page.
func (w *watcher) relist(ctx context.Context) error {
	w.slices, w.stored, w.version = map[string]*slice{}, 0, ""
	q := w.query()
	q.Set("limit", strconv.Itoa(pageSize))
	for range maxPages {
		p, err := w.page(ctx, q)
		if err != nil {
			if q.Has("continue") { // the list was too old for another page
				err = gone(err)
			}
			return err
		}
		for i := range p.Items {
			if err := w.put(&p.Items[i]); err != nil {
				return err
			}
		}
		if p.Metadata.Continue == "" {
			w.version = p.Metadata.ResourceVersion
			return nil
		}
		q.Set("continue", p.Metadata.Continue)
	}
	return fmt.Errorf("the list of EndpointSlices does not end after %d pages", maxPages)
}

func (w *watcher) page(ctx context.Context, q url.Values) (*sliceList, error) {
	a, err := w.client.Get(ctx, remote.Request{Path: w.path, Query: q, Timeout: listTimeout, Limit: maxPage})
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	return parseList(a.Body)
}

func (w *watcher) put(s *slice) error {
	w.remove(s.Metadata.Name)
	if w.stored += 1 + len(s.Endpoints); w.stored > maxStored {
		return fmt.Errorf("the service has more than the %d endpoints that can be used", upstream.MaxEndpoints)
	}
	w.slices[s.Metadata.Name] = s
	return nil
}

func (w *watcher) remove(name string) {
	if old := w.slices[name]; old != nil {
		w.stored -= 1 + len(old.Endpoints)
		delete(w.slices, name)
	}
}

// watch takes changes until the server ends the watch. opened says that it had
// begun.
func (w *watcher) watch(ctx context.Context) (opened bool, err error) {
	q := w.query()
	q.Set("watch", "1")
	q.Set("allowWatchBookmarks", "true")
	q.Set("resourceVersion", w.version)
	q.Set("timeoutSeconds", strconv.Itoa(int(watchFor.Seconds())))
	a, err := w.client.Get(ctx, remote.Request{Path: w.path, Query: q, Timeout: watchFor + listTimeout, Limit: maxEvent})
	if err != nil {
		return false, gone(err)
	}
	if err := w.behind(ctx); err != nil {
		a.Body.Close()
		return false, err
	}
	w.confirm() // what follows is all that has changed
	events := make(chan event)
	failed := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		defer close(events)
		failed <- read(a, events, stop)
	}()
	defer func() {
		close(stop)
		a.Body.Close()
		for range events { //nolint:revive // until the reader has ended
		}
	}()
	return true, w.take(events, failed)
}

// behind is errGone where the cluster's version is older than the one we know, as
// it is after etcd was restored: the watch would be told nothing until that one is
// reached again.
func (w *watcher) behind(ctx context.Context) error {
	q := w.query()
	q.Set("limit", "1")
	p, err := w.page(ctx, q)
	if err != nil {
		return err
	}
	known, err := strconv.ParseUint(w.version, 10, 64)
	if err != nil {
		return nil //nolint:nilerr // it is not ours to understand
	}
	if now, err := strconv.ParseUint(p.Metadata.ResourceVersion, 10, 64); err == nil && now < known {
		return errGone
	}
	return nil
}

// take applies events and passes on what became of them.
func (w *watcher) take(events <-chan event, failed <-chan error) error {
	var later <-chan time.Time // set while there is something to tell
	for {
		select {
		case e, ok := <-events:
			if !ok {
				if later != nil {
					w.tell()
				}
				return <-failed
			}
			changed, err := w.apply(&e)
			if err != nil {
				return err
			}
			w.backoff.Reset()
			switch {
			case changed && later == nil:
				later = time.After(settle)
			case !changed && later == nil:
				w.confirm()
			}
		case <-later:
			later = nil
			w.tell()
		}
	}
}

// apply takes one event. changed: the slices may be others.
func (w *watcher) apply(e *event) (changed bool, err error) {
	switch e.Type {
	case "ADDED", "MODIFIED":
		changed, err = true, w.put(&e.Object.slice)
	case "DELETED":
		changed = true
		w.remove(e.Object.Metadata.Name)
	case "BOOKMARK":
	case "ERROR":
		if e.Object.Code == http.StatusGone {
			return false, errGone
		}
		return false, fmt.Errorf("the watch failed with %d: %.200s", e.Object.Code, e.Object.Message)
	default: // added to the API after this was written
	}
	if v := e.Object.Metadata.ResourceVersion; v != "" {
		w.version = v
	}
	return changed, err
}

// read decodes events until the stream ends. Between two events that is no
// error.
func read(a *remote.Answer, events chan<- event, stop <-chan struct{}) error {
	d := json.NewDecoder(a.Body)
	for {
		var e event
		if err := d.Decode(&e); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("the watch broke: %w", err)
		}
		a.Extend()
		select {
		case events <- e:
		case <-stop:
			return nil
		}
	}
}

// gone finds errGone in an answer.
func gone(err error) error {
	var e *remote.StatusError
	if errors.As(err, &e) && e.Status == http.StatusGone {
		return errGone
	}
	return err
}
