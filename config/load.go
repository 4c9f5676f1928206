package config

//go:generate go run ./gen ..

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/config/strict"
)

// Kinds gives a new config struct for each plugin by the plugin's name.
type Kinds map[string]func() any

// Options say what a config may reach outside its own text. The zero value is
// the process's environment and the file system.
type Options struct {
	// Env looks up ${NAME}. Default: os.LookupEnv.
	Env func(name string) (string, bool)
	// File reads what file:PATH names; relative paths have been joined to Dir.
	// Default: os.ReadFile, up to 1 MiB.
	File func(path string) ([]byte, error)
	// Dir is what relative paths are relative to. Default: where the first
	// file is.
	Dir string
	// MaxSize is how many bytes all files together may have. Default: 64 MiB.
	MaxSize int64
	// Node is the node that reads a config for several nodes, in which node must
	// not stand; it becomes the Config's. nil: an ordinary config.
	Node *Node
}

// ignoredKeys is how top-level keys begin that only hold anchors.
const ignoredKeys = "x-"

const (
	defaultMaxSize = 64 << 20
	maxSecretSize  = 1 << 20
)

func (o Options) withDefaults() Options {
	if o.Env == nil {
		o.Env = os.LookupEnv
	}
	if o.File == nil {
		o.File = func(path string) ([]byte, error) { return readFile(path, maxSecretSize) }
	}
	if o.MaxSize == 0 {
		o.MaxSize = defaultMaxSize
	}
	return o
}

// Load reads, merges, decodes and validates files, and the *.yaml and *.yml
// files of folders in the order of their names. An error is of type Problems;
// then the Config is nil. The Source is never nil. Nobody may change what is
// returned.
func Load(paths []string, kinds Kinds, o Options) (*Config, *Source, error) {
	o = o.withDefaults()
	var p problem.List
	s := &Source{Dir: o.Dir}
	s.readAll(paths, o, &p)
	return s.build(kinds, o, &p)
}

// Read is the reading part of Load: the files, and nothing looked at in them.
func Read(paths []string, o Options) ([]File, error) {
	o = o.withDefaults()
	var p problem.List
	s := &Source{Dir: o.Dir}
	s.readAll(paths, o, &p)
	if all := p.All(); len(all) > 0 {
		return nil, Problems(all)
	}
	return s.Files, nil
}

func (s *Source) readAll(paths []string, o Options, p *problem.List) {
	for i, path := range paths {
		names, isDir, err := expandPath(path)
		if err != nil {
			p.AddAt(problem.Position{File: path}, "", "cannot be read: %s", reason(err))
			continue
		}
		if i == 0 && s.Dir == "" {
			s.Dir = path
			if !isDir {
				s.Dir = filepath.Dir(path)
			}
		}
		if len(names) == 0 {
			p.AddAt(problem.Position{File: path}, "", "has no *.yaml or *.yml file")
		}
		for _, name := range names {
			s.read(name, o.MaxSize, p)
		}
	}
	if len(paths) == 0 {
		p.AddAt(problem.Position{File: "config"}, "", "no file given")
	}
}

// ParseFiles is Load for files in memory.
func ParseFiles(files []File, kinds Kinds, o Options) (*Config, *Source, error) {
	o = o.withDefaults()
	var p problem.List
	s := &Source{Dir: o.Dir}
	left := o.MaxSize
	for _, f := range files {
		if left -= int64(len(f.Data)); left < 0 {
			p.AddAt(problem.Position{File: f.Name}, "", "%s", tooLarge(o.MaxSize))
			break
		}
		s.Files = append(s.Files, f)
	}
	return s.build(kinds, o, &p)
}

// Parse is Load for one text in memory. name is what messages call it.
func Parse(data []byte, name string, kinds Kinds, o Options) (*Config, *Source, error) {
	return ParseFiles([]File{{Name: name, Data: data}}, kinds, o)
}

// expandPath lists the files a path stands for.
func expandPath(path string) (names []string, isDir bool, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, false, err
	}
	if !st.IsDir() {
		return []string{path}, false, nil
	}
	list, err := os.ReadDir(path)
	if err != nil {
		return nil, true, err
	}
	for _, e := range list { // sorted by name
		ext := filepath.Ext(e.Name())
		if strings.HasPrefix(e.Name(), ".") || (ext != ".yaml" && ext != ".yml") {
			continue
		}
		name := filepath.Join(path, e.Name())
		if st, err := os.Stat(name); err == nil && st.IsDir() {
			continue
		}
		names = append(names, name)
	}
	return names, true, nil
}

func (s *Source) read(name string, maxSize int64, p *problem.List) {
	left := maxSize
	for _, f := range s.Files {
		left -= int64(len(f.Data))
	}
	data, err := readFile(name, left)
	switch {
	case errors.Is(err, errTooLarge):
		p.AddAt(problem.Position{File: name}, "", "%s", tooLarge(maxSize))
	case err != nil:
		p.AddAt(problem.Position{File: name}, "", "cannot be read: %s", reason(err))
	default:
		s.Files = append(s.Files, File{Name: name, Data: data})
	}
}

