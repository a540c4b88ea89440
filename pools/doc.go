// Package pools maps functions over worker processes, MPI ranks and goroutines through one scheduler.
//
// What is here so far is the engine: the chunk-level interface that language bindings are built on. A binding encodes
// tasks into shared memory, the engine decides how many go into a chunk, hands chunks to whoever is free, watches
// the workers and says which results can be read. The pools for Go functions are built on the same engine.
package pools
