package fleet

import (
	"bufio"
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/squeeze"
	"github.com/gatehouse-proxy/gatehouse/control/store"
)

func TestKeptFileIsWhatEncodingJSONWouldWrite(t *testing.T) {
	r := func(n uint64, data string) *store.Revision {
		return &store.Revision{
			Number: n, Digest: "d", Author: `a "quoted" <b>`, Message: "why\n", Time: time.Unix(1e9, 0).UTC(),
			KeyID: "k", Signature: []byte{0, 1, 255}, Data: []byte(data),
		}
	}
	for _, list := range [][]*store.Revision{{r(1, "x")}, {r(1, ""), r(2, "ab"), r(3, "a\x00\xffc")}} {
		k := &kept{goodOne: 1, list: list}
		f := file{Good: 1}
		for _, r := range list {
			f.Revisions = append(f.Revisions, fileItem{*r, squeeze.Compress(r.Data)})
		}
		want, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		w := bufio.NewWriter(&got)
		if err := k.encode(w); err != nil || w.Flush() != nil {
			t.Fatal(err)
		}
		if got.String() != string(want) {
			t.Errorf("got  %s\nwant %s", got.String(), want)
		}
	}
}
