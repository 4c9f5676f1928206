//go:build long

package splice_test

const volume int64 = 1 << 30
