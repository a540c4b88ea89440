//go:build mpi && cgo

package mpix

/*
#include <mpi.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

static int x_init(int *level) { return MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, level); }
// Bytes that nobody has read from a pipe; 0 for other files.
static int x_unread(int fd) {
    struct stat st;
    int n = 0;
    return fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode) && ioctl(fd, FIONREAD, &n) == 0 ? n : 0;
}
static int x_finalized(void) { int f = 0; MPI_Finalized(&f); return f; }
static int x_level(void) { int l = -1; MPI_Query_thread(&l); return l; }
static int x_main(void) { int m = 0; MPI_Is_thread_main(&m); return m; }
static int x_version(char *text) { int n = 0; MPI_Get_library_version(text, &n); return n; }
static int x_text(int code, char *text) { int n = 0; MPI_Error_string(code, text, &n); return n; }
static int x_inter(MPI_Comm c) { int f = 0; MPI_Comm_test_inter(c, &f); return f; }
static MPI_Comm x_world(void) { return MPI_COMM_WORLD; }
static MPI_Comm x_comm(int f) { return MPI_Comm_f2c((MPI_Fint)f); }
static int x_idup(MPI_Comm c, MPI_Comm *d, MPI_Request *r) { return MPI_Comm_idup(c, d, r); }
static int x_test(MPI_Request *r, int *flag) { return MPI_Test(r, flag, MPI_STATUS_IGNORE); }
static int x_returns(MPI_Comm c) { return MPI_Comm_set_errhandler(c, MPI_ERRORS_RETURN); }
static int x_bcast(void *p, int n, MPI_Comm c) { return MPI_Bcast(p, n, MPI_BYTE, 0, c); }
static int x_gather(void *p, int n, void *all, MPI_Comm c) { return MPI_Gather(p, n, MPI_BYTE, all, n, MPI_BYTE, 0, c); }
// here: ranks on this node. The result is 1 everywhere if they are all there are, else 0.
static int x_node(MPI_Comm c, int *yes, int *ranks) {
    MPI_Comm node;
    int all = 0, here = 0, rc;
    if ((rc = MPI_Comm_split_type(c, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node))) return rc;
    MPI_Comm_size(c, &all);
    MPI_Comm_size(node, &here);
    *ranks = here;
    *yes = here == all;
    MPI_Comm_free(&node);
    return MPI_Allreduce(MPI_IN_PLACE, yes, 1, MPI_INT, MPI_MIN, c);
}
static int x_max_text(void) { return MPI_MAX_LIBRARY_VERSION_STRING > MPI_MAX_ERROR_STRING ? MPI_MAX_LIBRARY_VERSION_STRING : MPI_MAX_ERROR_STRING; }
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	mpi "github.com/sbromberger/gompi"
)

// check turns an MPI code into an error.
func check(what string, code C.int) error {
	if code == C.MPI_SUCCESS {
		return nil
	}
	text := (*C.char)(C.malloc(C.size_t(C.x_max_text()) + 1))
	defer C.free(unsafe.Pointer(text))
	n := C.x_text(code, text)
	return fmt.Errorf("%s: %s", what, C.GoStringN(text, n))
}

// Init initialises MPI unless that was done, and returns the level of thread support. It asks for all and takes what it gets.
func Init() (int, error) {
	if mpi.IsOn() {
		if C.x_finalized() != 0 {
			return 0, errors.New("MPI has been finalized in this process and cannot be initialised again")
		}
		return int(C.x_level()), nil
	}
	var level C.int
	return int(level), check("MPI_Init_thread", C.x_init(&level))
}

// Finalize ends MPI.
func Finalize() error {
	if mpi.IsOn() && C.x_finalized() == 0 {
		mpi.Stop()
	}
	return nil
}

// Look tells the state of MPI.
func Look() (Info, error) {
	i := Info{Initialized: mpi.IsOn(), Finalized: C.x_finalized() != 0, Level: -1}
	text := (*C.char)(C.malloc(C.size_t(C.x_max_text()) + 1))
	defer C.free(unsafe.Pointer(text))
	i.Version = strings.TrimSpace(C.GoStringN(text, C.x_version(text)))
	if i.Initialized && !i.Finalized {
		i.Level, i.MainThread = int(C.x_level()), C.x_main() != 0
		i.Rank, i.Size = mpi.WorldRank(), mpi.WorldSize()
	}
	return i, nil
}

// Abort ends the job with a code that is not 0. MPI_Abort may hang (MPICH under srun --mpi=pmi2 prints its message, then spins), so
// a watchdog ends this process after 2 s.
func Abort(code int) {
	if code == 0 {
		code = 1
	}
	go func() {
		time.Sleep(2 * time.Second)
		syscall.Exit(code)
	}()
	if mpi.IsOn() && C.x_finalized() == 0 {
		letRead(os.Stdout, os.Stderr)
		wrap(C.x_world()).Abort(code)
	}
	syscall.Exit(code)
}

// letRead waits, half a second at most, until a launcher has read what was written into these pipes: hydra drops what it finds there after
// an abort, and with it the last words of the program.
func letRead(files ...*os.File) {
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if !slices.ContainsFunc(files, func(f *os.File) bool { return C.x_unread(C.int(f.Fd())) > 0 }) {
			return
		}
	}
}

// wrap makes gompi's communicator of one of ours: its field is not exported, so it is written by its place.
func wrap(c C.MPI_Comm) *mpi.Communicator {
	w := &mpi.Communicator{}
	f, ok := reflect.TypeOf(*w).FieldByName("comm")
	if !ok || f.Type.Size() != unsafe.Sizeof(c) {
		panic("mpix: gompi's Communicator is not what v0.2.0 has")
	}
	*(*C.MPI_Comm)(unsafe.Add(unsafe.Pointer(w), f.Offset)) = c
	return w
}

// Comm is a communicator of our own: a duplicate, so that no message of ours is mistaken for one of the user's.
type Comm struct {
	// C memory: MPI writes there while the duplication is under way.
	mem        *dupState
	comm       C.MPI_Comm
	rank, size int
	done       bool
}

type dupState struct {
	comm C.MPI_Comm
	req  C.MPI_Request
}

// Dup starts to duplicate the communicator with this Fortran handle (mpi4py's py2f), -1: the world. Every rank of it has to do so.
func Dup(fortran int) (*Comm, error) {
	base := C.x_world()
	if fortran != -1 { // MPICH's handles are negative numbers, all but this one
		base = C.x_comm(C.int(fortran))
	}
	if C.x_inter(base) != 0 {
		return nil, errors.New("an inter-communicator has no master: pass an intra-communicator (see MPI_Intercomm_merge)")
	}
	w := wrap(base)
	c := &Comm{mem: (*dupState)(C.malloc(C.size_t(unsafe.Sizeof(dupState{})))), rank: w.Rank(), size: w.Size()}
	if err := check("MPI_Comm_idup", C.x_idup(base, &c.mem.comm, &c.mem.req)); err != nil {
		return nil, err
	}
	return c, nil
}

// Ready waits up to so many ns until every rank has come.
func (c *Comm) Ready(ns int64) (bool, error) {
	end := time.Now().Add(time.Duration(ns))
	for pause := time.Duration(0); !c.done; {
		var flag C.int
		if err := check("MPI_Comm_idup", C.x_test(&c.mem.req, &flag)); err != nil {
			return false, err
		}
		if flag != 0 {
			c.comm, c.done = c.mem.comm, true
			return true, check("MPI_Comm_set_errhandler", C.x_returns(c.comm))
		}
		if time.Now().After(end) {
			return false, nil
		}
		if pause > 0 {
			ts := syscall.NsecToTimespec(int64(pause))
			if syscall.Nanosleep(&ts, nil) == syscall.EINTR {
				return false, nil // the caller looks after its signals
			}
		} else {
			runtime.Gosched()
		}
		pause = min(pause+20*time.Microsecond, 2*time.Millisecond)
	}
	return true, nil
}

// Rank is this process's place in it.
func (c *Comm) Rank() int { return c.rank }

// Size is the number of ranks.
func (c *Comm) Size() int { return c.size }

// Node says how many of the ranks are on this machine, and whether that is all of them; collective.
func (c *Comm) Node() (ranks int, all bool, err error) {
	p := (*[2]C.int)(C.malloc(8))
	defer C.free(unsafe.Pointer(p))
	err = check("MPI_Comm_split_type", C.x_node(c.comm, &p[0], &p[1]))
	return int(p[1]), p[0] != 0, err
}

// Tell gives all ranks what rank 0 has in b; collective, and b is of one length everywhere.
func (c *Comm) Tell(b []byte) error {
	mem := buffer(len(b))
	defer release(mem)
	copy(mem, b)
	err := check("MPI_Bcast", C.x_bcast(pointer(mem), C.int(len(mem)), c.comm))
	copy(b, mem)
	return err
}

// Ask gives rank 0 what each rank has in b, in the order of ranks, and the others nothing; collective, and b is of one length everywhere.
func (c *Comm) Ask(b []byte) ([]byte, error) {
	mem := buffer((c.size + 1) * len(b))
	defer release(mem)
	copy(mem, b)
	all := mem[len(b):]
	if err := check("MPI_Gather", C.x_gather(pointer(mem), C.int(len(b)), pointer(all), c.comm)); err != nil || c.rank != 0 {
		return nil, err
	}
	return append([]byte(nil), all...), nil
}
