package redis

import (
	"bytes"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// A revision lies in Redis as one frame of zstd: configs of many routes are much
// of the same, and every node fetches them at the same time.

var magic = []byte{0x28, 0xb5, 0x2f, 0xfd}

func compress(data []byte) []byte {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic("BUG: " + err.Error())
	}
	defer e.Close() //nolint:errcheck // it writes nowhere
	return e.EncodeAll(data, nil)
}

// decompress undoes compress, up to a size. Other data is returned as it is:
// whether it is a revision shows by its signature.
func decompress(data []byte, most uint64) ([]byte, error) {
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
