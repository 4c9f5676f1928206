package frames

const (
	// MaxCalm is how many frames that ask for nothing a peer may send in a row. A
	// frame that moves something on gives it some back, and so does time.
	MaxCalm      = 2000
	CalmByFrame  = 8
	CalmBySecond = 200
	// SmallStep is a WINDOW_UPDATE that should have waited for more. Larger ones
	// cannot go on for long without DATA: the window would grow too large.
	SmallStep = 1 << 10
)
