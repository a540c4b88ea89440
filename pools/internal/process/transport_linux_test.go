//go:build linux && (amd64 || arm64)

package process

import (
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// The test binary is its own worker: started with the worker's variable it echoes records until the queue ends.
func TestMain(m *testing.M) {
	if os.Getenv(WorkerEnv) == "" {
		os.Exit(m.Run())
	}
	if !strings.HasSuffix(os.Getenv(WorkerEnv), ":3,4,5,6") || os.Getenv("SWG_TEST_EXIT") != "" {
		os.Exit(9)
	}
	var b [8]byte
	for {
		n, err := syscall.Read(3, b[:])
		if err == syscall.EINTR {
			continue
		}
		if n < 8 || err != nil {
			os.Exit(5)
		}
		if _, err := syscall.Write(4, b[:]); err != nil {
			os.Exit(6)
		}
	}
}

func open(t *testing.T, workers int) *Transport {
	t.Helper()
	tr, err := Open(workers, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	return tr
}

func start(t *testing.T, tr *Transport, i int) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.StartExec(i, []string{exe}, nil); err != nil {
		t.Fatal(err)
	}
}

// wait turns the crank until some worker has ended, and collects answers meanwhile.
func wait(t *testing.T, tr *Transport, answers *[]uint64, enough func(ended []int) bool) {
	t.Helper()
	for range 1000 {
		w, ended, err := tr.Wait(100)
		if err != nil {
			t.Fatal(err)
		}
		if w.Answers {
			if *answers, err = tr.Answers(*answers); err != nil {
				t.Fatal(err)
			}
		}
		if w.Exits != (len(ended) > 0) {
			t.Fatal("exits")
		}
		if enough(ended) {
			return
		}
	}
	t.Fatal("nothing happens")
}

func TestRecordsGoRound(t *testing.T) {
	tr := open(t, 2)
	start(t, tr, 0)
	start(t, tr, 1)
	var sent, got []uint64
	for i := range uint64(20_000) { // several times what a pipe holds
		sent = append(sent, i<<32|i*7+1)
	}
	for at := 0; len(got) < len(sent); {
		n, err := tr.Post(sent[at:])
		if err != nil {
			t.Fatal(err)
		}
		at += n
		had := len(got)
		wait(t, tr, &got, func([]int) bool { return len(got) > had })
	}
	slices.Sort(got)
	slices.Sort(sent)
	if !slices.Equal(got, sent) {
		t.Fatal("records were lost or changed")
	}
	if tr.QueuedWork() != 0 || tr.Alive() != 2 {
		t.Fatal(tr.QueuedWork(), tr.Alive())
	}
	tr.HangUp()
	left := map[int]bool{}
	wait(t, tr, &got, func(ended []int) bool {
		for _, i := range ended {
			if !left[i] {
				left[i] = true
				if x := tr.Bury(i); !x.Known || x.Code != 5 || x.Worker != i {
					t.Errorf("%+v", x)
				}
			}
		}
		return len(left) == 2
	})
	if tr.Alive() != 0 {
		t.Fatal("alive")
	}
}

func TestPipeFull(t *testing.T) {
	tr := open(t, 1)
	records := make([]uint64, 10_000)
	n, err := tr.Post(records)
	if err != nil || n != 8192 || tr.QueuedWork() != n {
		t.Fatalf("%d records in a pipe of 64 KiB, %d queued: %v", n, tr.QueuedWork(), err)
	}
	if n, err = tr.Post(records[:1]); n != 0 || err != nil {
		t.Fatal(n, err)
	}
}

func TestDeaths(t *testing.T) {
	tr := open(t, 1)
	for _, v := range []struct {
		kill syscall.Signal
		env  string
		code int
	}{{syscall.SIGKILL, "", -9}, {syscall.SIGTERM, "", -15}, {0, "1", 9}} {
		t.Setenv("SWG_TEST_EXIT", v.env)
		start(t, tr, 0)
		pid := tr.Workers[0].Pid
		if v.kill != 0 {
			if err := tr.Signal(0, v.kill); err != nil {
				t.Fatal(err)
			}
		}
		var none []uint64
		wait(t, tr, &none, func(ended []int) bool { return slices.Equal(ended, []int{0}) })
		if x := tr.Bury(0); !x.Known || x.Code != v.code || x.Pid != pid || x.WasRead != Starting {
			t.Fatalf("%+v", x)
		}
		if err := tr.Signal(0, syscall.SIGKILL); err != nil { // there is none: nothing happens
			t.Fatal(err)
		}
	}
}

// Somebody else's wait() took the exit status: the death is seen, the code is not known.
func TestDeathOfAStranger(t *testing.T) {
	tr := open(t, 1)
	exe, _ := os.Executable()
	pid, err := syscall.ForkExec(exe, []string{exe}, &syscall.ProcAttr{Env: append(os.Environ(), WorkerEnv+"=bad"), Files: []uintptr{0, 1, 2}})
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Attach(0, pid, true); err != nil {
		t.Fatal(err)
	}
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &ws, 0, nil); err != nil {
		t.Fatal(err)
	}
	var none []uint64
	wait(t, tr, &none, func(ended []int) bool { return len(ended) > 0 })
	if x := tr.Bury(0); x.Known || x.Pid != pid {
		t.Fatalf("%+v", x)
	}
	if err := tr.Attach(0, pid, true); err == nil {
		t.Fatal("attached a process that does not exist")
	}
}

