//go:build race

package dispatch

// The race detector makes everything some ten times slower.
const raceEnabled = true
