package frames

import (
	"hash/maphash"
	"math/bits"
	"slices"
	"strings"

	"golang.org/x/net/http2/hpack"
)

const (
	// maxTable is how much of the peer's table is used.
	maxTable = DefaultTable
	// overhead is what an entry of a table counts besides its text (RFC 7541, 4.1).
	overhead = 32
	// largest is the size of the largest entry that may go into the table, where it
	// pushes others out.
	largest = maxTable / 8
	// places is how many fields are remembered that came more than once, onces how
	// many that came once.
	places, onces = 32, 64
	static        = 61 // entries of the static table
)

// Encoder compresses header fields (RFC 7541). A field gets a place in the
// table when it comes for the second time: names and values that never come
// again would push out those that do, and cost memory. It keeps nothing of what
// it is given but for those. One Encoder is for one connection, and what it
// appends must be sent in order.
type Encoder struct {
	// Compact has texts that do not go into the table compressed as well, which
	// costs more time than a local network takes for them.
	Compact bool

	seed   maphash.Seed
	seen   [onces]uint32 // of the hashes of fields that came once, the oldest at next
	next   int
	hashes [places]uint64 // of kept
	kept   []entry
	oldest int // the place that is given away next
	// The table, as the peer has it: sizes of its entries by their number, which
	// counts from 1; those up to gone have been pushed out.
	sizes       [maxTable / overhead]uint16
	added, gone uint64
	size, max   int
	least       int // the least that max was since the last block
	changed     bool
}

// entry is a field that has come more than once.
type entry struct {
	name, value string
	index       int    // in the static table; 0: not there
	number      uint64 // in the table; 0: never there
}

// NewEncoder returns an encoder for a peer that has said nothing of its table.
func NewEncoder() *Encoder { return &Encoder{seed: maphash.MakeSeed(), max: maxTable, least: maxTable} }

// SetTable sets the table's size to what the peer allows.
func (e *Encoder) SetTable(n uint32) {
	e.max = int(min(n, maxTable))
	e.least = min(e.least, e.max)
	e.changed = true
	e.evict(e.max)
}

// Begin begins a header block.
func (e *Encoder) Begin(b []byte) []byte {
	if !e.changed {
		return b
	}
	e.changed = false
	if e.least < e.max {
		// It was lowered and raised again, which has to be said. By nothing at all,
		// because golang.org/x/net takes a second change only of an empty table.
		e.evict(0)
		b = appendInt(b, 0x20, 5, 0)
	}
	e.least = e.max
	return appendInt(b, 0x20, 5, e.max)
}

// Append appends a field. name is in lower case; neither is kept.
func (e *Encoder) Append(b []byte, name, value string) []byte {
	if secret(name) {
		return e.literal(b, 0x10, 4, name, value)
	}
	size := len(name) + len(value) + overhead
	if size > largest { // nor is it remembered
		return e.literal(b, 0, 4, name, value)
	}
	h := maphash.String(e.seed, name) ^ bits.RotateLeft64(maphash.String(e.seed, value), 1)
	k := e.find(h, name, value)
	if k == nil {
		if !slices.Contains(e.seen[:], uint32(h)) {
			e.seen[e.next] = uint32(h)
			e.next = (e.next + 1) % onces
			return e.literal(b, 0, 4, name, value)
		}
		k = e.keep(h, name, value)
	}
	switch {
	case k.index > 0:
		return appendInt(b, 0x80, 7, k.index)
	case k.number > e.gone:
		return appendInt(b, 0x80, 7, static+1+int(e.added-k.number))
	}
	if size > e.max {
		return e.literal(b, 0, 4, name, value)
	}
	b = e.literal(b, 0x40, 6, name, value) // names what the table has before it is changed
	e.evict(e.max - size)
	e.added++
	e.sizes[e.added%uint64(len(e.sizes))] = uint16(size)
	e.size += size
	k.number = e.added
	return b
}

// find returns what is remembered of a field; nil: nothing.
func (e *Encoder) find(h uint64, name, value string) *entry {
	for i := range e.kept {
		if e.hashes[i] == h && e.kept[i].name == name && e.kept[i].value == value {
			return &e.kept[i]
		}
	}
	return nil
}

