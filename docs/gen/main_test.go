package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/cmd"
	"github.com/gatehouse-proxy/gatehouse/config"
)

func TestReferenceIsFresh(t *testing.T) {
	got, err := os.ReadFile(filepath.Join("..", "..", target))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, config.Reference(cmd.Kinds())) {
		t.Fatalf("%s is stale; run make gen", target)
	}
}
