package revision

import (
	"reflect"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/config"
)

func TestQuickReadsWhatPackWrites(t *testing.T) {
	for _, text := range []string{"", "a: 1\n", "a: \"b\\c\"\t<&>\r\n", "\u2028 \u00e9 \U0001f600 \x01", strings.Repeat("  r: { match: { path: / } }\n", 1000)} {
		data, err := Pack([]config.File{{Name: "a.yaml", Data: []byte(text)}, {Name: `b "c".yaml`, Data: []byte("x: 1")}})
		if err != nil {
			t.Fatal(err)
		}
		p, ok := quick(data)
		if !ok || len(p.Files) != 2 || p.Files[0].Text != text || p.Files[1].Name != `b "c".yaml` {
			t.Errorf("%.40q: %v %.80q", text, ok, p)
		}
	}
}

// Whatever quick understands, decode understands in the same way.
func FuzzQuick(f *testing.F) {
	for _, s := range []string{
		`{"files":[{"name":"a","text":"b\n\u003c\\\""}]}`, `{"files":[{"name":"a"},{"name":"b","text":"\ud83d\ude00"}]}`,
		`{"files":[{"name":"a","text":"b"}]} `, `{"files":[{"name":"a","text":"b",}]}`, `{"files":[{"name":"a\`, "{\"files\":[{\"name\":\"\xff\"}]}",
		`{"files":[{"name":"\u00e"}]}`, `{"files":[{"name":"\u+0ea"}]}`, "{\"files\":[{\"name\":\"\n\"}]}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, ok := quick(data)
		if !ok {
			return
		}
		want, err := decode(data)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, decode: %+v, %v", data, got, want, err)
		}
	})
}

func BenchmarkUnpack(b *testing.B) {
	data, err := Pack([]config.File{{Name: "a.yaml", Data: []byte(strings.Repeat("  r: { match: { path: { prefix: \"/v1\" } } }\n", 20000))}})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := Unpack(data); err != nil {
			b.Fatal(err)
		}
	}
}
