// Package codec turns Go values into the payloads of frames and back, for functions that run in another process: in Go or in
// Python.
//
// A chunk of values becomes one payload. Exact types that fill most scientific chunks have forms of their own, a copy of memory
// (float64, int, equal numeric slices); everything else is msgpack between Go programs, one value behind the other, and a pickle of a
// few operations between Go and Python. Numeric slices inside are extensions that hold raw elements with dtype and shape, beside
// the payload from 64 KiB on, so that NumPy and Go both take them by one copy of memory. docs/PROTOCOL.md, "Values between
// languages", has the bytes.
//
// Encoder and decoder walk the types once for both forms: one writes either by the functions of write.go, the other reads tokens.
//
// Types are looked at once and remembered; structs travel as maps, by the names of their fields or of a `msgpack:"name,omitempty"`
// tag. A type with methods for msgpack (github.com/vmihailenco/msgpack/v5), or for text or binary encoding, is encoded by them.
package codec
