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

// sums are the digests that this processor can compute.
func sums() map[string]func(*[2 * Block]byte, *[Block]byte) Sum {
	return map[string]func(*[2 * Block]byte, *[Block]byte) Sum{"this processor": sum, "any": sum64}
}

// definition is NH of the paper over words of w bits, in arithmetic that cannot overflow.
func definition(key, b []byte, w int) *big.Int {
	one := big.NewInt(1)
	word, whole := new(big.Int).Lsh(one, uint(w)), new(big.Int).Lsh(one, uint(2*w))
	term := func(i int) *big.Int {
		at := func(b []byte) uint64 {
			if w == 32 {
				return uint64(binary.LittleEndian.Uint32(b[4*i:]))
			}
			return binary.LittleEndian.Uint64(b[8*i:])
		}
		m := new(big.Int).SetUint64(at(b))
		m.Add(m, new(big.Int).SetUint64(at(key)))
		return m.Mod(m, word)
	}
	total := new(big.Int)
	for i := 0; i < len(b)*8/w; i += 2 {
		total.Add(total, new(big.Int).Mul(term(i), term(i+1)))
	}
	return total.Mod(total, whole)
}

// TestDefinition: the loops compute what the paper defines.
func TestDefinition(t *testing.T) {
	for seed, b := range [][]byte{noise(1, Block), bytes.Repeat([]byte{255}, Block), make([]byte, Block)} {
		k := (*[2 * Block]byte)(noise(uint64(seed)+7, 2*Block))
		s := sum64(k, (*[Block]byte)(b))
		got := new(big.Int).SetUint64(s.hi)
		got.Lsh(got, 64).Add(got, new(big.Int).SetUint64(s.lo))
		if want := definition(k[:Block], b, 64); got.Cmp(want) != 0 {
			t.Errorf("64 bits: sum %x, want %x", got, want)
		}
		if s := sum(k, (*[Block]byte)(b)); s == sum64(k, (*[Block]byte)(b)) {
			t.Log("this processor has the general digest only")
		} else if hi, lo := definition(k[:Block], b, 32).Uint64(), definition(k[Block:], b, 32).Uint64(); s != (Sum{hi, lo}) {
			t.Errorf("32 bits: sum %x, want %x %x", s, hi, lo)
		}
	}
}

// TestEveryByte: no byte of a block is left out, wherever the memory begins.
func TestEveryByte(t *testing.T) {
	whole := noise(2, Block+8)
	for name, sum := range sums() {
		for _, shift := range []int{0, 1, 7} {
			b := (*[Block]byte)(whole[shift:])
			before := sum(key(), b)
			for i := range b {
				for _, bit := range []byte{1, 128} {
					b[i] ^= bit
					if sum(key(), b) == before {
						t.Fatalf("%s: a change of byte %d passed", name, i)
					}
					b[i] ^= bit
				}
			}
			if sum(key(), b) != before {
				t.Fatalf("%s: the same bytes did not match", name)
			}
		}
	}
}

// TestSwaps: what sums of products tempt one to overlook: words exchanged, or all zero.
func TestSwaps(t *testing.T) {
	b := (*[Block]byte)(noise(3, Block))
	for name, sum := range sums() {
		before := sum(key(), b)
		for _, pair := range [][2]int{{0, 4}, {0, 8}, {0, 16}, {8, Block - 8}, {0, 32}, {0, 64}} {
			c := *b
			copy(c[pair[0]:pair[0]+4], b[pair[1]:])
			copy(c[pair[1]:pair[1]+4], b[pair[0]:])
			if sum(key(), &c) == before {
				t.Errorf("%s: words at %v exchanged", name, pair)
			}
		}
		if sum(key(), new([Block]byte)) == before {
			t.Errorf("%s: zeros", name)
		}
	}
}

// TestMatch: each block has its own sum.
func TestMatch(t *testing.T) {
	b := noise(4, 3*Block)
	have := make([]Sum, 3)
	Fill(have, b)
	if !Match(have, b) {
		t.Fatal("the same bytes did not match")
	}
	c := bytes.Clone(b)
	copy(c, b[Block:2*Block])
	copy(c[Block:], b[:Block])
	if Match(have, c) {
		t.Error("blocks exchanged")
	}
	b[3*Block-1]++
	if Match(have, b) {
		t.Error("the last byte")
	}
}

func BenchmarkMatch(b *testing.B) {
	data := noise(5, 10_000_000/Block*Block)
	have := make([]Sum, len(data)/Block)
	Fill(have, data)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if !Match(have, data) {
			b.Fatal("no match")
		}
	}
}
