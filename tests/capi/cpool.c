/* A pool of worker processes from plain C: master and worker in one program.
 *
 * As master it drives the engine through schwimmbad.h: it squares 100000 integers, ends one worker in the middle of the map and sees
 * the task that was running reported as lost while the others go on. As worker (started by the engine, which sets
 * SCHWIMMBAD_GO_WORKER) it follows the shared-memory protocol without the library: a worker can be written in any language.
 *
 * The payload is of a kind of its own: 64-bit integers, as many as there are tasks, both ways.
 *
 * usage: cpool, without arguments. Prints one line and exits 0, or says what is wrong and exits 1.
 */
#define _GNU_SOURCE
#include "schwimmbad.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { TASKS = 100000, WORKERS = 3, KILLER = 4711 };
enum { KIND_RAW = 8, TYPE_RESULTS = 2, PAGE = 4096 };

/* The control page, the cells and the slots, as docs/PROTOCOL.md lays them out (offsets in bytes). */
enum { CTL_VERSION = 8, CTL_CELLS = 24, CTL_CELL_SIZE = 32 };
enum { CELL_PID = 0, CELL_CLAIM = 8, CELL_STARTED = 16, CELL_RUNNING = 24, CELL_BLOCK = 32, CELL_BUSY = 56 };
enum { REPLY_DONE = 0, REPLY_STATUS = 4, REPLY_ELAPSED = 8, REPLY_SEGMENTS = 16, REPLY_WORKER = 24, REPLY_CANCEL = 28, REPLY_BYTES = 32 };
enum { SLOT_FRAME = 64, FRAME_SIZE = 96 };
enum { STATUS_COMPLETE = 1, STATUS_STOPPED = 2, HELLO = 1 };

typedef struct frame { /* header of a TASKS or RESULTS frame */
    uint8_t magic[4];
    uint16_t type, kind;
    uint32_t flags, nbuf;
    uint64_t job, chunk, first;
    uint32_t count, block;
    uint64_t nbytes, func, nanos, next, block_off, extra;
} frame;
_Static_assert(sizeof(frame) == FRAME_SIZE, "frame header");

static char *arena;

static _Atomic uint64_t *word(uint64_t at) { return (_Atomic uint64_t *)(void *)(arena + at); }
static _Atomic uint32_t *half(uint64_t at) { return (_Atomic uint32_t *)(void *)(arena + at); }

static void fail(const char *what, const char *why) {
    fprintf(stderr, "cpool: %s: %s\n", what, why);
    exit(1);
}

/* ---- the worker ------------------------------------------------------------------------------------------------------- */

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* A record is 8 bytes: the slot's page and the chunk's generation, or 0 and a code with the worker's index. */
static void tell(int fd, uint32_t page, uint32_t rest) {
    uint32_t record[2] = {page, rest};
    if (write(fd, record, sizeof record) != (ssize_t)sizeof record) _exit(0); /* the master is gone */
}

/* The kernel kills us when the master's end of the lifeline goes, even in the middle of a task. The signal is set on a description
 * of our own, since the inherited one is shared. */
static void follow_master(int life) {
    char path[40], byte;
    snprintf(path, sizeof path, "/proc/self/fd/%d", life);
    int own = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (own < 0 || fcntl(own, F_SETOWN, getpid()) || fcntl(own, F_SETSIG, SIGKILL) ||
        fcntl(own, F_SETFL, fcntl(own, F_GETFL) | O_ASYNC))
        fail("lifeline", strerror(errno));
    if (read(own, &byte, 1) == 0) _exit(0); /* it ended before we listened */
}

static int64_t square(int64_t x) {
    if (x == KILLER) raise(SIGKILL); /* what an out-of-memory killer does */
    return x * x;
}

