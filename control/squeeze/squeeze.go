// Package squeeze compresses revisions where they are kept: configs of many
// routes are much of the same, and every node fetches and keeps them.
package squeeze

import (
	"bytes"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// magic begins a frame of zstd.
var magic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// Compress makes data one frame of zstd.
func Compress(data []byte) []byte {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic("BUG: " + err.Error())
	}
	defer e.Close() //nolint:errcheck // it writes nowhere
	return e.EncodeAll(data, nil)
}

// Decompress undoes Compress, up to a size in bytes. Other data is returned as it is:
// whether it is a revision shows by its signature.
func Decompress(data []byte, most uint64) ([]byte, error) {
	if !bytes.HasPrefix(data, magic) {
		return data, nil
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(most))
	if err != nil {
		panic("BUG: " + err.Error())
	}
	defer d.Close()
	out, err := d.DecodeAll(data, nil)
	if err != nil {
		return nil, fmt.Errorf("the data of a revision: %w", err)
	}
	return out, nil
}
