package config

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"sync"

	"go.yaml.in/yaml/v4"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/config/strict"
)

// File is one file as it was read.
type File struct {
	Name string
	Data []byte
}

// Source is the text a Config was read from. It never changes, and is safe
// for concurrent use.
type Source struct {
	// Files in the order they were merged.
	Files []File
	// Dir is what relative paths in the config are relative to.
	Dir string
	// References are the files that secrets were read from, as absolute paths
	// or relative to the working directory, in order.
	References []string

	resolved  [sha256.Size]byte // of everything that references gave
	once      sync.Once
	positions *strict.Positions
}

// Digest is the SHA-256 of the files' contents in lower-case hex. Values of
// references are not part of it.
func (s *Source) Digest() string {
	h := sha256.New()
	var size [8]byte
	for _, f := range s.Files {
		binary.BigEndian.PutUint64(size[:], uint64(len(f.Data)))
		h.Write(size[:])
		h.Write(f.Data)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Same is true if other has the same text, and its references gave the same
// values: reading it again would change nothing.
func (s *Source) Same(other *Source) bool {
	return other != nil && s.resolved == other.resolved && s.Digest() == other.Digest()
}

// Positions finds places by path. The text is parsed again on first use: a
// parsed tree is many times as large as the text, and rarely needed later.
func (s *Source) Positions() *strict.Positions {
	s.once.Do(func() {
		if s.positions == nil {
			var p problem.List
			t := parseAll(s.Files, &p)
			s.positions = strict.NewPositions(t.root, t.first, t.files)
		}
	})
	return s.positions
}

// Locate gives every problem that has only a path its place, drops repeated
// ones, and sorts them. It is for those who find problems after Load.
func (s *Source) Locate(all []problem.Problem) Problems {
	return locate(all, s.Positions())
}

func locate(all []problem.Problem, where *strict.Positions) Problems {
	out := slices.Clone(all)
	for i := range out {
		if !out[i].At.Known() && out[i].At.File == "" {
			out[i].At = where.Find(out[i].Path)
		}
	}
	problem.Sort(out)
	return slices.Compact(out)
}

// Problems is everything that is wrong with a config, in the order of the
// text. As an error it is one line for each: "file:line:column: path: what is
// wrong; known: …".
type Problems []problem.Problem

// Error implements error.
func (p Problems) Error() string {
	var b []byte
	for i, one := range p {
		if i > 0 {
			b = append(b, '\n')
		}
		b = append(b, one.String()...)
	}
	return string(b)
}

// Place is err as what it means for the config: its text is that of problems,
// with their places, and it is still the error that it was.
func (s *Source) Place(err error, all ...problem.Problem) error {
	return &placedError{s.Locate(all), err}
}

type placedError struct {
	Problems
	cause error
}

func (e *placedError) Unwrap() []error { return []error{e.Problems, e.cause} }

// tree is what all files together say.
type tree struct {
	root  *yaml.Node
	first string                // file of nodes that files does not name
	files map[*yaml.Node]string // nil for a single file
	whole bool                  // every file could be parsed
}

// parseAll parses and merges files. root is a map in any case.
func parseAll(files []File, p *problem.List) *tree {
	t := &tree{whole: true}
	m := merger{p: p}
	if len(files) > 1 {
		m.files = make(map[*yaml.Node]string)
	}
	for _, f := range files {
		doc := strict.Parse(f.Data, f.Name, p)
		if doc == nil {
			t.whole = false
			continue
		}
		n := doc.Content[0]
		if t.root == nil {
			t.root, t.first = n, f.Name
			if m.files != nil {
				m.own(n, f.Name, mergeDepth)
			}
			continue
		}
		m.own(n, f.Name, mergeDepth)
		m.merge(t.root, n, "", f.Name)
	}
	if t.root == nil {
		t.root = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: 1, Column: 1}
		if len(files) > 0 {
			t.first = files[0].Name
		}
	}
	t.files = m.files
	return t
}
