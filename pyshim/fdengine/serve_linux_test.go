//go:build linux && (amd64 || arm64)

package fdengine

import (
	"encoding/binary"
	"io"
	"math"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
)

// client is the other side, as Python plays it.
type client struct {
	t    *testing.T
	hub  *os.File
	done chan error
}

func newClient(t *testing.T) *client {
	t.Helper()
	engine, python, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t, python, make(chan error, 1)}
	go func() { c.done <- Serve(engine) }()
	t.Cleanup(c.end)
	return c
}

// end closes the inherited socket and waits for Serve.
func (c *client) end() {
	if c.hub == nil {
		return
	}
	if err := c.hub.Close(); err != nil {
		c.t.Error(err)
	}
	c.hub = nil
	select {
	case err := <-c.done:
		if err != nil {
			c.t.Error(err)
		}
	case <-time.After(20 * time.Second):
		c.t.Error("Serve goes on after the other end was closed")
	}
}

// connect makes a connection for one call at a time.
func (c *client) connect() int {
	c.t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := send(int(c.hub.Fd()), []byte("c"), fds[1:]); err != nil {
		c.t.Fatal(err)
	}
	if err := syscall.Close(fds[1]); err != nil {
		c.t.Fatal(err)
	}
	return fds[0]
}

func (c *client) ask(conn int, name string, args ...int64) (int64, []byte) {
	c.t.Helper()
	if err := send(conn, message(name, args...), nil); err != nil {
		c.t.Fatal(err)
	}
	return c.reply(conn)
}

func (c *client) reply(conn int) (int64, []byte) {
	c.t.Helper()
	var b [4096]byte
	n, passed, err := receive(conn, b[:])
	if err != nil {
		c.t.Fatal(err)
	}
	if passed >= 0 {
		c.close(passed)
	}
	return int64(binary.LittleEndian.Uint64(b[:])), append([]byte(nil), b[8:n]...)
}

