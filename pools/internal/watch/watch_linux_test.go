//go:build linux && (amd64 || arm64)

package watch

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"
)

const page = 4096

func open(t *testing.T) *Watcher {
	t.Helper()
	w, err := Open()
	if err != nil {
		t.Skip("this kernel does not watch writes: ", err)
	}
	t.Cleanup(func() { _ = w.Close() })
	if !Harmless(1000) {
		t.Skip("this process was started with a descriptor that may stand for anything")
	}
	return w
}

// memory of n bytes, all of it touched.
func memory(t *testing.T, n, flags int) []byte {
	t.Helper()
	b, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|flags)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Munmap(b) })
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

func arm(t *testing.T, w *Watcher, b []byte) *Range {
	t.Helper()
	r, err := w.Arm(b)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Unwritten(1000) {
		t.Fatal("written as soon as it was armed")
	}
	return r
}

// TestEachPage: a byte written anywhere in a range's pages is noticed, one beside them is not; a read is no write.
func TestEachPage(t *testing.T) {
	w := open(t)
	all := memory(t, 64*page, syscall.MAP_PRIVATE)
	b := all[3*page+100 : 60*page-50]
	before, behind := Edges(b)
	if len(before) != page-100 || len(behind) != page-50 {
		t.Fatal("edges of ", len(before), len(behind))
	}
	for at := 0; at < len(b); at += 1 + rand.IntN(page) {
		r := arm(t, w, b)
		sum := 0
		for _, x := range all {
			sum += int(x)
		}
		all[0], all[63*page] = byte(sum), 1
		if !r.Unwritten(1000) {
			t.Fatal("a read, or a write beside it")
		}
		b[at]++
		if edge := at < len(before) || at >= len(b)-len(behind); r.Unwritten(1000) != edge {
			t.Fatalf("a write to byte %d of %d", at, len(b))
		}
		b[at]-- // what is there again was still written
	}
}

func TestHugePages(t *testing.T) {
	w := open(t)
	const huge = 2 << 20
	all := memory(t, 6*huge, syscall.MAP_PRIVATE)
	if err := syscall.Madvise(all, syscall.MADV_HUGEPAGE); err != nil {
		t.Skip(err)
	}
	for _, b := range [][]byte{all, all[huge/2 : 5*huge+3*page]} {
		for range 20 {
			r := arm(t, w, b)
			b[page+rand.IntN(len(b)-2*page)]++
			if r.Unwritten(1000) {
				t.Fatal("a write to a huge page")
			}
		}
	}
}

// TestAllWays: whoever writes, and however, it is noticed.
func TestAllWays(t *testing.T) {
	w := open(t)
	b := memory(t, 16*page, syscall.MAP_PRIVATE)
	at := b[5*page+8 : 5*page+16]
	file := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(file, make([]byte, 1<<16), 0o600); err != nil {
		t.Fatal(err)
	}
	read := func(flags int, to []byte) func() error {
		return func() error {
			fd, err := syscall.Open(file, syscall.O_RDONLY|flags, 0)
			if err != nil {
				return err
			}
			defer func() { _ = syscall.Close(fd) }()
			_, err = syscall.Read(fd, to)
			return err
		}
	}
	var ways = map[string]func() error{
		"read":        read(0, at),
		"direct I/O":  read(syscall.O_DIRECT, b[4*page:6*page]),
		"own memory":  func() error { return writeMem(os.Getpid(), at) },
		"a neighbour": func() error { return exec.Command("sh", "-c", "exit 0").Run() }, // a fork writes nothing here
		"discarded":   func() error { return syscall.Madvise(b[4*page:6*page], syscall.MADV_DONTNEED) },
		"process_vm_writev": func() error {
			local := syscall.Iovec{Base: &[]byte("12345678")[0], Len: 8}
			remote := syscall.Iovec{Base: &at[0], Len: 8}
			_, _, e := syscall.Syscall6(sysProcessVMWritev, uintptr(os.Getpid()), uintptr(unsafe.Pointer(&local)), 1,
				uintptr(unsafe.Pointer(&remote)), 1, 0)
			if e != 0 {
				return e
			}
			return nil
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			for i := range b {
				b[i] = 1
			}
			r := arm(t, w, b)
			if err := way(); err != nil {
				t.Skip(err)
			}
			if r.Unwritten(1000) != (name == "a neighbour") {
				t.Fatal("unwritten: ", r.Unwritten(1000))
			}
		})
	}
}

