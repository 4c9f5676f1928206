package cmd

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

func TestTheFirstProcessOfAContainerStays(t *testing.T) {
	if err := mayLeave(1); !errors.Is(err, errFirst) {
		t.Errorf("PID 1: %v", err)
	}
	if err := mayLeave(2); err != nil {
		t.Errorf("PID 2: %v", err)
	}
}

func TestPIDFile(t *testing.T) {
	f := pidFile(filepath.Join(t.TempDir(), "pid"))
	if err := f.check(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(string(f), []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.remove(); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(string(f)); err != nil || string(b) != "1" {
		t.Errorf("another process's was removed: %q, %v", b, err)
	}
	if err := errors.Join(f.check(), f.write()); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(string(f)); err != nil || string(b) != strconv.Itoa(os.Getpid())+"\n" {
		t.Errorf("%q, %v", b, err)
	}
	if err := errors.Join(f.remove(), f.remove()); err != nil {
		t.Error(err)
	}
	if list, err := os.ReadDir(filepath.Dir(string(f))); err != nil || len(list) != 0 {
		t.Errorf("left: %v, %v", list, err)
	}
	dir := pidFile(t.TempDir())
	if err := dir.check(); err == nil {
		t.Error("a folder is no file")
	}
	if err := pidFile(filepath.Join(string(dir), "none", "pid")).check(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	var none pidFile
	if err := errors.Join(none.check(), none.write(), none.remove()); err != nil {
		t.Error(err)
	}
}
