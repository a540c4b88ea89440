package dispatch

// Unknown is the number of tasks of a job whose source cannot tell its length.
const Unknown = -1

// JobID names one job. It grows for ever and is never reused, so that it serves as the epoch in frames. 0 is no job.
type JobID uint64

// ChunkID names one offer: slab index in the low 32 bits, generation (at least 1) in the high 32. 0 is no chunk.
//
// Every Offer takes a new generation, so an answer that comes twice, or after its job was given up, no longer matches
// and is refused. A generation returns after 2^32 offers through one slab entry, over an hour at a million a second.
type ChunkID uint64

// Index returns the slab index: small, dense, and free for reuse once the chunk is gone. Owners use it to keep what
// they know about a chunk in a slice.
func (c ChunkID) Index() uint32 { return uint32(c) }

// Generation returns the part that makes a reused index a different chunk.
func (c ChunkID) Generation() uint32 { return uint32(c >> 32) }

func makeChunkID(index int32, generation uint32) ChunkID {
	return ChunkID(generation)<<32 | ChunkID(uint32(index))
}
