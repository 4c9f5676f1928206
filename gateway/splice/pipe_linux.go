package splice

import (
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// pipeSize is how much a pipe is asked to hold: much less than streams could
// use, but an unprivileged user may have 64 MiB of pipes in all.
const pipeSize = 256 << 10

// kernelPipe is where the kernel keeps what it moves between two sockets. A
// connection has one only while there is something in it.
type kernelPipe struct {
	r, w int
	end  runtime.Cleanup
}

// pipes has empty pipes. The garbage collector closes those it drops.
var pipes sync.Pool

// getPipe returns nil when none can be made.
func getPipe() *kernelPipe {
	if p, _ := pipes.Get().(*kernelPipe); p != nil {
		return p
	}
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize) // refused: it holds 64 KiB
	p := &kernelPipe{r: fds[0], w: fds[1]}
	p.end = runtime.AddCleanup(p, closeBoth, fds)
	return p
}

func closeBoth(fds [2]int) {
	_ = unix.Close(fds[0])
	_ = unix.Close(fds[1])
}

// put gives the pipe back, if it is empty.
func (p *kernelPipe) put(empty bool) {
	if empty {
		pipes.Put(p)
		return
	}
	p.end.Stop()
	closeBoth([2]int{p.r, p.w})
}

const spliceFlags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK

// fillReady moves what there is into a pipe, or reads it where the kernel
// cannot.
func (f *flow) fillReady(fd uintptr) (done bool) {
	f.n, f.err = 0, nil
	if f.pipe = getPipe(); f.pipe == nil {
		f.copies = true
		return f.readReady(fd)
	}
	for {
		n, err := unix.Splice(int(fd), nil, f.pipe.w, nil, pipeSize, spliceFlags)
		switch {
		case err == unix.EINTR:
			continue
		case n > 0:
			f.n = int(n)
			return true
		}
		f.pipe.put(true)
		f.pipe = nil
		switch err {
		case nil:
			return true
		case unix.EAGAIN:
			return false
		case unix.EINVAL, unix.ENOSYS:
			f.copies = true
			return f.readReady(fd)
		}
		f.err = err
		return true
	}
}

// writePipe empties the pipe into dst and gives it back.
func (f *flow) writePipe() bool {
	for f.n > 0 {
		if err := f.awaitWrite(); err != nil {
			f.pair.fail(f.dstFailed, err)
			return false
		}
		before := f.n
		f.err = nil
		err := f.dst.raw.Write(f.flush)
		if err == nil {
			err = f.err
		}
		f.wrote(before - f.n)
		if err != nil && !f.goesOn(err, before-f.n) {
			return false
		}
	}
	f.pipe.put(true)
	f.pipe = nil
	return true
}

// flushReady moves what dst takes; it waits only while dst takes nothing, so
// that what it has taken can be noted.
func (f *flow) flushReady(fd uintptr) (done bool) {
	for {
		n, err := unix.Splice(f.pipe.r, nil, int(fd), nil, f.n, spliceFlags)
		switch {
		case err == unix.EINTR:
			continue
		case n > 0:
			f.n -= int(n)
			return true
		case err == unix.EAGAIN:
			return false
		case err == nil:
			err = unix.EPIPE // nothing was taken, and nothing is wrong: not possible
		}
		f.err = err
		return true
	}
}
