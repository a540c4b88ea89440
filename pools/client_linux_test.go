//go:build linux && (amd64 || arm64)

package pools

import (
	"encoding/binary"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
)

// limit ends a test whose engine hangs, with all stacks.
const limit = 60 * time.Second

// openTest opens an engine whose workers are this test binary. The test fails if anything of it is left at the end.
func openTest(t *testing.T, cfg EngineConfig) *Engine {
	t.Helper()
	goroutines, files := runtime.NumGoroutine(), openFiles()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dog := time.AfterFunc(limit, func() { panic("this test hangs") })
	if cfg.ArenaBytes == 0 {
		cfg.ArenaBytes = 1 << 30
	}
	command := cfg.Command == nil
	if command {
		cfg.Command = []string{exe, "-test.run=^$"}
	} else {
		cfg.Command = nil
	}
	e, err := OpenEngine(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if command {
		if err := e.Start(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		e.Terminate()
		joinAll(t, e)
		for i, p := range e.ports {
			if p != nil {
				e.ClosePort(i)
			}
		}
		if err := e.Free(); err != nil {
			t.Error(err)
		}
		dog.Stop()
		if c := children(); c != "" {
			t.Errorf("children left: %s", c)
		}
		if n := openFiles(); n > files {
			t.Errorf("%d descriptors before, %d after", files, n)
		}
		for i := 0; runtime.NumGoroutine() > goroutines; i++ { // one that has just returned may still be counted
			if i > 100 {
				t.Errorf("%d goroutines before, %d after", goroutines, runtime.NumGoroutine())
				break
			}
			time.Sleep(time.Millisecond)
		}
	})
	return e
}

// joinAll waits for the workers to leave.
func joinAll(t *testing.T, e *Engine) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; {
		n, err := e.Join(1000)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d workers do not leave", n)
		}
	}
}

// client is one caller: a port and what a binding does with it.
type client struct {
	t     *testing.T
	e     *Engine
	port  int
	words []int64
	fill  func(first int64, count int) int // encode no more than so many tasks, for a source that ends; nil: all
	each  func(found int)                  // called after each step

	starter func(index int) // nil: start
}

func newClient(t *testing.T, e *Engine) *client {
	t.Helper()
	i, _, err := e.OpenPort()
	if err != nil {
		t.Fatal(err)
	}
	return &client{t: t, e: e, port: i, words: e.tr.Port(i)}
}

// spec is what Begin wants to know.
type spec struct {
	tasks, key, chunk, retries, flags int64
	timeout                           time.Duration
	serial                            int64
}

// task says what the task with this index is.
type task func(i int64) (op, arg uint64)

func squares(i int64) (uint64, uint64) { return opSquare, uint64(i) }

// outcome of one task.
type outcome struct {
	value     uint64
	flags     int64 // event flags of a task without value
	info      int64 // pid
	code      int64
	delivered int
}

// run is one job under way or done.
type run struct {
	id     int64
	out    map[int64]outcome
	order  []int64 // indices as delivered
	events []int64 // chunks of the events listed last
	err    error
}

func (c *client) begin(s spec) *run {
	c.t.Helper()
	copy(c.words[process.PortParams:], []int64{s.tasks, s.key, s.chunk, s.retries, s.flags, int64(s.timeout), 0, s.serial, 0})
	id, err := c.e.Begin(c.port)
	if err != nil {
		return &run{err: err}
	}
	return &run{id: id, out: make(map[int64]outcome)}
}

// encode writes offer k; it says how many tasks there were.
func (c *client) encode(k int, tasks task) (n, count int) {
	w := c.words[process.PortOffers+k*process.OfferWords:]
	slot, room, first, count := uint64(w[2]), w[3], w[4], int(w[5])
	n = count
	if c.fill != nil {
		n = c.fill(first, count)
	}
	need := tasksAt + (taskBytes+8)*n + 3*headerSize + 192
	if int64(need) > room {
		grown, err := c.e.Grow(c.port, k, uint64(need))
		if err != nil {
			c.t.Error(err)
			return 0, count
		}
		slot = grown
	}
	mem, le := c.e.tr.Mem(), binary.LittleEndian
	le.PutUint16(mem[slot+frameAt+6:], kindRaw)
	le.PutUint32(mem[slot+frameAt+40:], uint32(n))
	le.PutUint64(mem[slot+frameAt+48:], uint64(taskBytes*n))
	for i := range n {
		op, arg := tasks(first + int64(i))
		le.PutUint64(mem[slot+tasksAt+uint64(taskBytes*i):], op)
		le.PutUint64(mem[slot+tasksAt+uint64(taskBytes*i)+8:], arg)
	}
	return n, count
}

// step encodes what is offered, submits, waits once and takes in what came.
func (c *client) step(r *run, tasks task, wait int) int {
	sent := 0
	for sent < int(c.words[wordOffers]) {
		n, count := c.encode(sent, tasks)
		sent++
		if n < count {
			c.words[process.PortParams+15] = 1
			break
		}
	}
	found, err := c.e.Step(c.port, sent, wait)
	if err != nil {
		r.err = err
		return 0
	}
	if found&FlagNeeds != 0 {
		for k := range c.words[wordNeeds] {
			start := c.start
			if c.starter != nil {
				start = c.starter
			}
			start(int(c.words[process.PortNeeds+k]))
		}
	}
	if found&FlagEvents != 0 {
		c.take(r)
	}
	if c.each != nil {
		c.each(found)
	}
	return found
}