func writeMem(pid int, at []byte) error {
	mem, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = mem.Close() }()
	_, err = mem.WriteAt([]byte("12345678"), int64(uintptr(unsafe.Pointer(&at[0]))))
	return err
}

// TestOtherMemory: what comes to lie at the place of an armed range is not taken for it.
func TestOtherMemory(t *testing.T) {
	w := open(t)
	for _, flags := range []int{syscall.MAP_PRIVATE, syscall.MAP_SHARED} {
		b := memory(t, 8*page, syscall.MAP_PRIVATE)
		r := arm(t, w, b)
		// The middle is replaced in place.
		_, _, e := syscall.Syscall6(syscall.SYS_MMAP, uintptr(unsafe.Pointer(&b[2*page])), 2*page, syscall.PROT_READ|syscall.PROT_WRITE,
			uintptr(syscall.MAP_ANON|syscall.MAP_FIXED|flags), ^uintptr(0), 0)
		if e != 0 {
			t.Fatal(e)
		}
		if r.Unwritten(1000) {
			t.Fatal("new memory that nobody has touched")
		}
		for i := range b {
			_ = b[i]
		}
		if r.Unwritten(1000) {
			t.Fatal("new memory, read")
		}
	}
}

func TestOverlaps(t *testing.T) {
	w := open(t)
	b := memory(t, 32*page, syscall.MAP_PRIVATE)
	first := arm(t, w, b)
	b[5*page]++
	second := arm(t, w, b) // clears the mark that tells of the write
	if first.Unwritten(1000) || !second.Unwritten(1000) {
		t.Fatal("a write before the same range was armed again")
	}
	part := arm(t, w, b[4*page:8*page])
	if second.Unwritten(1000) {
		t.Fatal("a part of it was armed, and it is watched still")
	}
	one, two := arm(t, w, b[10*page:12*page]), arm(t, w, b[12*page:14*page])
	if !part.Unwritten(1000) || !one.Unwritten(1000) {
		t.Fatal("neighbours")
	}
	one.Disarm()
	one.Disarm()
	if one.Unwritten(1000) || !two.Unwritten(1000) {
		t.Fatal("disarmed")
	}
	other, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Arm(b[12*page : 13*page]); !errors.Is(err, syscall.EBUSY) {
		t.Fatal("two watchers on one page: ", err)
	}
	_ = w.Close()
	if two.Unwritten(1000) {
		t.Fatal("closed")
	}
	arm(t, other, b)
	_ = other.Close()
}

