//go:build race

package attribute_test

const raceEnabled = true
