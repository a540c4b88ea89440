//go:build mpi && cgo

package mpix

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

// Run on two ranks (tests/mpi/test_link.py does): rank 0 tests, rank 1 sends back what it gets.

var comm *Comm

func TestMain(m *testing.M) {
	if _, err := Init(); err != nil {
		panic(err)
	}
	var err error
	if comm, err = Dup(-1); err != nil {
		panic(err)
	}
	for ok := false; !ok; {
		if ok, err = comm.Ready(1e8); err != nil {
			panic(err)
		}
	}
	segment = 100_000 // so that segments are made
	code := 0
	switch {
	case comm.Size() != 2:
		fmt.Println("these tests need two ranks: mpirun -n 2")
		code = 2
	case comm.Rank() == 0:
		code = m.Run()
		l := NewLink(comm, nil)
		l.Send(1, wire.Message{Kind: wire.MsgExit}, nil, nil)
		finish(l)
	default:
		mirror()
	}
	_ = Finalize()
	os.Exit(code)
}

// finish sends what is queued.
func finish(l *Link) {
	for l.Pending() > 0 {
		if err := l.Flush(); err != nil {
			panic(err)
		}
		if _, err := l.Progress(); err != nil {
			panic(err)
		}
	}
}

// echo sends each message back with its parts.
type echo struct {
	link *Link
	exit bool
}

func (e *echo) Place(_ int, m *wire.Message, parts []wire.Part) Place {
	p := Place{Mem: buffer(int(max(Room(parts, alone), 1)))}
	for i, part := range parts {
		if alone(part) {
			if p.Alone == nil {
				p.Alone = make([][]byte, len(parts))
			}
			p.Alone[i] = Memory(int(part.Length))
		}
	}
	return p
}

func alone(p wire.Part) bool { return p.Apart && p.Bulk }

func collect(parts []wire.Part, at Place) [][]byte {
	var all [][]byte
	pos := uint64(0)
	for i := range parts {
		var b []byte
		b, pos = at.Part(i, parts, pos)
		all = append(all, b)
	}
	return all
}

func (e *echo) Take(src int, m *wire.Message, parts []wire.Part, at Place) error {
	if m.Kind == wire.MsgExit {
		e.exit = true
		return nil
	}
	back := make([]Part, len(parts))
	for i, b := range collect(parts, at) {
		back[i] = Part{Base: parts[i].Base, Apart: parts[i].Apart, Data: b}
	}
	e.link.Send(src, *m, back, nil) // its memory is never given back: a test's
	return nil
}

func mirror() {
	e := &echo{}
	e.link = NewLink(comm, e)
	for !e.exit {
		if _, err := e.link.Wait(nil, 1e8, &Crowded); err != nil {
			panic(err)
		}
		if _, err := e.link.Progress(); err != nil {
			panic(err)
		}
		if err := e.link.Flush(); err != nil {
			panic(err)
		}
	}
	finish(e.link)
}

// sent is one message of the test, as it should come back.
type sent struct {
	m     wire.Message
	parts []Part
}

type checker struct {
	echo
	t    *testing.T
	want []sent
}

func (c *checker) Take(_ int, m *wire.Message, parts []wire.Part, at Place) error {
	if len(c.want) == 0 {
		c.t.Fatalf("a message that was not sent: %+v", m)
	}
	w := c.want[0]
	c.want = c.want[1:]
	w.m.Parts = uint32(len(w.parts))
	if *m != w.m {
		c.t.Fatalf("%+v came back as %+v", w.m, *m)
	}
	for i, b := range collect(parts, at) {
		if parts[i].Base != w.parts[i].Base || parts[i].Apart != w.parts[i].Apart || !bytes.Equal(b, w.parts[i].Data) {
			c.t.Fatalf("part %d of %d bytes came back changed", i, len(w.parts[i].Data))
		}
	}
	return nil
}

