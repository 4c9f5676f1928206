package frames_test

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"

	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
)

type pair struct{ name, value string }

func encode(e *frames.Encoder, b []byte, fields ...pair) []byte {
	b = e.Begin(b)
	for _, f := range fields {
		b = e.Append(b, f.name, f.value)
	}
	return b
}

func decode(t *testing.T, d *hpack.Decoder, b []byte) (fields []pair) {
	t.Helper()
	all, err := d.DecodeFull(b)
	if err != nil {
		t.Fatalf("%v in %x", err, b)
	}
	for _, f := range all {
		fields = append(fields, pair{f.Name, f.Value})
	}
	return fields
}

func same(a, b []pair) bool { return fmt.Sprint(a) == fmt.Sprint(b) }

func TestWhatIsRepeatedBecomesShort(t *testing.T) {
	e, d := frames.NewEncoder(), hpack.NewDecoder(4096, nil)
	head := []pair{
		{":method", "POST"},
		{":path", "/a/b"},
		{":status", "200"},
		{"content-type", "application/grpc"},
		{"cookie", "secret"},
		{"x", strings.Repeat("y", 300)},
		{"empty", ""},
	}
	var lengths []int
	for range 4 {
		b := encode(e, nil, head...)
		lengths = append(lengths, len(b))
		if got := decode(t, d, b); !same(got, head) {
			t.Fatalf("got %v", got)
		}
	}
	// A cookie is never kept: one byte for its name, one for a length, and itself.
	if want := 6 + 1 + 1 + 1 + len("secret"); lengths[3] != want || lengths[2] != want || lengths[1] < lengths[3] {
		t.Errorf("lengths %v, want %d in the end", lengths, want)
	}
}

func TestSecretsAreMarked(t *testing.T) {
	d := hpack.NewDecoder(4096, nil)
	e := frames.NewEncoder()
	for range 3 {
		all, err := d.DecodeFull(encode(e, nil, pair{"authorization", "Bearer x"}, pair{"accept", "*/*"}))
		if err != nil || !all[0].Sensitive || all[1].Sensitive {
			t.Errorf("%v, %v", all, err)
		}
	}
}

func TestTableFollowsThePeer(t *testing.T) {
	for _, compact := range []bool{false, true} {
		e, d := frames.NewEncoder(), hpack.NewDecoder(4096, nil)
		e.Compact = compact
		d.SetAllowedMaxDynamicTableSize(1 << 20)
		for i := range 5000 {
			switch i {
			case 1000:
				e.SetTable(100)
			case 2000:
				e.SetTable(0)
			case 3000:
				e.SetTable(50)
				e.SetTable(1 << 20)
			}
			fields := []pair{
				{"same", "value"},
				{"number", fmt.Sprint(i / 2)},
				{"some", fmt.Sprint(i % 40)},
				{"large", strings.Repeat("z", i%1000)},
				{":status", "404"},
			}
			if got := decode(t, d, encode(e, nil, fields...)); !same(got, fields) {
				t.Fatalf("%d: got %v", i, got)
			}
		}
	}
}

func TestEncoderDoesNotAllocate(t *testing.T) {
	e := frames.NewEncoder()
	buf := make([]byte, 0, 4096)
	ids := []string{"a1", "b2", "c3", "d4", "e5"}
	i := 0
	one := func() {
		b := e.Begin(buf[:0])
		b = e.Append(b, ":method", "POST")
		b = e.Append(b, "content-type", "application/grpc")
		b = e.Append(b, "x-request-id", ids[i%len(ids)])
		_ = e.Append(b, "authorization", "Bearer x")
		i++
	}
	for range 20 {
		one()
	}
	if n := testing.AllocsPerRun(200, one); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkEncoder(b *testing.B) {
	e := frames.NewEncoder()
	buf := make([]byte, 0, 4096)
	fields := []pair{
		{":method", "POST"},
		{":scheme", "http"},
		{":authority", "a.test"},
		{":path", "/bench.Echo/Call"},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
		{"via", "2.0 gatehouse"},
		{"forwarded", "for=127.0.0.1;proto=http"},
		{"x-forwarded-for", "127.0.0.1"},
	}
	b.ReportAllocs()
	for b.Loop() {
		encode(e, buf, fields...)
	}
}

// Whatever is encoded is decoded as what it was, whatever the table's size.
func FuzzEncoder(f *testing.F) {
	f.Add("a\nb\na\nb\n:status\n200\n!5\na\nb\n!9999\na\nb", true)
	f.Add("cookie\nx\nx\n"+strings.Repeat("long", 500)+"\n!0\nx\ny\nx\ny", false)
	f.Fuzz(func(t *testing.T, script string, compact bool) {
		e, d := frames.NewEncoder(), hpack.NewDecoder(4096, nil)
		e.Compact = compact
		d.SetAllowedMaxDynamicTableSize(1 << 20)
		lines := strings.Split(script, "\n")
		for i := 0; i+1 < len(lines); i++ {
			if size, ok := strings.CutPrefix(lines[i], "!"); ok {
				e.SetTable(uint32(len(size)) * 50)
				continue
			}
			want := []pair{{lines[i], lines[i+1]}, {"fixed", "field"}}
			if got := decode(t, d, encode(e, nil, want...)); !same(got, want) {
				t.Fatalf("got %q, want %q", got, want)
			}
			i++
		}
	})
}

// Fields too large for the table cost a connection no memory however often they
// come.
func TestLargeFieldsAreNotKept(t *testing.T) {
	e := frames.NewEncoder()
	text := []byte(strings.Repeat("y", 8<<10))
	b := make([]byte, 0, 32<<10)
	i := 0
	allocs := testing.AllocsPerRun(100, func() {
		text[0], text[1] = byte('a'+i%26), byte('a'+i/26)
		i++
		for range 2 {
			b = e.Append(e.Begin(b[:0]), "location", frames.Text(text))
		}
	})
	if allocs > 0 {
		t.Errorf("%v allocations", allocs)
	}
}