static void run_chunk(uint64_t slot, uint32_t generation, uint64_t cell, uint32_t index, int answer) {
    frame tasks;
    memcpy(&tasks, arena + slot + SLOT_FRAME, sizeof tasks);
    if ((uint32_t)(tasks.chunk >> 32) != generation || tasks.kind != KIND_RAW) return; /* the slot has a new chunk by now */
    *word(cell + CELL_BLOCK) = 0;
    *word(cell + CELL_STARTED) = 0;
    *word(cell + CELL_CLAIM) = tasks.chunk; /* from here on a death is ours to answer for */

    const int64_t *in = (const int64_t *)(void *)(arena + slot + SLOT_FRAME + FRAME_SIZE);
    uint64_t at = (slot + SLOT_FRAME + FRAME_SIZE + tasks.nbytes + 63) & ~(uint64_t)63;
    int64_t *out = (int64_t *)(void *)(arena + at + FRAME_SIZE);
    frame results = {.magic = {'S', 'W', 'G', 1}, .type = TYPE_RESULTS, .kind = KIND_RAW, .job = tasks.job, .chunk = tasks.chunk,
                     .first = tasks.first, .count = tasks.count, .nbytes = 8u * (uint64_t)tasks.count};
    memcpy(arena + at, &results, sizeof results);
    *word(slot + REPLY_SEGMENTS) = at;

    uint32_t done = 0, status = STATUS_COMPLETE;
    uint64_t began = now();
    while (done < tasks.count && status == STATUS_COMPLETE) {
        uint32_t left = tasks.count - done, block = tasks.block && tasks.block < left ? tasks.block : left;
        *word(cell + CELL_STARTED) = now();
        *word(cell + CELL_RUNNING) = done;
        *word(cell + CELL_BLOCK) = block;
        for (uint32_t i = done; i < done + block; i++) out[i] = square(in[i]);
        done += block;
        *half(slot + REPLY_DONE) = done; /* these results are safe now */
        if (*half(slot + REPLY_CANCEL) || (tasks.nanos && now() - began >= tasks.nanos)) status = STATUS_STOPPED;
    }
    *word(slot + REPLY_ELAPSED) = now() - began;
    *word(slot + REPLY_BYTES) = 8u * (uint64_t)done;
    *half(slot + REPLY_WORKER) = index;
    *word(cell + CELL_BUSY) += now() - began;
    *half(slot + REPLY_STATUS) = done == tasks.count ? STATUS_COMPLETE : status;
    tell(answer, (uint32_t)(slot / PAGE), generation);
    *word(cell + CELL_CLAIM) = 0;
}

static int worker(const char *spec) {
    unsigned version, index;
    int work, answer, life, memory;
    if (sscanf(spec, "%u:%u:%d,%d,%d,%d", &version, &index, &work, &answer, &life, &memory) != 6 || version != SWG_ABI)
        fail("worker", spec);
    struct stat st;
    if (fstat(memory, &st)) fail("fstat", strerror(errno));
    arena = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (arena == MAP_FAILED) fail("mmap", strerror(errno));
    if (*half(CTL_VERSION) != SWG_ABI) fail("worker", "another version of the protocol");
    uint64_t cell = *word(CTL_CELLS) + index * *word(CTL_CELL_SIZE);
    *word(cell + CELL_PID) = (uint64_t)getpid();
    follow_master(life);
    tell(answer, 0, HELLO << 24 | index);
    for (uint32_t record[2];;) {
        ssize_t n = read(work, record, sizeof record);
        if (n < 0 && errno == EINTR) continue;
        if (n != (ssize_t)sizeof record) return 0; /* the pool was closed */
        run_chunk((uint64_t)record[0] * PAGE, record[1], cell, index, answer);
    }
}

/* ---- the master ------------------------------------------------------------------------------------------------------- */

static int64_t check(int64_t code, const char *what) {
    if (code < 0) {
        fprintf(stderr, "cpool: %s: %s (%s)\n", what, swg_last_error(), swg_code_name((int32_t)code));
        exit(1);
    }
    return code;
}

static int64_t result[TASKS];
static char state[TASKS]; /* 0 nothing yet, 1 a result, 2 lost */

/* Write the tasks of offer k into its slot. */
static void encode(int64_t port, int64_t *words, int k) {
    int64_t *offer = words + SWG_W_OFFER + SWG_OFFER_WORDS * k;
    int64_t slot = offer[2], first = offer[4], count = offer[5];
    uint64_t need = SLOT_FRAME + 2 * (FRAME_SIZE + 8 * (uint64_t)count) + 64; /* the results go behind the tasks */
    if (need > (uint64_t)offer[3]) slot = check(swg_grow(port, k, need), "swg_grow");
    frame *tasks = (frame *)(void *)(arena + slot + SLOT_FRAME);
    tasks->kind = KIND_RAW;
    tasks->nbytes = 8 * (uint64_t)count;
    int64_t *in = (int64_t *)(void *)(tasks + 1);
    for (int64_t i = 0; i < count; i++) in[i] = first + i;
}

