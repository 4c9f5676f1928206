package compile

// What the tests outside this package need of it.
var (
	Digest       = digest
	Outcome      = outcome
	StatusRanges = statusRanges
)