// finish turns the crank until the job is done.
func (c *client) finish(r *run, tasks task, wait int) *run {
	for r.err == nil {
		if found := c.step(r, tasks, wait); found&FlagIdle != 0 && c.words[wordOffers] == 0 {
			break
		}
	}
	return r
}

func (c *client) do(s spec, tasks task) *run {
	c.t.Helper()
	r := c.begin(s)
	return c.finish(r, tasks, WaitBatch)
}

// take reads the events that are listed.
func (c *client) take(r *run) {
	mem, le := c.e.tr.Mem(), binary.LittleEndian
	r.events = r.events[:0]
	for k := range int(c.words[wordEvents]) {
		w := c.words[process.PortEvents+k*process.EventWords:][:process.EventWords]
		chunk, first, count, slot, flags := w[1], w[2], w[3], uint64(w[4]), w[5]
		r.events = append(r.events, chunk)
		if flags&(EventTasks|EventFunc) != 0 {
			r.out[-1] = outcome{flags: flags, delivered: r.out[-1].delivered + 1, value: uint64(count)}
			continue
		}
		left := count
		for seg := uint64(0); slot != 0; {
			if seg == 0 {
				seg = c.e.tr.Load(slot + process.ReplySegments)
			} else {
				seg = le.Uint64(mem[seg+72:])
			}
			if seg == 0 {
				break
			}
			if le.Uint16(mem[seg+6:]) != kindError {
				for i := int64(0); i < int64(le.Uint32(mem[seg+40:])) && left > 0; i++ {
					c.put(r, first+count-left, outcome{value: le.Uint64(mem[seg+headerSize+uint64(8*i):])})
					left--
				}
			}
		}
		if left != 0 {
			c.t.Errorf("chunk %x: %d of %d results are missing", chunk, left, count)
		}
		if flags&(EventFailed|EventLost) != 0 {
			c.put(r, first+count, outcome{flags: flags, info: w[6], code: w[7]})
		}
	}
}

func (c *client) put(r *run, i int64, o outcome) {
	o.delivered = r.out[i].delivered + 1
	r.out[i] = o
	r.order = append(r.order, i)
}

// start does what a binding does that starts its workers itself.
func (c *client) start(index int) {
	exe, err := os.Executable()
	if err != nil {
		c.t.Error(err)
		return
	}
	files := []uintptr{0, 1, 2}
	for _, fd := range c.e.WorkerFds() {
		files = append(files, uintptr(fd))
	}
	env := append(os.Environ(), process.WorkerEnv+"="+strconv.Itoa(process.ControlVersion)+":"+strconv.Itoa(index)+":3,4,5,6")
	pid, err := syscall.ForkExec(exe, []string{exe, "-test.run=^$"}, &syscall.ProcAttr{Env: env, Files: files})
	if err == nil {
		err = c.e.Attach(index, pid, true)
	}
	if err != nil {
		c.t.Error(err)
	}
}

// check wants n results, all squares but for the exceptions.
func (r *run) check(t *testing.T, n int64, except ...int64) {
	t.Helper()
	if r.err != nil {
		t.Fatal(r.err)
	}
	for i := range n {
		o := r.out[i]
		if o.delivered != 1 {
			t.Fatalf("task %d was delivered %d times", i, o.delivered)
		}
		if special := contains(except, i); !special && (o.flags != 0 || o.value != uint64(i*i)) {
			t.Fatalf("task %d: %+v", i, o)
		}
	}
	extra := int64(0)
	if _, ok := r.out[-1]; ok {
		extra = 1
	}
	if int64(len(r.out)) != n+extra {
		t.Fatalf("%d tasks were delivered instead of %d", int64(len(r.out))-extra, n)
	}
}

func contains(list []int64, i int64) bool {
	for _, x := range list {
		if x == i {
			return true
		}
	}
	return false
}

// waitFor collects a worker that ended without the engine's looking.
func waitFor(t *testing.T, pid int) {
	t.Helper()
	var ws syscall.WaitStatus
	if got, err := syscall.Wait4(pid, &ws, 0, nil); got != pid || err != nil {
		t.Fatal(got, err)
	}
}

// flag is a word in shared memory that tasks can look at.
func flag(t *testing.T, e *Engine) uint64 {
	t.Helper()
	off, _, err := e.Alloc(process.PageSize)
	if err != nil {
		t.Fatal(err)
	}
	e.tr.Store(off, 0)
	return off
}

// with runs one odd task among squares.
func with(at int64, op, arg uint64) task {
	return func(i int64) (uint64, uint64) {
		if i == at {
			return op, arg
		}
		return squares(i)
	}
}

// inParallel runs f n times at once.
func inParallel(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

func wantCode(t *testing.T, err error, code Code, text string) {
	t.Helper()
	if err == nil || CodeOf(err) != code || !strings.Contains(err.Error(), text) {
		t.Fatalf("want %v with %q, got %v", code, text, err)
	}
}
