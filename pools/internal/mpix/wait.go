//go:build mpi && cgo

package mpix

/*
#define _GNU_SOURCE
#include <mpi.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif
#include <sys/socket.h>

// MPICH's MPI_STATUSES_IGNORE is an address that no object lies at, and GCC minds.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wstringop-overflow"
#endif

#define X_TRANSFER 2000000000 // ns: some times what a segment takes
// After the bell has rung: so many looks without a pause (MPICH finds a message at the second or third only), then pauses of so many ns,
// since the sender may need this very CPU to get the message out. (Three ranks on two CPUs, MPICH: with pauses of 5 us it came back 170 us
// later.)
#define X_LOOKS 8
#define X_SOON 20000
#define X_PIECE 50000         // ns: at some 256 KiB a look that is 5 GB/s; shorter pauses take the CPU from whoever copies

typedef struct { int64_t spin, floor, cap, idle_after, idle_cap, bell_cap; } x_tune;
typedef struct { int fd, heard; unsigned char token[16]; } x_bell; // fd -1: none; heard: it has rung, so it is heard
typedef struct { int message, done, ready, signal, dead, rc; } x_event;

static int64_t x_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int x_slack(long set) {
#ifdef __linux__
    if (set >= 0) return prctl(PR_SET_TIMERSLACK, set, 0, 0, 0);
    return prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);
#else
    return -1;
#endif
}

// Sleeps up to ns, or until a descriptor can be read. macOS has no ppoll.
static int x_pause(struct pollfd *fds, int nfds, int64_t ns) {
#ifdef __linux__
    struct timespec t = { ns / 1000000000, ns % 1000000000 };
    return ppoll(fds, nfds, &t, NULL);
#else
    return poll(fds, nfds, (int)((ns + 999999) / 1000000));
#endif
}

// Takes one ring; whether it was one of ours.
static int x_rung(x_bell *b) {
    unsigned char got[sizeof b->token + 1]; // so that a longer one is not ours
    if (recv(b->fd, got, sizeof got, MSG_DONTWAIT) != sizeof b->token || memcmp(got, b->token, sizeof b->token)) return 0;
    return b->heard = 1;
}

// x_wait returns when a message with this tag has come, a request is done, a descriptor can be read, a signal came, the flag is
// set or the time is over. Which requests are done is told in idx. since is when the caller began to wait, kept by him over several
// calls, so that the pauses go on growing. A ring of the bell begins the wait anew: it says that a message comes. fds has room for it.
//
// Plain MPI_Iprobe, not the matched one: matched probes are broken on some fabrics (mpi4py#15), and since one thread at a time
// receives here, nobody can take the message before MPI_Recv does.
static void x_wait(MPI_Comm comm, int tag, MPI_Request *rs, int nr, int *idx, struct pollfd *fds, int nfds, x_bell *bell,
                   const x_tune *t, int64_t *since, int64_t timeout, const int *dead, x_event *ev) {
    int64_t start = x_now();
    int round = 0, slack = -1, rung = 0;
    memset(ev, 0, sizeof *ev);
    if (!*since) *since = start;
    for (;;) {
        if (atomic_load_explicit((const _Atomic int *)dead, memory_order_acquire)) { ev->dead = 1; break; }
        if ((ev->rc = MPI_Iprobe(MPI_ANY_SOURCE, tag, comm, &ev->message, MPI_STATUS_IGNORE))) break;
        if (ev->message) break;
        if (nr) {
            int n = 0;
            if ((ev->rc = MPI_Testsome(nr, rs, &n, idx, MPI_STATUSES_IGNORE))) break;
            if (n > 0) { ev->done = n; break; }
        }
        int64_t now = x_now(), idle = now - *since, pause = 0;
        if (idle >= t->spin) rung = 0;
        if (rung > 1) {
            rung--;
            continue;
        }
        int n = nfds; // descriptors looked at: the bell is one more, in pauses only
        if (timeout >= 0 && now - start >= timeout) goto out;
        if (idle < t->spin && !rung) {
            if (++round % 4 == 0) sched_yield();
            if (!nfds || round % 16) continue;
        } else {
            int64_t cap = idle > t->idle_after ? t->idle_cap : t->cap;
            pause = idle >> 5;
            if (rung) {
                pause = X_SOON;
            } else if (bell->heard && !nr) { // it will ring: the looks are for the case that it does not
                pause = idle >> 2;
                cap = t->bell_cap;
            }
            if (pause < t->floor) pause = t->floor;
            if (pause > cap) pause = cap;
            // A long message moves in pieces, some at each call, and says nothing until it is through. A send that waits for a busy
            // rank looks the same: so not for ever.
            if (nr && idle < X_TRANSFER && pause > X_PIECE) pause = X_PIECE;
            if (timeout >= 0 && pause > start + timeout - now) pause = start + timeout - now;
            // The default slack makes a sleep of 1 us last 73 us.
            if (slack < 0 && (slack = x_slack(-1)) >= 0) x_slack(1);
            if (bell->fd >= 0) fds[n++] = (struct pollfd){ bell->fd, POLLIN, 0 };
        }
        int k = x_pause(fds, n, pause);
        if (k > 0 && n > nfds && fds[nfds].revents) {
            if (fds[nfds].revents != POLLIN) bell->fd = -1, bell->heard = 0; // closed, or broken: the looks are left
            else if (x_rung(bell)) *since = x_now(), rung = X_LOOKS;
            if (--k == 0) continue;
        }
        if (k > 0) { ev->ready = 1; break; }
        if (k < 0 && errno == EINTR) { ev->signal = 1; goto out; }
    }
    *since = 0;
out:
    if (slack >= 0) x_slack(slack);
}

static int x_isend(const void *p, int n, int dest, int tag, MPI_Comm c, MPI_Request *r) {
    return MPI_Isend(p, n, MPI_BYTE, dest, tag, c, r);
}
static int x_irecv(void *p, int n, int src, int tag, MPI_Comm c, MPI_Request *r) {
    return MPI_Irecv(p, n, MPI_BYTE, src, tag, c, r);
}
static int x_recv(void *p, int n, int src, int tag, MPI_Comm c) {
    return MPI_Recv(p, n, MPI_BYTE, src, tag, c, MPI_STATUS_IGNORE);
}
static int x_probe(MPI_Comm c, int tag, int *flag, int *src, int *n) {
    MPI_Status st;
    int rc = MPI_Iprobe(MPI_ANY_SOURCE, tag, c, flag, &st);
    if (rc || !*flag) return rc;
    *src = st.MPI_SOURCE;
    return MPI_Get_count(&st, MPI_BYTE, n);
}
static int x_one(MPI_Request *r, int *flag) { return MPI_Test(r, flag, MPI_STATUS_IGNORE); }
static int x_some(int nr, MPI_Request *rs, int *n, int *idx) { return MPI_Testsome(nr, rs, n, idx, MPI_STATUSES_IGNORE); }
*/
import "C"

