package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestGeneratedFileIsFresh(t *testing.T) {
	root := filepath.Join("..", "..")
	want, err := generate(root)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(root, target))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%s is stale; run make gen", target)
	}
}

func TestGenerateReadsWhatItCan(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"config/types.go": "package config\n\n// Thing is a thing.\ntype Thing struct {\n\t// Where it is.\n\t// Really.\n\tAt string `yaml:\"at\"`\n" +
			"\tOn bool `yaml:\"on\"` // Whether.\n\tx int\n}\n\n// Other is none.\ntype Other struct{ a int }\n",
		"plugins/p/config.go":  "package p\n\n// Config of p.\ntype Config struct {\n\t// A.\n\tA int `yaml:\"a\"`\n}\n",
		"plugins/p/broken.go":  "package p\n\ntype Half struct {",
		"plugins/p/my_test.go": "package p\n\n// T is not there.\ntype T struct{}\n",
	} {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := generate(root)
	if err != nil {
		t.Fatal(err)
	}
	_, got, _ := strings.Cut(string(out), "string{\n")
	const want = "\t\"config.Thing\":       \"A thing.\",\n" +
		"\t\"config.Thing.At\":    \"Where it is. Really.\",\n" +
		"\t\"config.Thing.On\":    \"Whether.\",\n" +
		"\t\"plugins/p.Config\":   \"Config of p.\",\n" +
		"\t\"plugins/p.Config.A\": \"A.\",\n}\n"
	if got != want {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
}
