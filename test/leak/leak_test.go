package leak

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { VerifyTestMain(m) }

// tests stands for those of a package.
type tests func() int

func (f tests) Run() int { return f() }

// late outlives the test that starts it, by more than goleak waits.
func late() {
	time.Sleep(2 * time.Second)
}

// stay ends with end.
func stay(begun chan<- struct{}, end <-chan struct{}) {
	close(begun)
	<-end
}

func TestWhatEndsLateIsNoLeak(t *testing.T) {
	defer VerifyNone(t)
	var out strings.Builder
	passing := tests(func() int {
		go late()
		return 0
	})
	if code := run(passing, &out, tries); code != 0 || out.Len() > 0 {
		t.Errorf("exit status %d, %q", code, out.String())
	}
	go late()
}

func TestWhatStaysIsALeak(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	defer close(end)
	var out strings.Builder
	passing := tests(func() int {
		go stay(begun, end)
		<-begun
		return 0
	})
	if code := run(passing, &out, 3); code != 1 || !strings.Contains(out.String(), "leak.stay") {
		t.Errorf("exit status %d, %q", code, out.String())
	}
	if err := Find(goleak.IgnoreTopFunction("github.com/gatehouse-proxy/gatehouse/test/leak.stay")); err != nil {
		t.Errorf("an option is forgotten: %v", err)
	}
}

func TestAFailureIsKept(t *testing.T) {
	var out strings.Builder
	failing := tests(func() int { return 2 })
	if code := run(failing, &out, tries); code != 2 || out.Len() > 0 {
		t.Errorf("exit status %d, %q", code, out.String())
	}
}
