//go:build !linux

package splice

// kernelPipe does not exist here: everything is copied.
type kernelPipe struct{}

func (*kernelPipe) put(bool) {}

func (f *flow) fillReady(fd uintptr) (done bool) {
	f.copies = true
	return f.readReady(fd)
}

func (f *flow) writePipe() bool { return true }

func (f *flow) flushReady(uintptr) (done bool) { return true }
