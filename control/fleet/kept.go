package fleet

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/gatehouse-proxy/gatehouse/control/revision"
	"github.com/gatehouse-proxy/gatehouse/control/squeeze"
	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/gateway/filewatch"
)

const (
	// history is how many revisions a control node can give back to a store that
	// was emptied: the live one, and what a rollback may want.
	history = 10
	// historySize bounds them in bytes; the live one and the newest are kept in
	// any case.
	historySize = 32 << 20
	// maxKeptFile bounds what is read: both of those at their largest, in base64.
	maxKeptFile = 512 << 20
)

// kept is DATA_DIR/revision.json: what the node starts from when the store is
// away, and restores when that has lost it. Its methods are for concurrent use.
type kept struct {
	path string
	most int

	mu      sync.Mutex
	goodOne uint64                     // the last that went live here
	list    []*store.Revision          // verified, in order
	packed  map[*store.Revision][]byte // what was compressed of list
}

// file is the form on disk.
type file struct {
	Good      uint64     `json:"good"`
	Revisions []fileItem `json:"revisions"`
}

type fileItem struct {
	store.Revision
	Packed []byte `json:"packed"` // Data, compressed
}

func newKept(dir string, control bool) *kept {
	k := &kept{path: filepath.Join(dir, "revision.json"), most: 1}
	if control {
		k.most = history
	}
	return k
}

// read reads the file if there is one. Revisions that cannot be trusted are
// left out and returned as errors. A file that cannot be read at all is an error
// only if it may be mended: one that is garbage is left out as well.
func (k *kept) read(ring revision.Keyring) (bad []error, err error) {
	st, err := os.Stat(k.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && (!st.Mode().IsRegular() || st.Size() > maxKeptFile) {
		return []error{fmt.Errorf("%s is no file of revisions", k.path)}, nil
	}
	text, err := filewatch.Read(k.path, maxKeptFile)
	if err != nil {
		return nil, err
	}
	var f file
	if err := json.Unmarshal(text, &f); err != nil {
		return []error{fmt.Errorf("%s: %w", k.path, err)}, nil
	}
	for _, item := range f.Revisions {
		r := item.Revision
		var err error
		if r.Data, err = squeeze.Decompress(item.Packed, revision.MaxSize); err != nil {
			bad = append(bad, fmt.Errorf("%s: %w", k.path, err))
			continue
		}
		if err := ring.Verify(&r); err != nil {
			bad = append(bad, fmt.Errorf("%s: %w", k.path, err))
			continue
		}
		k.insert(&r)
		if r.Number == f.Good {
			k.goodOne = f.Good
		}
	}
	return bad, nil
}

// insert puts r in its place; the same number is replaced.
func (k *kept) insert(r *store.Revision) {
	i, there := slices.BinarySearchFunc(k.list, r.Number, func(a *store.Revision, n uint64) int {
		switch {
		case a.Number < n:
			return -1
		case a.Number > n:
			return 1
		}
		return 0
	})
	if there {
		k.list[i] = r
		return
	}
	k.list = slices.Insert(k.list, i, r)
}

// saw remembers a verified revision, which need not be good on this node.
func (k *kept) saw(r *store.Revision) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.insert(r)
	return k.write()
}

// live remembers that r is live on this node.
func (k *kept) live(r *store.Revision) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.insert(r)
	k.goodOne = r.Number
	return k.write()
}

// write writes the file anew, whole or not at all.
func (k *kept) write() error {
	k.prune()
	t, err := os.CreateTemp(filepath.Dir(k.path), ".revision-*") // with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(t.Name()) //nolint:errcheck // it is there no more, if all went well
	w := bufio.NewWriterSize(t, 64<<10)
	if err = errors.Join(k.encode(w), w.Flush(), t.Sync(), t.Close()); err != nil {
		return err
	}
	return os.Rename(t.Name(), k.path)
}

// encode writes the text of a file piece by piece. It may be megabytes, and is
// written twice for each revision; encoding/json would hold several copies of it.
func (k *kept) encode(w *bufio.Writer) error {
	// w remembers its first error until Flush.
	packed := make(map[*store.Revision][]byte, len(k.list))
	fmt.Fprintf(w, `{"good":%d,"revisions":[`, k.goodOne)
	for i, r := range k.list {
		head, err := json.Marshal(r) // an object without Data
		if err != nil {
			return err
		}
		if i > 0 {
			w.WriteByte(',')
		}
		w.Write(head[:len(head)-1])
		w.WriteString(`,"packed":"`)
		b := base64.NewEncoder(base64.StdEncoding, w)
		if packed[r] = k.packed[r]; packed[r] == nil {
			packed[r] = squeeze.Compress(r.Data)
		}
		if _, err := b.Write(packed[r]); err != nil {
			return err
		}
		if err := b.Close(); err != nil {
			return err
		}
		w.WriteString(`"}`)
	}
	w.WriteString("]}")
	k.packed = packed
	return nil
}

// prune drops the oldest that need not be kept.
func (k *kept) prune() {
	size := 0
	for _, r := range k.list {
		size += len(r.Data)
	}
	newest := k.list[len(k.list)-1].Number
	for i := 0; i < len(k.list) && (len(k.list) > k.most || size > historySize); {
		r := k.list[i]
		if r.Number == newest || r.Number == k.goodOne {
			i++
			continue
		}
		size -= len(r.Data)
		k.list = slices.Delete(k.list, i, i+1)
	}
}

// newest is the highest number that was ever verified here; 0: none.
func (k *kept) newest() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.list) == 0 {
		return 0
	}
	return k.list[len(k.list)-1].Number
}

// good is the revision that last went live here; nil: none.
func (k *kept) good() *store.Revision { return k.number(k.last()) }

func (k *kept) last() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.goodOne
}

// number returns a revision; nil: it is not kept.
func (k *kept) number(n uint64) *store.Revision {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range k.list {
		if r.Number == n {
			return r
		}
	}
	return nil
}

// after are the newest revisions without a gap that are newer than n.
func (k *kept) after(n uint64) []*store.Revision {
	k.mu.Lock()
	defer k.mu.Unlock()
	first := len(k.list)
	for i := len(k.list) - 1; i >= 0 && k.list[i].Number > n; i-- {
		if first < len(k.list) && k.list[i].Number+1 != k.list[first].Number {
			break
		}
		first = i
	}
	return slices.Clone(k.list[first:])
}
