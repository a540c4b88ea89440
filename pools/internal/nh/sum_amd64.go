package nh

// hasAVX2 says whether processor and system have the 256-bit registers and their integer instructions (Intel's manual, vol. 1, 14.3
// and 14.7).
var hasAVX2 = func() bool {
	most, _, _, _ := cpuid(0, 0)
	if most < 7 {
		return false
	}
	const osxsave, avx, avx2, registers = 1 << 27, 1 << 28, 1 << 5, 6
	_, _, c, _ := cpuid(1, 0)
	if c&(osxsave|avx) != osxsave|avx || xgetbv()&registers != registers {
		return false
	}
	_, b, _, _ := cpuid(7, 0)
	return b&avx2 != 0
}()

// sum is the digest of a block.
func sum(k *[2 * Block]byte, b *[Block]byte) Sum {
	if !hasAVX2 {
		return sum64(k, b)
	}
	hi, lo := sumAVX2(k, b)
	return Sum{hi, lo}
}

// sumAVX2 is NH with words of 32 bits, once with each half of the key.
//
//go:noescape
func sumAVX2(key *[2 * Block]byte, b *[Block]byte) (hi, lo uint64)

func cpuid(leaf, subleaf uint32) (a, b, c, d uint32)

func xgetbv() (a uint32)
