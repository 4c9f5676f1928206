package discovery

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/filewatch"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

const (
	// patience is for how long a source may keep silent before its list of an
	// earlier run is used.
	patience = 3 * time.Second
	// writeEvery is the shortest time between two copies, confirmEvery that
	// between two notes that a copy is still right.
	writeEvery   = 10 * time.Second
	confirmEvery = time.Minute
	// maxKept bounds a copy: MaxEndpoints with 500 bytes each.
	maxKept = 16 << 20
)

var errSilent = errors.New("no answer yet")

// Kept is a source whose last list outlives the process: it is used when the
// source is away at a start.
type Kept struct {
	inner upstream.Source
	path  string
	log   *slog.Logger

	mu      sync.Mutex // guards what follows; held while the upstream is told
	heard   bool       // the source has said something, or been waited for
	list    []upstream.EndpointSettings
	dirty   bool      // list is not on disk
	touched time.Time // when the copy was last right
	wake    chan struct{}
}

var _ upstream.Source = (*Kept)(nil)

// Keep has the lists of s kept below dir, which is made when needed. name is
// the upstream's.
func Keep(s upstream.Source, dir, name string, log *slog.Logger) *Kept {
	return &Kept{inner: s, path: filepath.Join(dir, fileName(s, name)), log: log, wake: make(chan struct{}, 1)}
}

// fileName differs for sources that find different things.
func fileName(s upstream.Source, name string) string {
	kind, target := s.Name()
	sum := sha256.Sum256([]byte(kind + "\x00" + target))
	return name + "-" + hex.EncodeToString(sum[:4]) + ".json"
}

// Path is where the copy is.
func (k *Kept) Path() string { return k.path }

// Name implements upstream.Source.
func (k *Kept) Name() (kind, target string) { return k.inner.Name() }

// Run implements upstream.Source.
func (k *Kept) Run(ctx context.Context, report func(upstream.Report)) {
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { k.wait(ctx, report) })
	wg.Go(func() { k.write(ctx) })
	k.inner.Run(ctx, func(r upstream.Report) { k.pass(r, report) })
	stop()
	wg.Wait()
}

// wait gives the source its time before the copy is used.
func (k *Kept) wait(ctx context.Context, report func(upstream.Report)) {
	if !Sleep(ctx, patience) {
		return
	}
	k.mu.Lock()
	heard := k.heard
	k.mu.Unlock()
	if !heard {
		k.pass(upstream.Report{Err: errSilent}, report)
	}
}

// pass hands a report on, the first failure with the copy.
func (k *Kept) pass(r upstream.Report, report func(upstream.Report)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r.Err != nil && !k.heard && len(r.Endpoints) == 0 {
		r.Endpoints, r.AsOf = k.read()
	}
	k.heard = true
	report(r)
	if r.Err == nil && len(r.Endpoints) > 0 && len(r.Endpoints) <= upstream.MaxEndpoints {
		k.note(r.Endpoints)
	}
}

// note remembers a good list for write. k.mu is held.
func (k *Kept) note(list []upstream.EndpointSettings) {
	same := slices.Equal(list, k.list)
	if same && time.Since(k.touched) < confirmEvery {
		return
	}
	k.dirty = k.dirty || !same
	k.list = list
	select {
	case k.wake <- struct{}{}:
	default: // it is awake
	}
}

// write copies what is new, not too often, and once more at the end.
func (k *Kept) write(ctx context.Context) {
	for {
		select {
		case <-k.wake:
			k.save()
		case <-ctx.Done():
			select {
			case <-k.wake:
				k.save()
			default:
			}
			return
		}
		Sleep(ctx, writeEvery)
	}
}

func (k *Kept) save() {
	k.mu.Lock()
	list, dirty := k.list, k.dirty
	k.dirty, k.touched = false, time.Now()
	k.mu.Unlock()
	var err error
	if dirty {
		err = store(k.path, k.inner, list)
	} else if err = os.Chtimes(k.path, time.Time{}, time.Now()); errors.Is(err, fs.ErrNotExist) {
		err = store(k.path, k.inner, list)
	}
	if err != nil {
		k.log.Warn("the last endpoints of an upstream cannot be kept on disk", "error", err)
	}
}

// copied is the form of a copy. Its time is the file's.
type copied struct {
	Kind      string           `json:"kind"`
	Target    string           `json:"target"`
	Endpoints []copiedEndpoint `json:"endpoints"`
}

type copiedEndpoint struct {
	Address  string `json:"address"`
	Weight   int    `json:"weight,omitempty"`
	Zone     string `json:"zone,omitempty"`
	Priority int    `json:"priority,omitempty"`
}

// store replaces the copy in one step.
func store(path string, s upstream.Source, list []upstream.EndpointSettings) error {
	var c copied
	c.Kind, c.Target = s.Name()
	for _, e := range list {
		c.Endpoints = append(c.Endpoints, copiedEndpoint(e))
	}
	content, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".endpoints-*") // with mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // what went wrong says more
	}
	return err
}

// read is the copy and its time; nothing if there is none that can be used.
func (k *Kept) read() ([]upstream.EndpointSettings, time.Time) {
	info, err := os.Stat(k.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}
	}
	var content []byte
	if err == nil {
		content, err = filewatch.Read(k.path, maxKept)
	}
	var list []upstream.EndpointSettings
	if err == nil {
		list, err = k.parse(content)
	}
	if err != nil {
		k.log.Warn("the endpoints kept on disk cannot be used", "file", k.path, "error", err)
		return nil, time.Time{}
	}
	return list, info.ModTime()
}

func (k *Kept) parse(content []byte) ([]upstream.EndpointSettings, error) {
	var c copied
	if err := json.Unmarshal(content, &c); err != nil {
		return nil, err
	}
	if kind, target := k.inner.Name(); c.Kind != kind || c.Target != target {
		return nil, fmt.Errorf("they are those of %s %.100q", c.Kind, c.Target)
	}
	list := make([]upstream.EndpointSettings, 0, len(c.Endpoints))
	for _, e := range c.Endpoints {
		list = append(list, upstream.EndpointSettings(e))
	}
	return list, nil
}

// Prune removes the copies below dir that are none of paths.
func Prune(dir string, paths []string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !e.IsDir() && strings.HasSuffix(path, ".json") && !slices.Contains(paths, path) {
			errs = append(errs, os.Remove(path))
		}
	}
	return errors.Join(append(errs, err)...)
}
