package frames

// Window is how many bytes may still be sent, of a stream or of the connection.
// It is below 0 after SETTINGS that lower it.
type Window int32

// Add makes room for n bytes, or takes it where n is below 0; false, if the
// window would grow beyond what is allowed.
func (w *Window) Add(n int64) bool {
	sum := int64(*w) + n
	if sum > MaxWindow || sum < -MaxWindow {
		return false
	}
	*w = Window(sum)
	return true
}

// Inflow is the other side's window: what may still come.
type Inflow struct {
	left int32 // what may come
	due  int32 // what has been taken out and was not told
	step int32 // from how much on it is told
}

// NewInflow is a window of size bytes.
func NewInflow(size int32) Inflow { return Inflow{left: size, step: max(size/4, 1)} }

// Come notes n bytes that have come; false, if they must not.
func (f *Inflow) Come(n int) bool {
	if int64(n) > int64(f.left) {
		return false
	}
	f.left -= int32(n)
	return true
}

// Gone notes that n bytes of them are no longer held. It returns by how much the
// window is to grow now, by WINDOW_UPDATE; 0: not yet, so that it is told for
// many frames at once.
func (f *Inflow) Gone(n int) int32 {
	f.due += int32(n)
	if f.due < f.step {
		return 0
	}
	grow := f.due
	f.left, f.due = f.left+grow, 0
	return grow
}
