package cmd

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

// pidFile is a file with the ID of the process that serves; empty: none.
type pidFile string

// check finds out, before there is no way back, whether write will succeed.
func (f pidFile) check() error {
	if f == "" {
		return nil
	}
	if st, err := os.Stat(string(f)); err == nil && !st.Mode().IsRegular() {
		return &os.PathError{Op: "write", Path: string(f), Err: os.ErrExist}
	}
	_, err := os.Stat(filepath.Dir(string(f)))
	return err
}

// write puts our ID in the place of a predecessor's, in one step.
func (f pidFile) write() error {
	if f == "" {
		return nil
	}
	next, err := os.CreateTemp(filepath.Dir(string(f)), filepath.Base(string(f))+".*")
	if err != nil {
		return err
	}
	_, err = next.Write(ownID())
	if e := next.Chmod(0o644); err == nil {
		err = e
	}
	if e := next.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(next.Name(), string(f))
	}
	if err != nil {
		_ = os.Remove(next.Name()) // why it failed says more
	}
	return err
}

// remove removes the file, unless it is a successor's by now.
func (f pidFile) remove() error {
	if f == "" {
		return nil
	}
	if b, err := os.ReadFile(string(f)); err != nil || !bytes.Equal(b, ownID()) {
		return nil
	}
	return os.Remove(string(f))
}

func ownID() []byte { return fmt.Appendln(nil, os.Getpid()) }
