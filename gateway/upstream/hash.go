package upstream

// Hash is the hash to use for PickRequest.Hash: the same on every node, in every
// version (FNV-1a, finished so that all bits depend on all input).
func Hash(data string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(data) {
		h ^= uint64(data[i])
		h *= 1099511628211
	}
	return mix(h)
}

// golden is 2^64 divided by the golden ratio.
const golden = 0x9e3779b97f4a7c15

// mix spreads a key over all 64 bits (the step of SplitMix64, a bijection).
func mix(x uint64) uint64 {
	x += golden
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