var errTooLarge = errors.New("is too large")

// readFile reads a regular file of at most limit bytes.
func readFile(name string, limit int64) ([]byte, error) {
	st, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("is not a regular file") // a FIFO would hang, a device never end
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = errTooLarge
	}
	return data, err
}

func tooLarge(limit int64) string {
	return fmt.Sprintf("is larger than the limit of %d bytes", limit)
}

// reason is an error without the path, which stands before it anyway.
func reason(err error) string {
	if pe := new(fs.PathError); errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

// build decodes and validates what was read.
func (s *Source) build(kinds Kinds, o Options, p *problem.List) (*Config, *Source, error) {
	t := parseAll(s.Files, p)
	where := strict.NewPositions(t.root, t.first, t.files)
	c := new(Config)
	o, sum := o.recorded()
	strict.Decode(t.root, c, p,
		strict.Files(t.first, t.files),
		strict.IgnoreKeys(ignoredKeys),
		strict.References(o.Env, s.secretReader(o)),
		strict.Hook(kinds.decode),
	)
	copy(s.resolved[:], sum.Sum(nil))
	c.protocolDefaults(func(path string) bool { return where.Node(path) != nil })
	if o.Node != nil {
		c.Node = *o.Node
	}
	only(t.root, o.Node != nil, o.Node == nil && c.Node.Config == "store", p)
	found := slices.Clone(p.All())
	if t.whole && len(s.Files) > 0 {
		var meant problem.List
		Validate(c, &meant)
		found = append(found, withoutEchoes(meant.All(), found)...)
	}
	if len(found) > 0 {
		return nil, s, locate(found, where)
	}
	return c, s, nil
}

// recorded returns options that add up what the references gave.
func (o Options) recorded() (Options, hash.Hash) {
	sum := sha256.New()
	env, file := o.Env, o.File
	note := func(name, value string) {
		sum.Write([]byte(strconv.Quote(name) + strconv.Quote(value))) //nolint:errcheck // a hash never fails
	}
	o.Env = func(name string) (string, bool) {
		v, ok := env(name)
		note(name, v+strconv.FormatBool(ok))
		return v, ok
	}
	o.File = func(path string) ([]byte, error) {
		data, err := file(path)
		note(path, string(data))
		return data, err
	}
	return o, sum
}

// secretReader reads relative to the config, and remembers what it read.
func (s *Source) secretReader(o Options) func(string) ([]byte, error) {
	return func(path string) ([]byte, error) {
		if !filepath.IsAbs(path) {
			path = filepath.Join(s.Dir, path)
		}
		data, err := o.File(path)
		if err != nil {
			return nil, errors.New(reason(err))
		}
		if !slices.Contains(s.References, path) {
			s.References = append(s.References, path)
		}
		return data, nil
	}
}

// decode reads a plugin: a map whose only key is the plugin's name.
func (k Kinds) decode(d *strict.Decoder, n *yaml.Node, out *Plugin) {
	if n.Kind != yaml.MappingNode || len(n.Content) != 2 || n.Content[0].Kind != yaml.ScalarNode {
		got := strict.Describe(n)
		if n.Kind == yaml.MappingNode {
			got = fmt.Sprintf("a map of %d keys", len(n.Content)/2)
		}
		d.Add(n, "", "must be a map with the plugin's name as its only key, such as request_id: {}, got %s", got)
		return
	}
	name, value := n.Content[0], n.Content[1]
	kind := k[name.Value]
	if kind == nil {
		names := make([]string, 0, len(k))
		for known := range k {
			names = append(names, known)
		}
		d.Add(name, name.Value, "unknown plugin %q%s", name.Value, d.Suggest(name.Value, names))
		return
	}
	out.Name, out.Config = name.Value, kind()
	d.Key(out.Name, value, out.Config)
}

// withoutEchoes leaves out problems of meaning at, above or below a place that
// could not be decoded: a misspelt "backends" must not also be a route without
// backends.
func withoutEchoes(meant, decoded []problem.Problem) []problem.Problem {
	if len(decoded) == 0 || len(meant) == 0 {
		return meant
	}
	exact, above := make(map[string]bool), make(map[string]bool)
	for _, d := range decoded {
		exact[d.Path] = true
		for path := d.Path; path != ""; path = parent(path) {
			above[path] = true
		}
	}
	var out []problem.Problem
next:
	for _, m := range meant {
		if above[m.Path] {
			continue
		}
		for path := m.Path; path != ""; path = parent(path) {
			if exact[path] {
				continue next
			}
		}
		out = append(out, m)
	}
	return out
}

func parent(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}