static void put(int64_t index, int what, int64_t value) {
    if (index < 0 || index >= TASKS || state[index]) fail("map", "a task was delivered twice, or is none of ours");
    state[index] = (char)what;
    result[index] = value;
}

static void take_in(const int64_t *event) {
    int64_t first = event[2], count = event[3], slot = event[4], flags = event[5];
    if (slot && count > 0) { /* one frame, since this worker writes no more */
        const frame *f = (const frame *)(void *)(arena + *word((uint64_t)slot + REPLY_SEGMENTS));
        const int64_t *out = (const int64_t *)(const void *)(f + 1);
        for (int64_t i = 0; i < count; i++) put(first + i, 1, out[i]);
    }
    if (flags & SWG_EVENT_LOST) {
        if (!(flags & SWG_EVENT_EXIT) || event[7] != -SIGKILL || event[6] <= 0) fail("loss", "the worker's end is not told");
        put(first + count, 2, 0);
    }
    if (flags & ~(SWG_EVENT_LOST | SWG_EVENT_EXIT)) fail("event", "unexpected");
}

int main(int argc, char **argv) {
    const char *spec = getenv("SCHWIMMBAD_GO_WORKER");
    if (spec) return worker(spec);
    if (argc != 1 || swg_abi() != SWG_ABI) fail(argv[0], "takes no arguments; header and library must be of one version");

    char command[4096] = {0}; /* a list of strings, ended by an empty one */
    if (readlink("/proc/self/exe", command, sizeof command - 2) < 0) fail("readlink", strerror(errno));
    swg_config config = {.abi = SWG_ABI, .workers = WORKERS, .arena_bytes = 1u << 30, .command = command};
    int64_t pool = check(swg_open(&config), "swg_open");
    check(swg_start(pool), "swg_start");
    swg_info info;
    check(swg_get_info(pool, &info), "swg_get_info");
    arena = (char *)(uintptr_t)info.address;

    uint64_t at;
    int64_t port = check(swg_port_open(pool, &at), "swg_port_open");
    int64_t *words = (int64_t *)(void *)(arena + at);
    memset(words + SWG_W_PARAM, 0, 9 * sizeof *words);
    words[SWG_W_PARAM] = TASKS;
    int64_t job = check(swg_begin(port), "swg_begin");
    for (int found = 0; !(found & SWG_FOUND_IDLE) || words[SWG_W_OFFERS];) {
        int offers = (int)words[SWG_W_OFFERS];
        for (int k = 0; k < offers; k++) encode(port, words, k);
        found = (int)check(swg_step(port, offers, SWG_WAIT_BATCH), "swg_step");
        for (int k = 0; k < words[SWG_W_EVENTS]; k++) take_in(words + SWG_W_EVENT + SWG_EVENT_WORDS * k);
    }
    if (swg_cancel(port, job, 0) < 0) fail("swg_cancel", "a finished job is nothing to complain about");

    for (int64_t i = 0; i < TASKS; i++)
        if (i == KILLER ? state[i] != 2 : state[i] != 1 || result[i] != i * i) fail("result", "wrong or missing");
    swg_stats stats;
    check(swg_get_stats(pool, &stats), "swg_get_stats");
    if (stats.lost < 1 || stats.jobs != 0 || stats.in_flight != 0) fail("statistics", "wrong");

    check(swg_port_close(port), "swg_port_close");
    check(swg_close(pool), "swg_close");
    for (int tries = 0; check(swg_join(pool, 1000), "swg_join") > 0; tries++)
        if (tries == 20) fail("swg_join", "workers do not leave");
    check(swg_free(pool), "swg_free");
    if (swg_free(pool) != SWG_E_HANDLE || !strstr(swg_last_error(), "handle")) fail("stale handle", "not refused");
    printf("%d tasks, 1 lost with its worker, %" PRId64 " chunks, %" PRId64 " workers lost\n", TASKS - 1, stats.chunks, stats.lost);
    return 0;
}
