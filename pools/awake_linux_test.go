//go:build linux && (amd64 || arm64)

package pools

import "testing"

// TestAwake: who loses the CPU while spinning sleeps at once for a while, longer each time.
func TestAwake(t *testing.T) {
	var a awake
	asleep := func() (n int) {
		for !a.pays() {
			n++
		}
		return n
	}
	a.learn(true, spinTime)
	if n := asleep(); n != 0 {
		t.Fatalf("%d waits asleep after a success", n)
	}
	a.learn(false, 2*spinTime)
	if n := asleep(); n != awakeLate {
		t.Fatalf("%d waits asleep after a late answer", n)
	}
	last := 0
	for range 12 {
		a.learn(true, awakeLost+1)
		n := asleep()
		if n <= last && n != awakeMost {
			t.Fatalf("%d waits asleep after a loss, %d before", n, last)
		}
		last = n
	}
	if last != awakeMost {
		t.Fatalf("at most %d waits asleep", last)
	}
	for range 200 {
		a.learn(true, spinTime)
	}
	if a.learn(false, awakeLost+1); asleep() > 2*awakeFirst+2*awakeDecay {
		t.Fatal("successes are not counted")
	}
}
