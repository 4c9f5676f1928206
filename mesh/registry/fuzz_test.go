package registry

import (
	"bytes"
	"testing"
)

// FuzzDecode holds for whatever is in the store: no panic, and what is taken is
// right and written as it can be read.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"service":"users","id":"u1","host":"10.0.0.1","port":8080,"status":"up","ttl":"30s","metadata":{"a":"b"}}`))
	f.Add([]byte(`{"service":"users","id":"h:app:80","host":"2001:db8::1","secure_port":8443,"status":"down","override":"drain","weight":7,"details":{"a":[1]}}`))
	f.Add([]byte(`{} {}`))
	f.Add([]byte(`[null,{"id":"../x"}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		i, err := decode(data)
		if err != nil {
			return
		}
		if err := i.Validate(); err != nil {
			t.Fatalf("%+v: %v", i, err)
		}
		once, err := i.encode()
		if err != nil {
			return // longer than it was
		}
		again, err := decode(once)
		if err != nil {
			t.Fatalf("%s: %v", once, err)
		}
		if twice, err := again.encode(); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%s and %s, %v", once, twice, err)
		}
	})
}
