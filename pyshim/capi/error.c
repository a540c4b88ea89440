/* The last error of each thread: a Go export runs on its caller's thread from start to end, so thread-local storage in C
 * is the one place that two threads cannot mix up. */
#include "error.h"
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static __thread char text[1024];

void swg_set_error(const char *message) {
    strncpy(text, message, sizeof text - 1);
    text[sizeof text - 1] = 0;
}

const char *swg_last_error(void) { return text; }

/* In C: it may be called while the interpreter ends, and in a forked child, which must not enter Go. */
int32_t swg_buffer_free(void *buffer) {
    free(buffer);
    return 0;
}

int32_t swg_fork(void *before, void *parent, void *child) {
    ((void (*)(void))before)();
    pid_t pid = fork();
    int code = errno;
    ((void (*)(void))(pid == 0 ? child : parent))();
    return pid < 0 ? -code : (int32_t)pid;
}
