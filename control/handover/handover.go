// Package handover replaces a running process by a new one without closing its
// sockets: the old process starts the new one with descriptors of them, waits
// until it says that it serves, and only then stops accepting. The two talk over
// a socket pair; what they say is a line of JSON each:
//
//	new: {"ready":true}   it accepts connections (or {"error":"…"}, and it ends)
//	old: {"go":true}      it reads no more datagrams: the UDP sockets are the new one's
//
// An old process that is gone has said everything, and a new one that is gone
// has failed.
package handover

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

// Env is the environment variable that tells a process what it was given.
const Env = "GATEHOUSE_HANDOVER"

// State is what a process lets its successor know besides its sockets.
type State struct {
	// Live says that a config is live: the successor is not ready without one.
	Live bool `json:"live"`
	// Succeeded and Failed count the handovers so far.
	Succeeded uint64 `json:"succeeded"`
	Failed    uint64 `json:"failed"`
}

// letter is the value of Env.
type letter struct {
	State
	Control int          `json:"control"` // descriptor of our end of the socket pair
	Sockets []descriptor `json:"sockets"`
}

type descriptor struct {
	FD    int    `json:"fd"`
	Label string `json:"label"`
}

// message is what is said over the socket pair.
type message struct {
	Ready bool   `json:"ready,omitempty"`
	Error string `json:"error,omitempty"`
	Go    bool   `json:"go,omitempty"`
}

// line is one end of the socket pair.
type line struct {
	conn net.Conn
	in   *bufio.Reader
}

// newLine takes over f, which it closes.
func newLine(f *os.File) (*line, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("handover: the line to the other process: %w", err)
	}
	return &line{c, bufio.NewReaderSize(c, maxMessage)}, nil
}

// maxMessage bounds a message, and with it what an error may say.
const maxMessage = 16 << 10

func (l *line) say(m message) error {
	if len(m.Error) > maxMessage/8 { // JSON may need six bytes for one
		m.Error = m.Error[:maxMessage/8] + "…"
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = l.conn.Write(append(b, '\n'))
	return err
}

// errGone says that the other process has ended without a word.
var errGone = errors.New("the other process is gone")

// hear returns the next message; errGone at the end.
func (l *line) hear() (m message, err error) {
	b, err := l.in.ReadSlice('\n')
	switch {
	case errors.Is(err, io.EOF):
		return m, errGone
	case err != nil:
		return m, err
	}
	return m, json.Unmarshal(b, &m)
}

func (l *line) close() { _ = l.conn.Close() } // nobody is told anything by an error
