/* schwimmbad.h - the C interface of the schwimmbad-go engine.
 *
 * The engine feeds a pool of worker processes on this machine. The caller encodes tasks into shared memory, the engine
 * decides how many tasks go into a chunk, hands chunks to whichever worker is free, watches the workers and says
 * which results can be read. docs/PROTOCOL.md tells the layout of the shared memory and what a worker does.
 *
 * Rules
 *  - Handles are integers, never pointers; a stale handle is an error, not a crash.
 *  - Every function returns >= 0, or a negative code (SWG_E_...); swg_last_error() then gives a sentence that stays valid
 *    until the next call of the same thread.
 *  - The engine owns all memory it reports. The caller owns its arguments; none is kept after the call.
 *  - All functions may be called from any thread. A port is used by one thread at a time.
 *  - After fork() the child must not call any function: the engine does not live on there.
 */
#ifndef SCHWIMMBAD_H
#define SCHWIMMBAD_H
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#define SWG_ABI 1

/* Codes. */
#define SWG_E_INTERNAL (-1)     /* a fault of the engine itself */
#define SWG_E_HANDLE (-2)       /* the handle is unknown or was closed */
#define SWG_E_ARGUMENT (-3)     /* an argument is out of range */
#define SWG_E_MEMORY (-4)       /* shared memory is used up or refused */
#define SWG_E_SYSTEM (-5)       /* a system call failed */
#define SWG_E_INIT (-6)         /* a worker's initializer failed */
#define SWG_E_START (-7)        /* workers die before they are ready */
#define SWG_E_TERMINATED (-8)   /* the pool was closed or terminated */
#define SWG_E_UNSUPPORTED (-9)  /* this platform has no such transport */
#define SWG_E_PORTS (-10)       /* more concurrent callers than ports */
#define SWG_E_MPI (-11)         /* MPI is not running, or reported an error */
#define SWG_E_LOST (-12)        /* the process of an MPI rank has died; the job cannot go on */

typedef struct swg_config {
    uint32_t abi;          /* SWG_ABI */
    uint32_t workers;      /* >= 1 */
    uint64_t arena_bytes;  /* address range for payloads, 0: four times the memory of the machine */
    uint64_t max_tasks;    /* a worker is replaced after so many tasks, 0: never */
    const char *command;   /* arguments of the program to start as worker, each ended by NUL, the list by an empty one;
                              NULL: the caller starts workers itself and calls swg_attach */
} swg_config;

typedef struct swg_info {
    uint64_t address;      /* where the arena is mapped in this process */
    uint64_t length;       /* its length in bytes */
    int32_t worker_fds[4]; /* a worker inherits: work, answer, life, arena */
    int32_t master_fds[6]; /* any other child process must close these; -1: none */
} swg_info;

typedef struct swg_desk {
    int32_t index;                /* of the worker in the master's pool */
    int32_t work, answer, memory; /* descriptors: work queue, answers, arena */
} swg_desk;

typedef struct swg_stats {
    int64_t tasks, chunks, retries, lost, retired, bytes_in, bytes_out, busy_nanos, workers, in_flight, jobs;
} swg_stats;

typedef struct swg_mpi_info {
    int32_t initialized, finalized;
    int32_t level;         /* of thread support, MPI_THREAD_SINGLE 0 to MPI_THREAD_MULTIPLE 3; -1 before MPI runs */
    int32_t main_thread;   /* this thread started MPI */
    int32_t rank, size;    /* in MPI_COMM_WORLD; 0 before MPI runs */
    char version[256];     /* of the MPI library */
} swg_mpi_info;

typedef struct swg_peer {
    int32_t pid, workers;  /* 0 before the rank has said hello */
    char host[256];
} swg_peer;

/* The exchange area of a port: 64-bit words. */
#define SWG_W_EVENTS 0      /* number of events listed */
#define SWG_W_OFFERS 1      /* number of offers listed */
#define SWG_W_NEEDS 2       /* number of workers to start */
#define SWG_W_CODE 3        /* after SWG_E_INIT and SWG_E_START: the code, */
#define SWG_W_ERROR 4       /*   and the arena offset of the error record, 0 none */
#define SWG_W_NEED 8        /* first index of a worker to start */
#define SWG_W_EVENT 64      /* first event */
#define SWG_MAX_EVENTS 96
#define SWG_EVENT_WORDS 8   /* job, chunk, first task, results, slot offset, flags, pid (with EVENT_LOST: plus rank << 32) or worker, exit code */
#define SWG_W_OFFER 832     /* first offer */
#define SWG_MAX_OFFERS 64
#define SWG_OFFER_WORDS 8   /* job, chunk, slot offset, slot bytes, first task, tasks, attempt<<1|fresh, block */
#define SWG_W_PARAM 1344    /* arguments of swg_begin: tasks or -1, function key, chunk size or 0, retries, job flags,
                               time limit per task [ns], task flags, blob serial, blob offset; with JOB_DEPTH: most chunks out at once */
