package lifeline

import (
	"bytes"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// soon fails the test if nothing comes in time; the limit only bounds a hang.
func soon[T any](t *testing.T, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(20 * time.Second):
		t.Fatal("waited in vain for " + what)
	}
	return v
}

func server(t *testing.T, oneNode bool) (*Server, chan Peer) {
	t.Helper()
	dead := make(chan Peer, 8)
	s, err := Listen(oneNode, func(p Peer) { dead <- p })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, dead
}

func TestWorkerDies(t *testing.T) {
	for _, oneNode := range []bool{true, false} {
		s, dead := server(t, oneNode)
		k, err := Dial(s.Addresses(), s.Token, 3, func() {})
		if err != nil {
			t.Fatal(err)
		}
		_ = k.conn.Close() // as the kernel does when the process is gone
		host, _ := os.Hostname()
		if got := soon(t, dead, "the death"); got != (Peer{3, os.Getpid(), host}) {
			t.Fatalf("%v died, want rank 3, this process", got)
		}
	}
}

func TestMasterDies(t *testing.T) {
	s, _ := server(t, true)
	dead := make(chan bool, 1)
	k, err := Dial(s.Addresses(), s.Token, 1, func() { dead <- true })
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	for {
		s.mu.Lock()
		c := s.conns[1]
		s.mu.Unlock()
		if c != nil {
			_ = c.Close()
			break
		}
		time.Sleep(time.Millisecond)
	}
	soon(t, dead, "the death")
}

func TestCleanEnds(t *testing.T) {
	s, dead := server(t, true)
	gone := make(chan bool, 1)
	first, err := Dial(s.Addresses(), s.Token, 1, func() { gone <- true })
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	first.Close()
	second, err := Dial(s.Addresses(), s.Token, 2, func() { gone <- true })
	if err != nil {
		t.Fatal(err)
	}
	s.Close() // waits for all that watch
	second.Close()
	if len(dead) > 0 || len(gone) > 0 {
		t.Fatal("a clean end was taken for a death")
	}
}

func TestStrangerIsIgnored(t *testing.T) {
	s, dead := server(t, true)
	c, err := net.Dial("tcp", s.Addresses())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.Write(make([]byte, helloSize))
	if endsCleanly(c) { // the server hangs up
		t.Fatal("a farewell for a stranger")
	}
	s.Close()
	if len(dead) > 0 {
		t.Fatal("a stranger's end was taken for a death")
	}
}

func TestNobodyListens(t *testing.T) {
	s, _ := server(t, true)
	at := s.Addresses()
	s.Close()
	if _, err := Dial(at, s.Token, 1, func() {}); err == nil {
		t.Fatal("connected to nobody")
	}
}

func TestBell(t *testing.T) {
	for _, oneNode := range []bool{true, false} {
		s, _ := server(t, oneNode)
		k, err := Dial(s.Addresses(), s.Token, 5, func() {})
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		s.Ring(4)          // nobody has that bell
		for i := range 2 { // the first ring is the server's own, that the worker may rely on the next
			rung := make(chan []byte, 1)
			go func() {
				got := make([]byte, 64)
				n, err := syscall.Read(k.Bell, got)
				for err == syscall.EAGAIN || err == syscall.EINTR {
					time.Sleep(time.Millisecond)
					n, err = syscall.Read(k.Bell, got)
				}
				rung <- got[:max(n, 0)]
			}()
			if got := soon(t, rung, "a ring"); !bytes.Equal(got, s.Token[:]) {
				t.Fatalf("ring %d brought %d bytes, want the token", i, len(got))
			}
			s.Ring(5)
		}
	}
}

func TestNoBellAfterTheEnd(t *testing.T) {
	s, _ := server(t, true)
	k, err := Dial(s.Addresses(), s.Token, 1, func() {})
	if err != nil {
		t.Fatal(err)
	}
	k.Close()
	if _, err := syscall.Read(k.Bell, make([]byte, 1)); err != syscall.EBADF {
		t.Fatalf("the bell's descriptor is still open: %v", err)
	}
	for s.Left(time.Second) != 0 {
	}
	s.Ring(1) // it has gone
}
