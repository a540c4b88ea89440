// Package wire reads and writes the bytes that cross a boundary: frames of tasks and results, which are the same in
// shared memory, on sockets and under MPI; the 8-byte records that announce them; and a few structured control messages.
//
// It knows lengths and limits, but not what a payload means. Whatever it decodes may come from a process that died while
// writing, so that every length is checked before it is believed, and nothing is allocated that the bytes at hand do not
// account for.
//
// All integers are little endian. docs/PROTOCOL.md is the reference for workers written in other languages.
package wire