func (c *client) close(fds ...int) {
	c.t.Helper()
	for _, fd := range fds {
		if err := syscall.Close(fd); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *client) open(conn int) (pool, port int64) {
	c.t.Helper()
	pool, text := c.ask(conn, "swg_open", pools.ABI, 1, 0, 0)
	if pool <= 0 {
		c.t.Fatalf("open: %d %s", pool, text)
	}
	port, text = c.ask(conn, "swg_port_open", pool)
	if port <= 0 {
		c.t.Fatalf("port: %d %s", port, text)
	}
	return pool, port
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestNothingIsLeftAfterTheOtherEndHasGone(t *testing.T) {
	first := newClient(t) // what Go's runtime opens once
	first.close(first.connect())
	first.end()
	before, goroutines := descriptors(t), runtime.NumGoroutine()
	c := newClient(t)
	idle, busy := c.connect(), c.connect()
	_, port := c.open(idle)
	if err := send(busy, message("swg_step", port, 0, 3), nil); err != nil { // waits for a kick
		t.Fatal(err)
	}
	c.end()
	c.close(idle, busy)
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	if after := runtime.NumGoroutine(); after > goroutines {
		t.Errorf("%d goroutines before, %d after", goroutines, after)
	}
}

// Whether the engine has read the request or not: the end of the connection is the end of the call.
func TestGivingUpACall(t *testing.T) {
	c := newClient(t)
	conn := c.connect()
	pool, port := c.open(conn)
	for range 50 {
		busy := c.connect()
		// For as long as a step can be told to wait.
		if err := send(busy, message("swg_step", port, 0, 3|math.MaxInt32&^255), nil); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Shutdown(busy, syscall.SHUT_WR); err != nil {
			t.Fatal(err)
		}
		other := c.connect()
		if err := send(other, message("swg_kick", port), nil); err != nil {
			t.Fatal(err)
		}
		c.close(other) // its reply is for nobody
		if found, text := c.reply(busy); found < 0 {
			t.Fatalf("step: %d %s", found, text)
		}
		var b [64]byte
		if n, _, err := receive(busy, b[:]); err != io.EOF {
			t.Fatalf("after the reply: %x %v", b[:n], err)
		}
		c.close(busy)
	}
	if v, text := c.ask(conn, "swg_port_close", port); v != 0 {
		t.Fatalf("close: %d %s", v, text)
	}
	if v, text := c.ask(conn, "swg_free", pool); v != 0 {
		t.Fatalf("free: %d %s", v, text)
	}
	c.close(conn)
}

func TestWrongRequestsAreAnswered(t *testing.T) {
	c := newClient(t)
	conn := c.connect()
	for _, r := range []struct {
		name string
		args []int64
		code pools.Code
		says string
	}{
		{"swg_nonsense", nil, pools.CodeUnsupported, "swg_nonsense"},
		{"swg_close", nil, pools.CodeArgument, "takes 1 arguments, not 0"},
		{"swg_close", []int64{5}, pools.CodeHandle, "handle 5"},
		{"swg_step", []int64{1, 1 << 40, 0}, pools.CodeArgument, "no int32"},
		{"swg_step", []int64{1, 0, 0}, pools.CodeHandle, "handle 1"},
		{"swg_open", []int64{pools.ABI + 1, 1, 0, 0}, pools.CodeArgument, "another version"},
		{"swg_open", []int64{pools.ABI, 0, 0, 0}, pools.CodeArgument, "number of workers"},
		{"swg_open", []int64{pools.ABI, 1, 0, -1}, pools.CodeArgument, "tasks per worker"},
		{"swg_open", []int64{pools.ABI, 1, 4096, 0}, pools.CodeMemory, "arena"},
	} {
		if v, text := c.ask(conn, r.name, r.args...); v != int64(r.code) || !strings.Contains(string(text), r.says) {
			t.Errorf("%s%v: %d %q", r.name, r.args, v, text)
		}
	}
	if err := send(conn, []byte{9}, nil); err != nil {
		t.Fatal(err)
	}
	if v, text := c.reply(conn); v != int64(pools.CodeArgument) {
		t.Errorf("a broken message: %d %q", v, text)
	}
	if v, _ := c.ask(conn, "swg_abi"); v != pools.ABI {
		t.Errorf("after all that: %d", v)
	}
	c.close(conn)
}

// The connection ends; others and the session go on.
func TestTooLongAMessageEndsItsConnection(t *testing.T) {
	c := newClient(t)
	conn, other := c.connect(), c.connect()
	if err := send(conn, make([]byte, maxRequest+1), nil); err != nil {
		t.Fatal(err)
	}
	var b [64]byte
	if n, _, err := receive(conn, b[:]); err == nil {
		t.Errorf("answered with %x", b[:n])
	}
	if v, _ := c.ask(other, "swg_abi"); v != pools.ABI {
		t.Errorf("the other connection: %d", v)
	}
	c.close(conn, other)
}

func TestMessageWithoutADescriptorIsPassedOver(t *testing.T) {
	c := newClient(t)
	if err := send(int(c.hub.Fd()), []byte("c"), nil); err != nil {
		t.Fatal(err)
	}
	conn := c.connect()
	if v, _ := c.ask(conn, "swg_abi"); v != pools.ABI {
		t.Error(v)
	}
	c.close(conn)
}

func TestDescriptorsThatNoCallTakesAreClosed(t *testing.T) {
	c := newClient(t)
	conn := c.connect()
	if v, _ := c.ask(conn, "swg_abi"); v != pools.ABI {
		t.Fatal(v)
	}
	before := descriptors(t)
	for range 3 {
		if err := send(conn, message("swg_abi"), []int{conn, conn, conn}); err != nil {
			t.Fatal(err)
		}
		if v, _ := c.reply(conn); v != pools.ABI {
			t.Error(v)
		}
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	c.close(conn)
}

func BenchmarkCall(b *testing.B) {
	engine, python, err := Pair()
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- Serve(engine) }()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET, 0)
	if err != nil {
		b.Fatal(err)
	}
	if err := send(int(python.Fd()), []byte("c"), fds[1:]); err != nil {
		b.Fatal(err)
	}
	_ = syscall.Close(fds[1])
	request, reply := message("swg_abi"), make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		if err := send(fds[0], request, nil); err != nil {
			b.Fatal(err)
		}
		if _, _, err := receive(fds[0], reply); err != nil {
			b.Fatal(err)
		}
	}
	_ = syscall.Close(fds[0])
	if err := python.Close(); err != nil {
		b.Fatal(err)
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}
