package squeeze

import (
	"bytes"
	"testing"

	"github.com/klauspost/compress/zstd"
)

const most = 8 << 20

func TestCompression(t *testing.T) {
	for _, data := range [][]byte{nil, {}, []byte("x"), magic, bytes.Repeat([]byte("routes: {}\n"), 1e5)} {
		packed := Compress(data)
		got, err := Decompress(packed, most)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes became %d, %v", len(data), len(got), err)
		}
		if len(data) > 1000 && len(packed) > len(data)/100 {
			t.Errorf("%d bytes take %d", len(data), len(packed))
		}
	}
	if got, err := Decompress([]byte("{}"), most); err != nil || string(got) != "{}" {
		t.Errorf("what was not compressed: %q, %v", got, err)
	}
	whole := Compress(bytes.Repeat([]byte("routes: {}\n"), 1000))
	for n := len(magic); n < len(whole); n++ {
		if _, err := Decompress(whole[:n], most); err == nil {
			t.Fatalf("%d bytes of %d are taken for all", n, len(whole))
		}
	}
}

// A small frame must not become all the memory there is.
func TestABombIsNotUnpacked(t *testing.T) {
	w := new(bytes.Buffer)
	e, err := zstd.NewWriter(w)
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range 9 {
		if _, err := e.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if out, err := Decompress(w.Bytes(), most); err == nil {
		t.Errorf("%d bytes became %d", w.Len(), len(out))
	}
}

func FuzzDecompress(f *testing.F) {
	f.Add(Compress([]byte("routes: {}")))
	f.Add([]byte("{}"))
	f.Add(magic)
	f.Fuzz(func(t *testing.T, data []byte) {
		out, err := Decompress(data, most)
		if len(out) > max(most, len(data)) {
			t.Errorf("%d bytes became %d", len(data), len(out))
		}
		if again, e := Decompress(Compress(data), most); e != nil || !bytes.Equal(again, data) {
			t.Errorf("%d bytes: %v, %v", len(data), e, err)
		}
	})
}