import (
	"fmt"
	"time"
	"unsafe"
)

// requests are the operations under way, in C memory, where MPI keeps them.
type requests struct {
	rs    *C.MPI_Request
	idx   *C.int
	cap   int
	owner []*parcel
	done  int // of the last test, listed in idx and not settled yet
}

// parcel counts the operations of one message; when the last is done, then is called.
type parcel struct {
	left int
	then func()
}

func (q *requests) at(i int) *C.MPI_Request {
	return (*C.MPI_Request)(unsafe.Add(unsafe.Pointer(q.rs), uintptr(i)*unsafe.Sizeof(*q.rs)))
}

func (q *requests) index(i int) int {
	return int(*(*C.int)(unsafe.Add(unsafe.Pointer(q.idx), uintptr(i)*unsafe.Sizeof(*q.idx))))
}

// next is the place for one more request.
func (q *requests) next() *C.MPI_Request {
	if n := len(q.owner); n == q.cap {
		q.cap = max(64, 2*q.cap)
		q.rs = (*C.MPI_Request)(cRealloc(unsafe.Pointer(q.rs), q.cap*int(unsafe.Sizeof(*q.rs))))
		q.idx = (*C.int)(cRealloc(unsafe.Pointer(q.idx), q.cap*int(unsafe.Sizeof(*q.idx))))
	}
	return q.at(len(q.owner))
}

// add keeps the request that was put at next, unless it is done already.
func (q *requests) add(p *parcel) error {
	var flag C.int
	if err := check("MPI_Test", C.x_one(q.at(len(q.owner)), &flag)); err != nil {
		return err
	}
	if flag == 0 {
		p.left++
		q.owner = append(q.owner, p)
	}
	return nil
}

// test looks which operations are done.
func (q *requests) test() error {
	if len(q.owner) == 0 || q.done > 0 {
		return nil
	}
	var n C.int
	if err := check("MPI_Testsome", C.x_some(C.int(len(q.owner)), q.rs, &n, q.idx)); err != nil {
		return err
	}
	q.done = max(int(n), 0) // MPI_UNDEFINED is negative
	return nil
}