// TestRefused: memory that others can write to without a trace here.
func TestRefused(t *testing.T) {
	w := open(t)
	if _, err := w.Arm(memory(t, 8*page, syscall.MAP_SHARED)); !errors.Is(err, ErrRange) {
		t.Error("shared memory: ", err)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if err := file.Truncate(8 * page); err != nil {
		t.Fatal(err)
	}
	b, err := syscall.Mmap(int(file.Fd()), 0, 8*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Munmap(b) }()
	if _, err := w.Arm(b); !errors.Is(err, ErrRange) {
		t.Error("a file: ", err)
	}
	if _, err := w.Arm(memory(t, page, syscall.MAP_PRIVATE)[1:]); !errors.Is(err, ErrRange) {
		t.Error("no whole page: ", err)
	}
	hole := memory(t, 8*page, syscall.MAP_PRIVATE)
	if _, _, e := syscall.Syscall(syscall.SYS_MUNMAP, uintptr(unsafe.Pointer(&hole[2*page])), page, 0); e != 0 {
		t.Fatal(e)
	}
	if _, err := w.Arm(hole); !errors.Is(err, ErrRange) {
		t.Error("a hole: ", err)
	}
}

// TestHarmless: a descriptor that can hold pages pinned is noticed while it is open.
func TestHarmless(t *testing.T) {
	w := open(t)
	b := memory(t, 8*page, syscall.MAP_PRIVATE)
	r := arm(t, w, b)
	var fds [2]int
	for range 300 { // more than one buffer of names
		if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		defer func(fds [2]int) { _, _ = syscall.Close(fds[0]), syscall.Close(fds[1]) }(fds)
	}
	if r.Unwritten(500) {
		t.Error("600 descriptors and more were looked at, where 500 are the limit")
	}
	harmful := map[string]func() (int, error){
		"io_uring": func() (int, error) {
			var params [120]byte
			fd, _, e := syscall.Syscall(425, 4, uintptr(unsafe.Pointer(&params)), 0)
			if e != 0 {
				return 0, e
			}
			return int(fd), nil
		},
		"packet socket": func() (int, error) { return syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW, 0) },
		"fuse":          func() (int, error) { return syscall.Open("/dev/fuse", syscall.O_RDWR, 0) },
		"kvm":           func() (int, error) { return syscall.Open("/dev/kvm", syscall.O_RDWR, 0) },
		"mem":           func() (int, error) { return syscall.Open("/dev/mem", syscall.O_RDONLY, 0) },
	}
	for name, make := range harmful {
		t.Run(name, func(t *testing.T) {
			fd, err := make()
			if err != nil {
				t.Skip(err)
			}
			if r.Unwritten(1000) {
				t.Error("unwritten, with ", name)
			}
			_ = syscall.Close(fd)
			if !r.Unwritten(1000) {
				t.Error("closed, and still in doubt")
			}
		})
	}
	harmlessOnes := []string{"/dev/null", "/dev/zero", "/dev/urandom", os.Args[0], t.TempDir()}
	for _, name := range harmlessOnes {
		fd, err := syscall.Open(name, syscall.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if !Harmless(1000) {
			t.Error(name)
		}
		_ = syscall.Close(fd)
	}
	for major, ok := range map[uint32]bool{1: true, 5: true, 136: true, 10: false, 195: false, 226: false, 231: false} {
		if harmlessDevice(major, 3) != ok {
			t.Errorf("device %d:3", major)
		}
	}
	const rds, xdp = 21, 44
	if harmlessFamily(rds) || harmlessFamily(xdp) || !harmlessFamily(syscall.AF_INET6) {
		t.Error("families of sockets")
	}
	if harmlessDevice(1, 1) || harmlessName("anon_inode:[io_uring]") || harmlessName("anon_inode:kvm-vm") || harmlessName("") {
		t.Error("memory, io_uring, kvm")
	}
}

func TestMappings(t *testing.T) {
	for line, private := range map[string]bool{
		"7f00-7f10 rw-p 00000000 00:00 0 ":                         true,
		"7f00-7f10 rw-p 00000000 00:00 0    [heap]":                true,
		"7f00-7f10 rw-p 00000000 00:00 0    [anon: Go: heap]":      true,
		"7f00-7f10 rw-s 00000000 00:00 0 ":                         false,
		"7f00-7f10 rw-s 00000000 00:01 17   /dev/zero (deleted)":   false,
		"7f00-7f10 rw-p 00000000 00:06 99   /dev/nvidia0":          false,
		"7f00-7f10 r--p 00000000 00:00 0 ":                         false,
		"7f00-7f10 rw-p 00000000 00:00 0    anon_inode:[vfio-dev]": false,
	} {
		m, err := parseMapping(line)
		if err != nil || m.start != 0x7f00 || m.end != 0x7f10 || m.private != private {
			t.Errorf("%q: %+v, %v", line, m, err)
		}
	}
	for _, line := range []string{"", "x", "7f00 rw-p 0 00:00 0", "7f00-xyz rw-p 0 00:00 0"} {
		if _, err := parseMapping(line); err == nil {
			t.Errorf("%q was read", line)
		}
	}
}

func BenchmarkUnwritten(b *testing.B) {
	w, err := Open()
	if err != nil {
		b.Skip(err)
	}
	defer func() { _ = w.Close() }()
	for _, advice := range []int{syscall.MADV_NOHUGEPAGE, syscall.MADV_HUGEPAGE} {
		m, _ := syscall.Mmap(-1, 0, 10<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
		_ = syscall.Madvise(m, advice)
		for i := range m {
			m[i] = 1
		}
		r, err := w.Arm(m)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(map[int]string{syscall.MADV_NOHUGEPAGE: "small", syscall.MADV_HUGEPAGE: "huge"}[advice], func(b *testing.B) {
			for b.Loop() {
				if !r.Unwritten(1000) {
					b.Fatal()
				}
			}
		})
	}
	for range 100 {
		var fds [2]int
		_ = syscall.Pipe2(fds[:], syscall.O_CLOEXEC)
		fd, _ := syscall.Open(os.Args[0], syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		defer func() { _, _, _ = syscall.Close(fds[0]), syscall.Close(fds[1]), syscall.Close(fd) }()
	}
	b.Run("harmless, 300 more", func(b *testing.B) {
		for b.Loop() {
			Harmless(1000)
		}
	})
}
