package nh

import (
	"bytes"
	"encoding/binary"
	"math/big"
	"math/rand/v2"
	"testing"
)

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = r.Read(b)
	return b
}

// TestDefinition: the loop computes what the paper defines, in arithmetic that cannot overflow.
func TestDefinition(t *testing.T) {
	b := noise(1, Block)
	mod64, mod128 := new(big.Int).Lsh(big.NewInt(1), 64), new(big.Int).Lsh(big.NewInt(1), 128)
	want := new(big.Int)
	term := func(i int) *big.Int {
		m := new(big.Int).SetUint64(binary.LittleEndian.Uint64(b[8*i:]))
		m.Add(m, new(big.Int).SetUint64(key()[i]))
		return m.Mod(m, mod64)
	}
	for i := 0; i < Block/8; i += 2 {
		want.Add(want, new(big.Int).Mul(term(i), term(i+1)))
	}
	want.Mod(want, mod128)
	var sums [1]Sum
	Fill(sums[:], b)
	got := new(big.Int).SetUint64(sums[0].hi)
	got.Lsh(got, 64).Add(got, new(big.Int).SetUint64(sums[0].lo))
	if got.Cmp(want) != 0 {
		t.Fatalf("sum %x, want %x", got, want)
	}
}

// TestEveryByte: no byte of a block is left out, wherever the memory begins.
func TestEveryByte(t *testing.T) {
	whole := noise(2, 2*Block+8)
	for _, shift := range []int{0, 1, 7} {
		b := whole[shift : shift+2*Block]
		sums := make([]Sum, 2)
		Fill(sums, b)
		for i := range b {
			for _, bit := range []byte{1, 128} {
				b[i] ^= bit
				if Match(sums, b) {
					t.Fatalf("a change of byte %d passed", i)
				}
				b[i] ^= bit
			}
		}
		if !Match(sums, b) {
			t.Fatal("the same bytes did not match")
		}
	}
}

// TestSwaps: what sums of products tempt one to overlook: words exchanged, moved to another block, or all zero.
func TestSwaps(t *testing.T) {
	b := noise(3, 2*Block)
	sums := make([]Sum, 2)
	Fill(sums, b)
	for _, pair := range [][2]int{{0, 8}, {0, 16}, {8, Block - 8}, {0, Block}} {
		c := bytes.Clone(b)
		copy(c[pair[0]:pair[0]+8], b[pair[1]:])
		copy(c[pair[1]:pair[1]+8], b[pair[0]:])
		if Match(sums, c) {
			t.Errorf("words at %v exchanged", pair)
		}
	}
	if Match(sums, make([]byte, 2*Block)) {
		t.Error("zeros")
	}
}

func BenchmarkMatch(b *testing.B) {
	data := noise(4, 10_000_000/Block*Block)
	sums := make([]Sum, len(data)/Block)
	Fill(sums, data)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if !Match(sums, data) {
			b.Fatal("no match")
		}
	}
}
