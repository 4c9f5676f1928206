package metrics

import "strconv"

// knownCodes get a series of their own: the registered statuses and 499, which
// is ours for a client that went away. All others are counted by class ("2xx"),
// so that an upstream cannot make the number of series grow.
var knownCodes = [...]int{
	101, 200, 201, 202, 203, 204, 205, 206, 207, 300, 301, 302, 303, 304, 307, 308,
	400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414,
	415, 416, 417, 421, 422, 423, 425, 426, 428, 429, 431, 451, 499,
	500, 501, 502, 503, 504, 505, 507, 511,
}

const numCodes = len(knownCodes) + 6 // + unknown, 1xx … 5xx

var codeSlots, codeNames = func() (slots [600]uint8, names [numCodes]string) {
	base := len(knownCodes)
	names[base] = "unknown"
	for class := 1; class <= 5; class++ {
		names[base+class] = strconv.Itoa(class) + "xx"
		for i := range 100 {
			slots[class*100+i] = uint8(base + class)
		}
	}
	for i := range 100 {
		slots[i] = uint8(base)
	}
	for i, c := range knownCodes {
		names[i] = strconv.Itoa(c)
		slots[c] = uint8(i)
	}
	return slots, names
}()

func codeSlot(status int) uint8 {
	if uint(status) >= uint(len(codeSlots)) {
		return uint8(len(knownCodes))
	}
	return codeSlots[status]
}
