package phrase_test

import (
	"bufio"
	"io/fs"
	"strings"
	"testing"

	coreruleset "github.com/corazawaf/coraza-coreruleset/v4"
	ahocorasick "github.com/petar-dambovaliev/aho-corasick"

	"github.com/gatehouse-proxy/gatehouse/waf/phrase"
)

func TestPhrasesAreFound(t *testing.T) {
	for _, c := range []struct {
		phrases, text string // phrases with | between them
		found         string // the first, the longest of several; "-": none
	}{
		{"he|she|his|hers", "ushers", "she"},
		{"he|her|hers", "xhersx", "hers"},
		{"abcd|bc", "abce", "bc"},    // the longer one fails after the shorter is in
		{"abcd|bcx|c", "abcy", "c"},  // and again
		{"ab|abcde", "abcdab", "ab"}, // back to what was complete
		{"aab", "aaaab", "aab"},      // what it shrinks to goes on
		{"a|ab|abc", "xab", "ab"},    //
		{"SELECT|union", "UNION sel", "UNION"},
		{"/etc/passwd", "/ETC/Passwd", "/ETC/Passwd"},
		{"[|{", "{[", "{"}, // "[" and "{" differ by the bit that cases differ by
		{"@", "`", "-"},    // so do these
		{"É", "é", "-"},    // ASCII only
		{"É", "xÉ", "É"},
		{"\x00\xff", "a\x00\xffb", "\x00\xff"},
		{"abc", "ab", "-"},
		{"abc", "", "-"},
		{"", "abc", "-"},
		{"|abc", "xabc", "abc"},
		{"b|A|a|b", "xAb", "A"}, // twice
	} {
		s := phrase.New(strings.Split(c.phrases, "|"))
		from, to, ok := s.Find(c.text)
		if found := c.found != "-"; ok != found || s.In(c.text) != found || found && c.text[from:to] != c.found {
			t.Errorf("%q in %q: %d to %d, %v, in %v, want %q", c.phrases, c.text, from, to, ok, s.In(c.text), c.found)
		}
	}
	if s := phrase.New(nil); s.In("") || s.In("a") {
		t.Error("no phrases are in a text")
	}
}

// ruleSet are the phrases of the Core Rule Set, file by file.
func ruleSet(t testing.TB) map[string][]string {
	t.Helper()
	m := map[string][]string{}
	err := fs.WalkDir(coreruleset.FS, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".data") {
			return err
		}
		f, err := coreruleset.FS.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if l := strings.TrimSpace(lines.Text()); l != "" && l[0] != '#' {
				m[d.Name()] = append(m[d.Name()], l)
			}
		}
		return nil
	})
	if err != nil || len(m) < 20 {
		t.Fatalf("%d files: %v", len(m), err)
	}
	return m
}

// library is what Coraza uses, as it uses it.
func library(phrases []string) ahocorasick.AhoCorasick {
	low := make([]string, len(phrases))
	for i, p := range phrases {
		b := []byte(p)
		for j, c := range b {
			if 'A' <= c && c <= 'Z' {
				b[j] |= 0x20
			}
		}
		low[i] = string(b)
	}
	b := ahocorasick.NewAhoCorasickBuilder(ahocorasick.Opts{AsciiCaseInsensitive: true, MatchKind: ahocorasick.LeftMostLongestMatch})
	return b.Build(low)
}

// agree holds a set against the library: what is found first, and whether.
func agree(t *testing.T, s *phrase.Set, ac ahocorasick.AhoCorasick, text string) {
	t.Helper()
	from, to, ok := s.Find(text)
	if in := s.In(text); in != ok {
		t.Errorf("%.200q: In %v, Find %v", text, in, ok)
	}
	switch m := ac.Iter(text).Next(); {
	case (m != nil) != ok:
		t.Errorf("%.200q: found %v, the library %v", text, ok, m != nil)
	case m != nil && (m.Start() != from || m.End() != to):
		t.Errorf("%.200q: %d to %d, the library says %d to %d", text, from, to, m.Start(), m.End())
	}
}

// Every phrase of the Core Rule Set, whole, cut, doubled and among others, is
// found as Coraza's own operator finds it.
func TestRuleSetAsTheLibraryFindsIt(t *testing.T) {
	for name, phrases := range ruleSet(t) {
		s, ac := phrase.New(phrases), library(phrases)
		for i, p := range phrases {
			q := phrases[(i*7+3)%len(phrases)]
			for _, text := range []string{
				p, strings.ToUpper(p), p[1:], p[:len(p)-1], "x" + p + "y", p[:len(p)/2] + q, p[:len(p)/2] + p, q[:len(q)-1] + p[1:],
			} {
				agree(t, s, ac, text)
			}
		}
		if t.Failed() {
			t.Fatal(name)
		}
	}
}

func FuzzAgainstTheLibrary(f *testing.F) {
	f.Add("he she his hers", "ushers")
	f.Add("a aa aaa aaaa", "AAbaaa")
	f.Add("abcd bc cde", "xabcdexbcde")
	f.Add("ÉÀ \xff\x00 k", "éàÉÀ\xff\x00K")
	f.Fuzz(func(t *testing.T, phrases, text string) {
		list := strings.Fields(phrases)
		if len(list) == 0 {
			return
		}
		agree(t, phrase.New(list), library(list), text)
	})
}

func TestFindingAllocatesNothing(t *testing.T) {
	s := phrase.New(ruleSet(t)["unix-shell.data"])
	text := strings.Repeat("just some text, ", 10) + "/bin/bash"
	if n := testing.AllocsPerRun(100, func() {
		if _, _, ok := s.Find(text); !ok || !s.In(text) {
			t.Fatal("not found")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkIn(b *testing.B) {
	texts := map[string]string{
		"short": "page=2", "agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
		"text": strings.Repeat("The quick brown fox jumps over the lazy dog. ", 40),
	}
	for _, file := range []string{"php-errors.data", "lfi-os-files.data", "scanners-user-agents.data", "unix-shell.data"} {
		phrases := ruleSet(b)[file]
		s, ac := phrase.New(phrases), library(phrases)
		for name, text := range texts {
			b.Run(file+"/"+name+"/set", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					s.In(text)
				}
			})
			b.Run(file+"/"+name+"/library", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					ac.Iter(text).Next()
				}
			})
		}
	}
}
