// Package fdengine hosts the engine for a Python process that cannot load it: the shared library needs glibc, a static binary
// and musl have none. Python is a child of this process and talks to the engine over a socket on its descriptor 3; the memory
// of a pool is passed to it as a descriptor, so that payloads never go through the socket. docs/PROTOCOL.md has the records.
//
// A call costs two switches between processes (some 10 us) where ctypes takes 0.3 us; workers notice no difference.
package fdengine

// Env names the variable that tells Python its descriptor.
const Env = "SCHWIMMBAD_GO_FD"
