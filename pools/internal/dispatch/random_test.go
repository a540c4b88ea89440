package dispatch

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"
)

var seedFlag = flag.Uint64("dispatch.seed", 0, "seed of the random test, 0: from the clock")

type randomChoices struct {
	r    *rand.Rand
	left int
}

func (c *randomChoices) pick(n int) int {
	c.left--
	return c.r.IntN(n)
}

func (c *randomChoices) spent() bool { return c.left <= 0 }

// TestRandom plays many short lives of a Scheduler against the model. Short, because a bug then shows in a short trace.
func TestRandom(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-dispatch.seed=%d", seed)
	events, goal := 0, 8_000_000
	if testing.Short() || raceEnabled {
		goal /= 20
	}
	run := uint64(0)
	defer func() {
		if e := recover(); e != nil {
			t.Fatalf("seed %d, run %d: %v", seed, run, e)
		}
	}()
	for ; events < goal; run++ {
		r := rand.New(rand.NewPCG(seed, run))
		events += play(&randomChoices{r: r, left: 1 << (6 + r.IntN(8))})
	}
	t.Logf("%d events in %d lives", events, run)
}

// byteChoices lets a fuzzer choose.
type byteChoices struct{ b []byte }

func (c *byteChoices) pick(n int) int {
	if len(c.b) == 0 {
		return 0
	}
	v := int(c.b[0])
	c.b = c.b[1:]
	if n > 256 && len(c.b) > 0 {
		v = v<<8 | int(c.b[0])
		c.b = c.b[1:]
	}
	return v % n
}

func (c *byteChoices) spent() bool { return len(c.b) == 0 }

func FuzzEvents(f *testing.F) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 0))
		b := make([]byte, 64<<(seed/2))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		if len(b) > 1<<14 {
			b = b[:1<<14] // longer lives find nothing that several short ones do not
		}
		play(&byteChoices{b})
	})
}
