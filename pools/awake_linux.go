//go:build linux && (amd64 || arm64)

package pools

import (
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
)

const (
	// A thread that spins for 200 us at most and comes back after so long has lost its CPU to somebody.
	awakeLost = 4 * spinTime
	// What the first such loss costs, in waits without spinning; doubled by each further one.
	awakeFirst = 32
	// Most of them: a glance at a busy machine now and then, some seconds apart.
	awakeMost = 8192
	// After an answer that was merely late.
	awakeLate = 2
	// A success takes this part off the price.
	awakeDecay = 16
)

// awake remembers whether waiting awake pays. On a machine whose CPUs are all busy it does not: the thread gives away its
// turn to strangers, who keep it for milliseconds, while a thread that has slept is let in at once. Used by the thread that leads.
type awake struct {
	price int // waits that the next loss costs, in part
	ban   int // waits to come that sleep at once
}

func (a *awake) pays() bool {
	if a.ban > 0 {
		a.ban--
		return false
	}
	return true
}

// spin waits for answers without sleeping, ns at most, and says whether there are any.
func (a *awake) spin(tr *process.Transport, ns int64) bool {
	start := time.Now()
	found := tr.Spin(ns)
	a.learn(found, time.Since(start))
	return found
}

func (a *awake) learn(found bool, took time.Duration) {
	switch {
	case took > awakeLost:
		a.price = min(2*a.price+awakeFirst, awakeMost)
		a.ban = a.price
	case !found:
		a.ban = awakeLate
	default:
		a.price -= a.price / awakeDecay
	}
}