#define SWG_W_LAST 1359     /* set to 1 before swg_step: the source of the last submitted chunk is drained */

/* Event flags. */
#define SWG_EVENT_FAILED 1   /* an error record for the next task follows the results */
#define SWG_EVENT_LOST 2     /* the next task was lost with its worker */
#define SWG_EVENT_TASKS 4    /* question: the worker could not read the tasks; swg_requeue or swg_reject */
#define SWG_EVENT_FUNC 8     /* question: the worker could not read the function */
#define SWG_EVENT_TIMEOUT 16 /* with LOST: the time limit was exceeded */
#define SWG_EVENT_EXIT 32    /* with LOST: the exit code is known */

/* In a buffer table of a pool of MPI ranks: the rest is an address in this process, not an offset in the arena. */
#define SWG_EXTERNAL_BIT 63

/* In place of the pid of a worker that is a thread of this process. */
#define SWG_THREAD (-1)

/* Job flags. */
#define SWG_JOB_ORDERED 1
#define SWG_JOB_LAZY 2
#define SWG_JOB_BROADCAST 4
#define SWG_JOB_DEPTH 8

/* Waiting, and what swg_step found. */
#define SWG_WAIT_NONE 0
#define SWG_WAIT_ANY 1
#define SWG_WAIT_BATCH 2
#define SWG_WAIT_KICK 3
#define SWG_WAIT_HOLD 4
#define SWG_FOUND_EVENTS 1
#define SWG_FOUND_OFFERS 2
#define SWG_FOUND_NEEDS 4
#define SWG_FOUND_IDLE 8
#define SWG_FOUND_RESUME 16
#define SWG_FOUND_KICKED 32

/* What swg_rank_next found, in the lower 4 bits; the others are an offset or a number. */
#define SWG_RANK_CHUNK 1  /* a chunk to run lies in the slot at this offset; it is answered by the next call */
#define SWG_RANK_OPEN 2   /* a pool begins: set up as the BLOB frame at this offset says (0: as the script said); then swg_rank_hello */
#define SWG_RANK_CLOSE 3  /* the pool ends */
#define SWG_RANK_EXIT 4   /* leave */
#define SWG_RANK_NEEDS 5  /* the worker of this number has to be started; then swg_rank_attach */
#define SWG_RANK_RESUME 6 /* look after signals and call again */

/* The engine's own build leaves the prototypes out: Go generates them with its own names for the same types. */
#ifndef SWG_NO_PROTOTYPES

int32_t swg_abi(void);
const char *swg_version(void);
const char *swg_last_error(void);
const char *swg_code_name(int32_t code);

/* Open a pool; returns its handle. */
int64_t swg_open(const swg_config *config);
/* Start the workers, where the configuration has a command. */
int32_t swg_start(int64_t pool);
int32_t swg_get_info(int64_t pool, swg_info *info);
int32_t swg_get_stats(int64_t pool, swg_stats *stats);
/* Register a process as worker `index`; pid 0: it could not be started, SWG_THREAD: it is a thread of this process, which uses
   the same descriptors and says when it leaves. child: it is a child of this process. */
int32_t swg_attach(int64_t pool, int32_t index, int32_t pid, int32_t child);
int32_t swg_worker_pid(int64_t pool, int32_t index);
int32_t swg_kill(int64_t pool, int32_t index, int32_t signal);
/* Name the blob that started workers read first. */
int32_t swg_set_setup(int64_t pool, uint64_t offset);
/* Let running jobs finish, then the workers leave. */
int32_t swg_close(int64_t pool);
/* End the workers now; waiting calls return SWG_E_TERMINATED. */
int32_t swg_terminate(int64_t pool);
/* Wait for the workers to leave; returns how many are left after timeout_ms. */
int32_t swg_join(int64_t pool, int32_t timeout_ms);
/* Give everything back. No port may be in use. */
int32_t swg_free(int64_t pool);

/* Ranges of the arena for blobs (functions and objects that many chunks share). */
int64_t swg_alloc(int64_t pool, uint64_t bytes);
int32_t swg_release(int64_t pool, uint64_t offset);
/* Whether a range has these bytes: 1 equal, 0 different. Nothing but swg_copy may have written into it since swg_alloc: what was found
   equal once is known by digests, which miss a change with a probability of at most 2^-64. */
int32_t swg_same(int64_t pool, uint64_t offset, const void *data, uint64_t bytes);
int32_t swg_copy(int64_t pool, uint64_t offset, const void *data, uint64_t bytes);

/* One port per thread that maps; returns its handle and where its exchange area lies in the arena. */
int64_t swg_port_open(int64_t pool, uint64_t *offset);
int32_t swg_port_close(int64_t port);
/* Start a job with the arguments in the port; returns its number. The first offers are listed. */
int64_t swg_begin(int64_t port);
/* Submit the first `submitted` offers of the last call, wait, list what was found; returns SWG_FOUND_ flags. The other
 * offers go back; with SWG_WAIT_NONE they stay and are listed again. wait: SWG_WAIT_ plus 256 times the most
 * milliseconds to wait (0: about 100, then SWG_FOUND_RESUME). */
