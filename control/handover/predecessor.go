package handover

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"syscall"

	"github.com/gatehouse-proxy/gatehouse/gateway/socket"
)

// Predecessor is the process that this one was started by, to replace it. Its
// methods are for one goroutine.
type Predecessor struct {
	State
	// Sockets are those it serves on; the caller closes what it has no use for.
	Sockets *socket.Inherited
	line    *line
}

// Begin reads what a predecessor has said in the environment, and takes it out
// there. It returns nil if this process was started in another way.
func Begin() (*Predecessor, error) {
	text, ok := os.LookupEnv(Env)
	if !ok {
		return nil, nil
	}
	if err := os.Unsetenv(Env); err != nil {
		return nil, err
	}
	var l letter
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		return nil, fmt.Errorf("%s: %w", Env, err)
	}
	f, err := inherited(l.Control, "handover")
	if err != nil {
		return nil, err
	}
	p := &Predecessor{State: l.State, Sockets: &socket.Inherited{}}
	if p.line, err = newLine(f); err != nil {
		return nil, err
	}
	for _, s := range l.Sockets {
		f, err := inherited(s.FD, s.Label)
		if err == nil {
			err = p.Sockets.Add(s.Label, f)
		}
		if err != nil {
			p.Fail(err)
			return nil, fmt.Errorf("%s: %w", Env, err)
		}
	}
	return p, nil
}

// inherited is a descriptor that the process was started with, which no process
// that this one starts is to have.
func inherited(fd int, name string) (*os.File, error) {
	if fd < 3 {
		return nil, fmt.Errorf("%s: %d is no descriptor of a socket", Env, fd)
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name), nil
}

// Ready tells the predecessor that this process serves. An error means that it
// is gone, which is as good.
func (p *Predecessor) Ready() error { return p.line.say(message{Ready: true}) }

// Fail tells the predecessor why this process ends, and closes what it gave.
func (p *Predecessor) Fail(err error) {
	_ = p.line.say(message{Error: err.Error()}) // it is gone: nobody wants to know
	p.line.close()
	p.Sockets.Close()
}

// Await returns once the predecessor reads no more datagrams, or is gone, or ctx
// is done. It is called once, after Ready.
func (p *Predecessor) Await(ctx context.Context) {
	defer p.line.close()
	stop := context.AfterFunc(ctx, p.line.close)
	defer stop()
	_, _ = p.line.hear() // there is only one thing to hear
}
