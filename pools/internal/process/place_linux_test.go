//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

func place(t *testing.T, fd int) Place {
	t.Helper()
	p, err := PlaceOf(fd)
	if err != nil {
		t.Fatal(err)
	}
	if q := ParsePlace(p.Append(nil)); q != p {
		t.Fatalf("%+v, read back as %+v", p, q)
	}
	return p
}

func TestPlaceOfAPipe(t *testing.T) {
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	p := place(t, fds[0])
	again, err := p.Open(syscall.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(again)
	if _, err := syscall.Write(fds[1], []byte("x")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if n, err := syscall.Read(again, b); n != 1 || err != nil || b[0] != 'x' {
		t.Fatal(n, err, b)
	}
	syscall.Close(fds[1])
	if n, err := syscall.Read(again, b); n != 0 || err != nil {
		t.Fatal("no end of the queue:", n, err)
	}
	syscall.Close(fds[0])
	if _, err := p.Open(syscall.O_RDONLY); !errors.Is(err, ErrGone) {
		t.Fatal("a closed descriptor:", err)
	}
}

// A number that belongs to another file by now is not opened: here one whose opening would block.
func TestPlaceOfAnotherFile(t *testing.T) {
	fd, err := Probe([]byte("token"))
	if err != nil {
		t.Fatal(err)
	}
	p := place(t, fd)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	other, err := syscall.Open(fifo, syscall.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(other)
	if err := syscall.Dup3(other, fd, syscall.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if _, err := p.Open(syscall.O_RDONLY); !errors.Is(err, ErrGone) {
		t.Fatal("opened although it is another file:", err)
	}
}

func TestProbe(t *testing.T) {
	fd, err := Probe([]byte("the right one"))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	p := place(t, fd)
	if !p.Holds([]byte("the right")) || p.Holds([]byte("the wrong")) || p.Holds([]byte("the right one, and more")) {
		t.Fatal("the probe was not read as it was written")
	}
	if (Place{}).Holds([]byte{0}) {
		t.Fatal("a place that nobody has told holds something")
	}
}

// From another process, as a rank does it.
func TestPlaceFromAnotherProcess(t *testing.T) {
	fd, err := Probe([]byte("token"))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	where := filepath.Join(t.TempDir(), "place")
	if err := os.WriteFile(where, place(t, fd).Append(nil), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(os.Args[0], "-test.run=TestHelperOfPlace", "-test.v", "--", where).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestHelperOfPlace(t *testing.T) {
	args := os.Args
	if len(args) < 2 || args[len(args)-2] != "--" {
		t.Skip("run by TestPlaceFromAnotherProcess")
	}
	b, err := os.ReadFile(args[len(args)-1])
	if err != nil {
		t.Fatal(err)
	}
	if p := ParsePlace(b); p.Pid == os.Getpid() || !p.Holds([]byte("token")) {
		t.Fatalf("not found at %+v", p)
	}
}