// settle tells the owners of what is done and takes it out of the list.
func (q *requests) settle() bool {
	n := q.done
	if n == 0 {
		return false
	}
	q.done = 0
	finished := make([]*parcel, 0, n)
	gone := make(map[int]bool, n)
	for i := range n {
		k := q.index(i)
		gone[k] = true
		p := q.owner[k]
		if p.left--; p.left == 0 && p.then != nil {
			finished = append(finished, p)
		}
	}
	kept := 0
	for i, p := range q.owner {
		if gone[i] {
			continue
		}
		if kept != i {
			*q.at(kept) = *q.at(i)
		}
		q.owner[kept] = p
		kept++
	}
	clear(q.owner[kept:])
	q.owner = q.owner[:kept]
	for _, p := range finished {
		p.then()
	}
	return true
}

func (q *requests) free() {
	cFree(unsafe.Pointer(q.rs))
	cFree(unsafe.Pointer(q.idx))
	*q = requests{}
}

var began = time.Now()

// monotonic is a clock [ns].
func monotonic() int64 { return int64(time.Since(began)) }

// bell is what the sender rings when it has a message for a receiver that may sleep.
type bell struct{ c C.x_bell }

// Hear makes waits look at a descriptor, where datagrams with the token come in.
func (l *Link) Hear(fd int, token [TokenSize]byte) {
	l.bell.c.fd, l.bell.c.heard = C.int(fd), 0
	for i, b := range token {
		l.bell.c.token[i] = C.uchar(b)
	}
}

// Wait returns when there is something to do for Progress, a descriptor can be read, a signal came or the time (ns, negative: no
// limit) is over. It calls nobody back: the caller may hold no lock meanwhile, but no other call that reaches MPI may be made. Of the
// time waited so far it remembers what the last calls waited in vain.
func (l *Link) Wait(fds []int, timeout int64, t *Tune) (Woken, error) {
	var polls [4]C.struct_pollfd // one more than there are fds
	for i, fd := range fds {
		polls[i] = C.struct_pollfd{fd: C.int(fd), events: C.POLLIN}
	}
	ct := C.x_tune{C.int64_t(t.Spin), C.int64_t(t.Floor), C.int64_t(t.Cap), C.int64_t(t.IdleAfter), C.int64_t(t.IdleCap), C.int64_t(t.BellCap)}
	since := C.int64_t(l.since)
	var ev C.x_event
	C.x_wait(l.comm.comm, tagEnvelope, l.reqs.rs, C.int(len(l.reqs.owner)), l.reqs.idx, &polls[0], C.int(len(fds)), &l.bell.c, &ct,
		&since, C.int64_t(timeout), (*C.int)(unsafe.Pointer(&l.Dead.word)), &ev)
	l.since = int64(since)
	l.reqs.done = int(ev.done)
	if err := check("waiting for messages", ev.rc); err != nil {
		return Woken{}, err
	}
	return Woken{Messages: ev.message != 0, Sent: ev.done != 0, Ready: ev.ready != 0, Signal: ev.signal != 0, Dead: ev.dead != 0}, nil
}

func (l *Link) isend(b []byte, dest, tag int, p *parcel) error {
	if err := check("MPI_Isend", C.x_isend(pointer(b), C.int(len(b)), C.int(dest), C.int(tag), l.comm.comm, l.reqs.next())); err != nil {
		return fmt.Errorf("to rank %d: %w", dest, err)
	}
	return l.reqs.add(p)
}

func (l *Link) irecv(b []byte, src, tag int, p *parcel) error {
	if err := check("MPI_Irecv", C.x_irecv(pointer(b), C.int(len(b)), C.int(src), C.int(tag), l.comm.comm, l.reqs.next())); err != nil {
		return fmt.Errorf("from rank %d: %w", src, err)
	}
	return l.reqs.add(p)
}

func (l *Link) recv(b []byte, src, tag int) error {
	return check("MPI_Recv", C.x_recv(pointer(b), C.int(len(b)), C.int(src), C.int(tag), l.comm.comm))
}

func (l *Link) probe() (n, src int, ok bool, err error) {
	var flag, from, count C.int
	err = check("MPI_Iprobe", C.x_probe(l.comm.comm, tagEnvelope, &flag, &from, &count))
	return int(count), int(from), flag != 0, err
}

func pointer(b []byte) unsafe.Pointer {
	if len(b) == 0 {
		return nil
	}
	return unsafe.Pointer(&b[0])
}