// Messages of all sizes come whole and in order, whatever is under way at the same time.
func TestMessages(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	c := &checker{t: t}
	l := NewLink(comm, c)
	sizes := []int{0, 1, 7, 8, 9, 4000, inlineMost, inlineMost + 1, 60_000, 65_536, 99_999, 100_000, 100_001, 300_000, 3_000_000}
	left := 2000
	if testing.Short() {
		left = 200
	}
	acknowledged := 0
	for n := 0; left > 0 || len(c.want) > 0 || l.Pending() > 0; {
		for burst := random.IntN(20); burst > 0 && left > 0 && len(c.want) < 50; burst-- {
			left--
			n++
			s := sent{m: wire.Message{
				Kind: wire.MsgTasks, Flags: uint16(random.IntN(3)), Chunk: random.Uint64(), Job: uint64(n), A: -int64(n), D: random.Int64(),
			}}
			for range random.IntN(4) {
				size := sizes[min(random.IntN(len(sizes)), random.IntN(len(sizes)))]
				b := buffer(max(size, 1))[:size]
				for i := range b {
					b[i] = byte(i*n + i>>8)
				}
				s.parts = append(s.parts, Part{Base: random.Uint64(), Apart: random.IntN(2) == 0, Data: b})
			}
			c.want = append(c.want, s)
			l.Send(1, s.m, s.parts, func() { acknowledged++ })
		}
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		if random.IntN(2) == 0 {
			if _, err := l.Wait(nil, 1e7, &Crowded); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := l.Progress(); err != nil {
			t.Fatal(err)
		}
		if left == 0 && len(c.want) == 0 && l.Pending() == 0 && acknowledged != n {
			t.Fatalf("%d of %d messages were told to be sent", acknowledged, n)
		}
	}
	l.Free()
}

// A wait ends by its time, by a descriptor and by the flag.
func TestWaitEnds(t *testing.T) {
	l := NewLink(comm, &checker{t: t})
	if w, err := l.Wait(nil, 1e6, &Crowded); err != nil || w != (Woken{}) {
		t.Fatalf("%+v, %v", w, err)
	}
	r, wr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = r.Close(), wr.Close() }()
	if _, err := wr.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if w, err := l.Wait([]int{int(r.Fd())}, -1, &Crowded); err != nil || !w.Ready {
		t.Fatalf("%+v, %v", w, err)
	}
	l.Dead.Set()
	if w, err := l.Wait(nil, -1, &Roomy); err != nil || !w.Dead {
		t.Fatalf("%+v, %v", w, err)
	}
	l.Free()
}

// A ring begins a wait anew, and is no reason to return; a stranger's datagram is neither.
func TestBell(t *testing.T) {
	l := NewLink(comm, &checker{t: t})
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = syscall.Close(fds[0]), syscall.Close(fds[1]) }()
	token := [TokenSize]byte{1, 2, 3}
	l.Hear(fds[0], token)
	wait := func() {
		t.Helper()
		if w, err := l.Wait(nil, 3e6, &Crowded); err != nil || w != (Woken{}) { // 3 ms: looks at the bell after 150 us
			t.Fatalf("%+v, %v", w, err)
		}
	}
	ring := func(b []byte) {
		t.Helper()
		if _, err := syscall.Write(fds[1], b); err != nil {
			t.Fatal(err)
		}
	}
	wait()
	began := l.since
	ring([]byte("somebody else"))
	ring(append(token[:], 0)) // longer
	wait()
	if l.bell.c.heard != 0 || began == 0 || l.since != began {
		t.Fatalf("a stranger rang: heard %d, waiting since %d, then %d", l.bell.c.heard, began, l.since)
	}
	ring(token[:])
	for l.bell.c.heard == 0 {
		wait()
	}
	if l.since <= began {
		t.Fatalf("the wait that began at %d goes on after a ring, since %d", began, l.since)
	}
	l.Hear(fds[0]+1000, token) // not open: a wait must not turn into looking without a pause
	for l.bell.c.fd != -1 {
		wait()
	}
	for n := range 4 { // nobody rings for who has just been sent something, and looks anyway, or need not look at once
		quiet, urgent := n&1 != 0, n&2 != 0
		rings := 0
		l.Ring, l.Quiet = func(rank int) { rings += rank }, 1<<62
		if quiet {
			l.Quiet = -1
		}
		if urgent {
			l.Wake(1)
		}
		l.Send(1, wire.Message{Kind: wire.MsgForget}, nil, nil)
		l.to.(*checker).want = append(l.to.(*checker).want, sent{m: wire.Message{Kind: wire.MsgForget}})
		for len(l.to.(*checker).want) > 0 || l.Pending() > 0 {
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Progress(); err != nil {
				t.Fatal(err)
			}
		}
		if rings != 0 != (quiet && urgent) {
			t.Fatalf("quiet %v, urgent %v: rang %d", quiet, urgent, rings)
		}
	}
	l.Free()
}

func TestLook(t *testing.T) {
	i, err := Look()
	if err != nil || !i.Initialized || i.Finalized || i.Size != 2 || i.Rank != 0 || i.Version == "" || !i.MainThread && i.Level < ThreadMultiple {
		t.Fatalf("%+v, %v", i, err)
	}
}