func TestKickWakes(t *testing.T) {
	tr := open(t, 1)
	tr.Kick()
	tr.Kick() // one wake-up for both
	if w, ended, err := tr.Wait(10_000); w != (Wake{Kicked: true}) || ended != nil || err != nil {
		t.Fatal(w, ended, err)
	}
	if w, _, err := tr.Wait(0); w != (Wake{}) || err != nil {
		t.Fatal(w, err)
	}
}

func TestSpin(t *testing.T) {
	tr := open(t, 1)
	if tr.Spin(1000) {
		t.Fatal("answers out of nothing")
	}
	var record [8]byte
	if _, err := syscall.Write(tr.WorkerFds()[1], record[:]); err != nil {
		t.Fatal(err)
	}
	if !tr.Spin(1000) || !tr.Spin(0) {
		t.Fatal("an answer was not seen")
	}
}

func TestControlRecordsCome(t *testing.T) {
	tr := open(t, 1)
	var b [24]byte
	for i := range 3 {
		binary.LittleEndian.PutUint64(b[8*i:], uint64(i+1)<<56)
	}
	if _, err := syscall.Write(tr.WorkerFds()[1], b[:]); err != nil {
		t.Fatal(err)
	}
	got, err := tr.Answers(nil)
	if err != nil || !slices.Equal(got, []uint64{1 << 56, 2 << 56, 3 << 56}) {
		t.Fatal(got, err)
	}
	if got, err = tr.Answers(got[:0]); len(got) != 0 || err != nil {
		t.Fatal(got, err)
	}
}

// A forked child of the user's closes these numbers: until Close they must not become somebody else's.
func TestNumbersStayTaken(t *testing.T) {
	tr := open(t, 1)
	before := tr.MasterFds()
	tr.HangUp()
	tr.HangUp()
	if tr.MasterFds() != before {
		t.Fatal(before, tr.MasterFds())
	}
	for range 8 {
		fd, err := syscall.Open("/dev/null", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = syscall.Close(fd) }()
		if slices.Contains(before[:], fd) {
			t.Fatalf("descriptor %d of the transport was given to another file", fd)
		}
	}
	if n, err := syscall.Read(tr.WorkerFds()[0], make([]byte, 8)); n != 0 || err != nil {
		t.Fatal("workers must see the end of the queue:", n, err)
	}
}

func TestResetCellKeepsTheHeap(t *testing.T) {
	tr := open(t, 2)
	from, _ := tr.Heap(1)
	cell := tr.Cell(1)
	tr.ResetCell(1)
	if top := tr.Load(cell + CellHeapTop); top != from {
		t.Fatal(top, from)
	}
	tr.Store(cell+CellHeapTop, from+12345)
	tr.Store(cell+CellClaim, 7)
	tr.Store32(cell+CellPid, 1)
	tr.ResetCell(1)
	if tr.Load(cell+CellHeapTop) != from+12345 || tr.Load(cell+CellClaim) != 0 || tr.Load32(cell+CellPid) != 0 {
		t.Fatal("cell")
	}
}

func TestFutex(t *testing.T) {
	tr := open(t, 1)
	word := (*int32)(&[]int32{0}[0])
	if FutexWait(word, 1, 1e12) {
		t.Fatal("the word differs: no wait, no signal")
	}
	if FutexWait(word, 0, 1e6) {
		t.Fatal("the time is over: no signal")
	}
	FutexWake(word)
	Nap(1000)
	if tr.Workers[0].State != Absent || Monotonic() <= 0 {
		t.Fatal("state")
	}
}

func TestStartOfNothing(t *testing.T) {
	tr := open(t, 1)
	if err := tr.StartExec(0, nil, nil); err == nil {
		t.Fatal("no command")
	}
	if err := tr.StartExec(0, []string{"/does/not/exist"}, nil); err == nil || !strings.Contains(err.Error(), "/does/not/exist") {
		t.Fatal(err)
	}
	if tr.Alive() != 0 {
		t.Fatal("alive")
	}
}