// keep remembers a field.
func (e *Encoder) keep(h uint64, name, value string) *entry {
	i := len(e.kept)
	if i < places {
		e.kept = append(e.kept, entry{})
	} else {
		i, e.oldest = e.oldest, (e.oldest+1)%places
	}
	e.hashes[i] = h
	k := &e.kept[i]
	*k = entry{name: strings.Clone(name), value: strings.Clone(value)}
	k.index = staticFields[field{k.name, k.value}]
	return k
}

// evict makes room until the table has at most size bytes.
func (e *Encoder) evict(size int) {
	for e.size > size {
		e.gone++
		e.size -= int(e.sizes[e.gone%uint64(len(e.sizes))])
	}
}

// literal appends a field that is not in the table.
func (e *Encoder) literal(b []byte, kind byte, prefix int, name, value string) []byte {
	i := staticNames[name]
	b = appendInt(b, kind, prefix, i)
	if i == 0 {
		b = e.text(b, name)
	}
	return e.text(b, value)
}

func (e *Encoder) text(b []byte, s string) []byte {
	if e.Compact {
		if n := int(hpack.HuffmanEncodeLength(s)); n < len(s) {
			return hpack.AppendHuffmanString(appendInt(b, 0x80, 7, n), s)
		}
	}
	return append(appendInt(b, 0, 7, len(s)), s...)
}

// appendInt appends a number behind the bits of kind (RFC 7541, 5.1).
func appendInt(b []byte, kind byte, prefix, n int) []byte {
	most := 1<<prefix - 1
	if n < most {
		return append(b, kind|byte(n))
	}
	b = append(b, kind|byte(most))
	for n -= most; n >= 128; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

// secret names fields that must not get into any table: who can send requests on
// the same connection could find out their values from what is sent (RFC 7541,
// 7.1).
func secret(name string) bool {
	switch name {
	case "authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key":
		return true
	}
	return false
}

type field struct{ name, value string }

// The static table (RFC 7541, appendix A), from 1.
var staticFields, staticNames = func() (map[field]int, map[string]int) {
	fields, names := map[field]int{}, map[string]int{}
	for i, f := range staticTable {
		fields[f] = i + 1
		if names[f.name] == 0 {
			names[f.name] = i + 1
		}
	}
	return fields, names
}()

var staticTable = [static]field{
	{":authority", ""},
	{":method", "GET"},
	{":method", "POST"},
	{":path", "/"},
	{":path", "/index.html"},
	{":scheme", "http"},
	{":scheme", "https"},
	{":status", "200"},
	{":status", "204"},
	{":status", "206"},
	{":status", "304"},
	{":status", "400"},
	{":status", "404"},
	{":status", "500"},
	{"accept-charset", ""},
	{"accept-encoding", "gzip, deflate"},
	{"accept-language", ""},
	{"accept-ranges", ""},
	{"accept", ""},
	{"access-control-allow-origin", ""},
	{"age", ""},
	{"allow", ""},
	{"authorization", ""},
	{"cache-control", ""},
	{"content-disposition", ""},
	{"content-encoding", ""},
	{"content-language", ""},
	{"content-length", ""},
	{"content-location", ""},
	{"content-range", ""},
	{"content-type", ""},
	{"cookie", ""},
	{"date", ""},
	{"etag", ""},
	{"expect", ""},
	{"expires", ""},
	{"from", ""},
	{"host", ""},
	{"if-match", ""},
	{"if-modified-since", ""},
	{"if-none-match", ""},
	{"if-range", ""},
	{"if-unmodified-since", ""},
	{"last-modified", ""},
	{"link", ""},
	{"location", ""},
	{"max-forwards", ""},
	{"proxy-authenticate", ""},
	{"proxy-authorization", ""},
	{"range", ""},
	{"referer", ""},
	{"refresh", ""},
	{"retry-after", ""},
	{"server", ""},
	{"set-cookie", ""},
	{"strict-transport-security", ""},
	{"transfer-encoding", ""},
	{"user-agent", ""},
	{"vary", ""},
	{"via", ""},
	{"www-authenticate", ""},
}
