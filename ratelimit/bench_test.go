package ratelimit

import (
	"encoding/binary"
	"testing"
	"time"
)

func BenchmarkTakeOneKey(b *testing.B) {
	l := newLocal(b, Settings{Windows: perMinute(1e9, 1000)})
	key := []byte("192.0.2.1")
	var d Decision
	b.ReportAllocs()
	for b.Loop() {
		_ = l.Take(key, 1, &d)
	}
}

func BenchmarkTakeThreeWindows(b *testing.B) {
	l := newLocal(b, Settings{Windows: []Window{
		{Limit: 1e9, Per: time.Second, Burst: 1000},
		{Limit: 1e9, Per: time.Minute, Burst: 1000},
		{Limit: 1e9, Per: time.Hour, Burst: 1000},
	}})
	key := []byte("192.0.2.1")
	var d Decision
	b.ReportAllocs()
	for b.Loop() {
		_ = l.Take(key, 1, &d)
	}
}

func BenchmarkTake50000Keys(b *testing.B) {
	l := newLocal(b, Settings{Windows: perMinute(1e6, 1000)})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		var key [8]byte
		var d Decision
		for i := uint64(0); pb.Next(); i++ {
			binary.LittleEndian.PutUint64(key[:], i*2654435761%50000)
			_ = l.Take(key[:], 1, &d)
		}
	})
}

func BenchmarkTakeFloodOfNewKeys(b *testing.B) {
	l := newLocal(b, Settings{Windows: perMinute(1, 1)})
	var key [8]byte
	var d Decision
	for i := uint64(0); b.Loop(); i++ {
		binary.LittleEndian.PutUint64(key[:], i)
		_ = l.Take(key[:], 1, &d)
	}
}
