package nh

// prefetch starts to load a block into the second-level cache.
//
//go:noescape
func prefetch(b *[Block]byte)