int32_t swg_step(int64_t port, int32_t submitted, int32_t wait);
/* A larger slot for offer i; returns its offset. */
int64_t swg_grow(int64_t port, int32_t offer, uint64_t bytes);
/* Give a job up. kill: workers that run tasks of it are ended (and replaced), else they finish unheard. */
int32_t swg_cancel(int64_t port, int64_t job, int32_t kill);
/* Answers to questions. serial 0 keeps the function. */
int32_t swg_requeue(int64_t port, int64_t chunk, int32_t split, uint64_t serial, uint64_t offset);
int32_t swg_reject(int64_t port, int64_t chunk);
/* Make swg_step of this port return, from any thread. */
int32_t swg_kick(int64_t port);

/* MPI. These functions return SWG_E_UNSUPPORTED where the library was built without MPI. The library does not load an MPI library
 * itself: the process has done so before, with global symbols, and it is of the family that this library was built for. */
int32_t swg_mpi_look(swg_mpi_info *info); /* starts nothing */
int32_t swg_mpi_start(void);              /* initialise MPI unless that was done; returns the level */
int32_t swg_mpi_stop(void);               /* finalize MPI */
int32_t swg_mpi_abort(int32_t code);      /* end all ranks of the job, within 2 s; does not return */

/* A communicator of our own, a duplicate of the one with this Fortran handle (-1: the world): all its ranks call swg_comm_open,
 * then swg_comm_ready (ms: how long to wait at most) until it returns 1. watch: notice the death of a rank by a TCP connection. */
int64_t swg_comm_open(int32_t fortran, int32_t watch);
int32_t swg_comm_ready(int64_t comm, int32_t ms);
int32_t swg_comm_rank(int64_t comm);
int32_t swg_comm_size(int64_t comm);
int32_t swg_comm_broken(int64_t comm); /* 1: a rank has died */
int32_t swg_comm_peer(int64_t comm, int32_t rank, swg_peer *peer);
/* At the end of the program. Rank 0 tells the others to leave; returns how many messages are undelivered after ms. */
int32_t swg_comm_exit(int64_t comm, int32_t ms);

/* Operations that MPI has not finished: memory outside of the arena that chunks refer to must stay until there are none, or until the
 * chunks are answered. */
int32_t swg_unsent(int64_t pool);
/* Give back a buffer of a result that lies outside of the arena (SWG_EXTERNAL) and was taken over: who does so sets the offset in the
 * buffer table to 0. */
int32_t swg_buffer_free(void *buffer);

/* fork(), with three calls around it: before it, after it in the parent, after it in the child. Returns what fork returns, or -errno. It
   does not enter the engine, and the child must not. For interpreters that need these calls to follow each other with nothing in
   between. */
int32_t swg_fork(void *before, void *parent, void *child);

/* Rank 0: open a pool of the other ranks, per_rank workers each, and of config->workers (may be 0) processes here. setup: a BLOB
 * frame that the ranks set themselves up with, NULL: as their own script says. The other functions on pools apply. */
int64_t swg_open_ranks(const swg_config *config, int64_t comm, int32_t per_rank, const void *setup, uint64_t bytes);

/* Other ranks: serve. config->workers processes run the chunks; 0: the caller does. */
int64_t swg_rank_open(int64_t comm, const swg_config *config);
int32_t swg_rank_get_info(int64_t rank, swg_info *info);
int32_t swg_rank_attach(int64_t rank, int32_t index, int32_t pid, int32_t child);
/* The socket of the process that starts the workers, if one does: it is asked how they ended (docs/PROTOCOL.md). */
int32_t swg_rank_server(int64_t rank, int32_t socket);
/* After SWG_RANK_OPEN: 1 if this rank is a worker of the master's own pool, on this machine. The caller then says hello, works as a worker
 * process does (docs/PROTOCOL.md) until the work queue ends, closes the descriptors and goes on with swg_rank_next. 0: chunks come there. */
int32_t swg_rank_desk(int64_t rank, swg_desk *desk);
int32_t swg_rank_hello(int64_t rank);
/* This rank cannot serve; code, words and the offset of an error record's frame (0: none) go to the master. */
int32_t swg_rank_refuse(int64_t rank, int32_t code, const char *text, uint64_t offset);
/* Send the answer that lies in the slot `answered` (0: none), then wait, about a second at most; returns SWG_RANK_ and what belongs to
 * it. */
int64_t swg_rank_next(int64_t rank, uint64_t answered);
int32_t swg_rank_look(int64_t rank); /* take in what has come, without waiting: the cancel word of a chunk may be set */
int32_t swg_rank_close(int64_t rank);

#endif /* SWG_NO_PROTOTYPES */

#ifdef __cplusplus
}
#endif
#endif
