//go:build mpi && cgo

package mpix

/*
#include <mpi.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

typedef struct {
    MPI_Comm comm;
    long pause; // ns
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t end;
    int ended;
} x_nudger;

static int x_nudge(MPI_Comm c) { int f; return MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, c, &f, MPI_STATUS_IGNORE); }

static void *x_nudging(void *p) {
    x_nudger *n = p;
    struct timespec next;
    pthread_mutex_lock(&n->lock);
    while (!n->ended) {
        clock_gettime(CLOCK_REALTIME, &next);
        next.tv_nsec += n->pause;
        next.tv_sec += next.tv_nsec / 1000000000;
        next.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&n->end, &n->lock, &next);
        if (!n->ended && x_nudge(n->comm)) break; // it says so again to whoever needs MPI for more than this
    }
    pthread_mutex_unlock(&n->lock);
    return NULL;
}

// NULL: no thread can be started.
static x_nudger *x_keep_nudging(MPI_Comm c, long pause) {
    x_nudger *n = calloc(1, sizeof *n);
    if (!n) return NULL;
    n->comm = c;
    n->pause = pause;
    pthread_mutex_init(&n->lock, NULL);
    pthread_cond_init(&n->end, NULL);
    sigset_t all, before; // signals are for the user's threads
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&n->thread, NULL, x_nudging, n);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc) {
        free(n);
        return NULL;
    }
    return n;
}

static void x_stop_nudging(x_nudger *n) {
    pthread_mutex_lock(&n->lock);
    n->ended = 1;
    pthread_cond_signal(&n->end);
    pthread_mutex_unlock(&n->lock);
    pthread_join(n->thread, NULL);
    pthread_cond_destroy(&n->end);
    pthread_mutex_destroy(&n->lock);
    free(n);
}
*/
import "C"

import (
	"errors"
	"time"
)

// Nudge lets MPI go on with what is under way in this process, such as the user's own messages, which it does inside calls only.
func (c *Comm) Nudge() error { return check("MPI_Iprobe", C.x_nudge(c.comm)) }

// KeepNudging does so after each pause until stop is called, on a thread of its own: MPI must allow that (ThreadMultiple). A thread of C's,
// for a goroutine that wakes every few milliseconds keeps Go's monitor awake with it, which took 2 to 4 % of a CPU.
func (c *Comm) KeepNudging(pause time.Duration) (stop func(), err error) {
	n := C.x_keep_nudging(c.comm, C.long(pause))
	if n == nil {
		return nil, errors.New("no thread can be started")
	}
	return func() { C.x_stop_nudging(n) }, nil
}
