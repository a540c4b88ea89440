//go:build !amd64

package nh

// sum is the digest of a block.
func sum(k *[2 * Block]byte, b *[Block]byte) Sum { return sum64(k, b) }
