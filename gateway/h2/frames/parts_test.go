package frames_test

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
)

func TestBufferGivesWhatItGot(t *testing.T) {
	var b frames.Buffer
	var want, got bytes.Buffer
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		p := bytes.Repeat([]byte{byte(rnd.Uint32())}, rnd.IntN(9000)>>rnd.IntN(12))
		want.Write(p)
		b.Write(p)
		if one, ok := b.One(); ok && len(one) != b.Len() {
			t.Fatalf("%d of %d bytes in one piece", len(one), b.Len())
		}
		out := make([]byte, rnd.IntN(9000)>>rnd.IntN(12))
		before := b.Len()
		n := b.Read(out)
		if n != min(before, len(out)) || b.Len() != before-n {
			t.Fatalf("%d bytes of %d into %d", n, before, len(out))
		}
		got.Write(out[:n])
	}
	out := make([]byte, b.Len())
	got.Write(out[:b.Read(out)])
	if b.Len() != 0 || !bytes.Equal(want.Bytes(), got.Bytes()) {
		t.Error("what was read is not what was written")
	}
	b.Write([]byte("x"))
	b.Reset()
	if p, ok := b.One(); b.Len() != 0 || len(p) != 0 || !ok {
		t.Error("something is left")
	}
}

func TestBufferDoesNotAllocate(t *testing.T) {
	var b frames.Buffer
	p, out := make([]byte, 20<<10), make([]byte, 32<<10)
	if n := testing.AllocsPerRun(200, func() {
		b.Write(p)
		b.Write(p[:100])
		b.Read(out)
		b.Write(p[:100])
		b.Reset()
	}); n > 0.1 && !raceEnabled { // the collector may empty the pools
		t.Errorf("%v allocations", n)
	}
}

func TestWindows(t *testing.T) {
	w := frames.Window(frames.DefaultWindow)
	if !w.Add(-70000) || w != -4465 || !w.Add(frames.MaxWindow) || w.Add(1<<31) || w.Add(frames.MaxWindow) {
		t.Errorf("%d", w)
	}
	f := frames.NewInflow(1000)
	if !f.Come(900) || f.Come(101) || f.Gone(249) != 0 || f.Gone(1) != 250 || !f.Come(350) || f.Come(1) {
		t.Errorf("%+v", f)
	}
}

func TestFields(t *testing.T) {
	for name, want := range map[string]bool{"a": true, "x-y_1~": true, "": false, "X": false, "a b": false, ":a": false, "é": false, "a\x00": false} {
		if frames.ValidName(name) != want {
			t.Errorf("name %q", name)
		}
	}
	for value, want := range map[string]bool{"": true, "a\tb": true, "é": true, "a\nb": false, "a\rb": false, "\x00": false, "\x7f": false} {
		if frames.ValidValue(value) != want {
			t.Errorf("value %q", value)
		}
	}
	if s := string(frames.Title([]byte("x"), "content-type")) + string(frames.Lower([]byte("Content-TYPE"))) + frames.Trim("\t a b "); s != "xContent-Typecontent-typea b" {
		t.Errorf("got %s", s)
	}
	if !frames.OfConnection("keep-alive") || frames.OfConnection("te") {
		t.Error("fields of a connection")
	}
	if s := frames.Code(7).String() + frames.Code(99).String(); !strings.HasPrefix(s, "REFUSED_STREAM") || !strings.HasSuffix(s, "99") {
		t.Error(s)
	}
}
