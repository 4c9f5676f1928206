package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

const (
	// maxDisk bounds the file that is read: the largest registry of ordinary
	// entries, several times over.
	maxDisk = 256 << 20
	// saveEvery is how often it is written at most.
	saveEvery = 5 * time.Second
)

// disk is DATA_DIR/services.json, what the node starts from while the store is
// away. It belongs to the goroutine that follows the store. nil keeps nothing.
type disk struct {
	path   string
	news   bool
	last   time.Time
	failed bool
}

// file is its form.
type file struct {
	Saved    time.Time         `json:"saved"`
	Position store.Position    `json:"position"`
	Leases   []json.RawMessage `json:"leases"`
	Static   []json.RawMessage `json:"static"`
}

func (d *disk) dirty() {
	if d != nil {
		d.news = true
	}
}

// load reads the copy on disk, if there is one.
func (r *Registry) load() {
	if r.disk == nil {
		return
	}
	f, err := r.disk.read()
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		r.s.Log.Warn("the services known before the restart cannot be read; they come from the store", "error", err)
		return
	}
	e := r.table.edit()
	for static, list := range map[bool][]json.RawMessage{false: f.Leases, true: f.Static} {
		for _, raw := range list {
			if i, err := decode(raw); err == nil {
				e.put(static, i.place(), raw)
			}
		}
	}
	e.done()
	e = r.table.edit()
	r.table.events = nil // nothing has changed for those who read it
	e.afresh(false)
	e.afresh(true)
	e.done()
	r.position = f.Position
	r.status.FromDisk, r.status.Saved = true, f.Saved
}

func (d *disk) read() (*file, error) {
	st, err := os.Stat(d.path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxDisk {
		return nil, fmt.Errorf("%s is no list of services", d.path)
	}
	text, err := os.ReadFile(d.path)
	if err != nil {
		return nil, err
	}
	f := new(file)
	if err := json.Unmarshal(text, f); err != nil {
		return nil, fmt.Errorf("%s: %w", d.path, err)
	}
	return f, nil
}

// save writes the copy if it has changed and was not written lately.
func (r *Registry) save(now bool) {
	d := r.disk
	if d == nil || !d.news || !now && time.Since(d.last) < saveEvery {
		return
	}
	f := file{Saved: time.Now().UTC(), Position: r.position}
	for _, e := range r.table.all(false) {
		f.Leases = append(f.Leases, e.raw)
	}
	for _, e := range r.table.all(true) {
		f.Static = append(f.Static, e.raw)
	}
	err := d.write(&f)
	if d.last = time.Now(); err == nil {
		d.news = false
		r.mu.Lock()
		r.status.Saved = f.Saved
		r.mu.Unlock()
	}
	if err != nil && !d.failed {
		r.s.Log.Error("the known services could not be kept on disk; after a restart without the store there would be none", "error", err)
	}
	d.failed = err != nil
}

// write writes the file anew, whole or not at all.
func (d *disk) write(f *file) error {
	text, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if len(text) > maxDisk {
		return fmt.Errorf("%s would have %d bytes, more than it may", d.path, len(text))
	}
	if err := os.MkdirAll(filepath.Dir(d.path), 0o700); err != nil {
		return err
	}
	t, err := os.CreateTemp(filepath.Dir(d.path), ".services-*") // with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(t.Name()) //nolint:errcheck // it is there no more, if all went well
	_, err = t.Write(text)
	if err = errors.Join(err, t.Close()); err != nil {
		return err
	}
	return os.Rename(t.Name(), d.path)
}
