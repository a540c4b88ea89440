/* The last error of each thread: a Go export runs on its caller's thread from start to end, so thread-local storage in C
 * is the one place that two threads cannot mix up. */
#include "error.h"
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

/* A pointer, not the text: Go's libraries have their thread-local storage in the part that glibc fixes at the start of a program, of which
 * it keeps 1.6 KB for all libraries that are loaded later. Two of ours must fit: a MultiPool's before an MPIPool's. */
static __thread char *text;

enum { TEXT_SIZE = 1024 };

static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int keyed;

static void make_key(void) { keyed = pthread_key_create(&key, free) == 0; }

void swg_set_error(const char *message) {
    pthread_once(&once, make_key);
    if (!text && keyed && (text = malloc(TEXT_SIZE)) && pthread_setspecific(key, text)) {
        free(text);
        text = NULL;
    }
    if (text) {
        strncpy(text, message, TEXT_SIZE - 1);
        text[TEXT_SIZE - 1] = 0;
    }
}

const char *swg_last_error(void) { return text ? text : ""; }

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
