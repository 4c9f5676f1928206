// Package leak fails tests that leave goroutines behind. It is goleak with more
// patience: on a machine that is busy, what has been told to end may get no turn
// for seconds, and goleak waits for less than half of one.
package leak

import (
	"fmt"
	"io"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// tries is how often goleak looks before a goroutine counts as left behind. Each
// takes it 0.4 s at least, so that all of them are half a minute. They are counted,
// as a clock also runs while the process gets no turn.
const tries = 70

// VerifyTestMain runs the tests of a package. It ends the process, as failed if a
// test failed, or a goroutine that no option allows is still there.
func VerifyTestMain(m *testing.M, options ...goleak.Option) {
	os.Exit(run(m, os.Stderr, tries, options...))
}

func run(m interface{ Run() int }, out io.Writer, tries int, options ...goleak.Option) int {
	if code := m.Run(); code != 0 {
		return code // a test that failed may well have left something
	}
	if err := find(tries, options...); err != nil {
		fmt.Fprintf(out, "leak: the tests passed, and %v\n", err)
		return 1
	}
	return 0
}

// VerifyNone fails t if there are goroutines besides those of the testing package.
// No other test may run in parallel.
func VerifyNone(t testing.TB, options ...goleak.Option) {
	t.Helper()
	if err := Find(options...); err != nil {
		t.Error(err)
	}
}

// Find waits until there are no goroutines but those that options allow; nil as
// soon as that is so. The error shows the stacks of those that stay.
func Find(options ...goleak.Option) error { return find(tries, options...) }

func find(tries int, options ...goleak.Option) (err error) {
	for range tries {
		if err = goleak.Find(options...); err == nil {
			return nil
		}
	}
	return err
}
