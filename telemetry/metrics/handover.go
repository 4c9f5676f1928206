package metrics

// Handovers counts how often another process was to take the place of this one,
// those of the processes before included. For concurrent use.
type Handovers struct{ succeeded, failed Counter }

// Count adds to both counts.
func (h *Handovers) Count(succeeded, failed uint64) {
	h.succeeded.Add(succeeded)
	h.failed.Add(failed)
}

// Counts returns both.
func (h *Handovers) Counts() (succeeded, failed uint64) {
	return h.succeeded.Value(), h.failed.Value()
}

func (h *Handovers) collect(e *emit) {
	succeeded, failed := h.Counts()
	e.counter(handovers, succeeded, "success")
	e.counter(handovers, failed, "failure")
}
