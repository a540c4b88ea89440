//go:build linux && (amd64 || arm64)

package pools

import (
	"sync/atomic"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/mpix"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
)

// A caller that waits while another thread watches the workers looks after signals this often.
const followerSlice = 50e6 // ns

// What is expected back within this time is waited for awake: waking a thread whose CPU has gone idle takes as long on virtual
// machines (40 to 60 us each way; 3 to 5 on bare metal).
const spinTime = 100 * time.Microsecond

// sleep waits for something to happen, maxNs at most, in this thread or behind the one that watches already. It is
// called with the lock and returns with it.
func (e *Engine) sleep(p *port, maxNs int64) (signal bool, err error) {
	if e.leading {
		return e.follow(p, maxNs), nil
	}
	timeout := e.nextLook(maxNs)
	e.leading = true
	mpi := e.fleet != nil && e.fleet.talks()
	soon := p != nil && len(e.jobs) == 1 && e.sched.Soon(p.latest, spinTime) && e.awake.pays()
	e.mu.Unlock()
	var w mpix.Woken
	var wake process.Wake
	var ended []int
	switch {
	case mpi:
		w, wake, ended, err = e.fleet.wait(timeout)
	case soon && e.awake.spin(e.tr, min(2*int64(spinTime), timeout)):
		wake.Answers = true
	case e.fleet != nil:
		wake, ended, err = e.fleet.doze(timeout)
	default:
		wake, ended, err = e.tr.Wait(int((timeout + 999_999) / 1e6))
	}
	e.mu.Lock()
	e.leading = false
	if err != nil {
		return false, &Error{CodeSystem, err}
	}
	if mpi = e.fleet != nil && e.fleet.talks(); mpi {
		if err := e.fleet.progress(); err != nil {
			return false, err
		}
	}
	if err := e.attend(wake, ended); err != nil {
		return false, err
	}
	if mpi { // whoever sleeps here, a lane that has become free gets its next chunk at once
		if err := e.push(); err != nil {
			return false, err
		}
	}
	nothing := !wake.Answers && len(ended) == 0 && !w.Messages && !w.Sent
	return wake.Signal || w.Signal || timeout == maxNs && nothing, nil
}

// follow waits until the watching thread has something for p or leaves. It says whether a signal came.
func (e *Engine) follow(p *port, maxNs int64) bool {
	if p == nil { // Join: nobody wakes it, so it looks again soon
		e.mu.Unlock()
		process.Nap(min(maxNs, 1e6))
		e.mu.Lock()
		return false
	}
	p.waiting = true
	e.waiters++
	bell := atomic.LoadInt32(p.bell())
	e.mu.Unlock()
	signal := process.FutexWait(p.bell(), bell, min(maxNs, followerSlice))
	e.mu.Lock()
	p.waiting = false
	e.waiters--
	return signal
}

// poke lets any waiting caller look for what there is to do.
func (e *Engine) poke() {
	for _, q := range e.ports {
		q.poke()
	}
}

// wantsWorkers says whether an empty place is to be filled.
func (e *Engine) wantsWorkers() bool { return !(e.closing && len(e.jobs) == 0) && e.failure == nil }

// cannotStart tells every caller why there are no workers; the next Begin tries again.
func (e *Engine) cannotStart(code Code, why error, off uint64) {
	if e.failure != nil && code == CodeStart {
		return // the first reason is the one to tell
	}
	e.failure, e.failOff = &Error{code, why}, off
	e.poke()
}

// settle settles a chunk by its reply block.
func (e *Engine) settle(c *chunk) {
	if e.fleet != nil {
		e.fleet.settled(c)
	}
	status := e.tr.Load32(c.slot + process.ReplyStatus)
	done := int(e.tr.Load32(c.slot + process.ReplyDone))
	j := c.job
	if (status == process.StatusUnreadable || status == process.StatusNoFunction) && !j.gone {
		c.asking = status
		j.port.ask = append(j.port.ask, c)
		j.port.poke()
		return
	}
	e.broadcastStep(j)
	keep, ok := e.sched.Done(c.id, dispatch.Outcome{
		Done: min(done, c.count), Failed: status == process.StatusFailed && done < c.count,
		Elapsed: int64(e.tr.Load(c.slot + process.ReplyElapsed)), Bytes: int64(e.tr.Load(c.slot + process.ReplyBytes)),
		Reading: int64(e.tr.Load32(c.slot + process.ReplyReading)),
	})
	e.settled(c, keep && ok)
}

func (e *Engine) settled(c *chunk, keep bool) {
	j := c.job
	if !keep {
		e.freeSlot(c)
	}
	if !j.gone {
		j.port.feed(j)
		j.port.touch(j)
		j.port.poke()
	}
}

// broadcastStep counts the answers of a broadcast; after the last one the parked workers go on.
func (e *Engine) broadcastStep(j *job) {
	if !j.broadcast {
		return
	}
	if j.left--; j.left > 0 {
		return
	}
	// Parked workers look at this word. Waking them through a pipe was tried and refused: a worker that comes late finds
	// the record meant for it eaten by one that parks for the next broadcast already.
	e.tr.Store(process.CtlGate, max(e.tr.Load(process.CtlGate), uint64(j.id)))
}

// bereft settles a chunk that a worker took along when it died.
func (e *Engine) bereft(c *chunk, l dispatch.Loss, x loss) {
	if e.fleet != nil {
		e.fleet.settled(c)
		if x.rank > 0 && !x.vanished {
			e.lost++
		}
	}
	e.lossTag++
	l.Tag = e.lossTag
	c.job.losses = append(c.job.losses, l.Tag)
	e.losses[l.Tag] = x
	if !x.vanished {
		e.broadcastStep(c.job)
	}
	keep, ok := e.sched.Lost(c.id, l)
	e.settled(c, keep && ok)
}

// listNeeds hands the places to fill to this caller.
func (e *Engine) listNeeds(p *port) {
	if len(e.needs) > 0 {
		p.words[wordNeeds] = int64(e.takeNeeds(p.words[process.PortNeeds : process.PortNeeds+process.MaxNeeds]))
	}
}
