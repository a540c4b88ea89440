package codec

import (
	"fmt"
	"math"
	"math/big"
	"reflect"
)

type numberKind uint8

const (
	isInt numberKind = iota
	isUint
	isFloat
	isBool
	isComplex
)

// number is a number on its way into a Go type that need not be the one it came in.
type number struct {
	what  numberKind
	i     int64 // isUint: the bits of an unsigned one beyond its range
	f, im float64
}

func unsigned(u uint64) number {
	if u <= math.MaxInt64 {
		return number{what: isInt, i: int64(u)}
	}
	return number{what: isUint, i: int64(u)}
}

func (n number) String() string {
	switch n.what {
	case isInt:
		return fmt.Sprint(n.i)
	case isUint:
		return fmt.Sprint(uint64(n.i))
	case isBool:
		return fmt.Sprint(n.i != 0)
	case isComplex:
		return fmt.Sprint(complex(n.f, n.im))
	}
	return fmt.Sprint(n.f)
}

// value is the number as an `any`.
func (n number) value() any {
	switch n.what {
	case isInt:
		return n.i
	case isUint:
		return uint64(n.i)
	case isBool:
		return n.i != 0
	case isComplex:
		return complex(n.f, n.im)
	}
	return n.f
}

// assign stores the number. An integer becomes a float (rounded beyond 2^53), a float with an integral value an integer, both a complex
// number; a bool only a bool. What does not fit is an error, never a wrapped value.
func (n number) assign(v reflect.Value) error {
	k := v.Kind()
	ok := false
	switch {
	case k == reflect.Interface && v.NumMethod() == 0:
		v.Set(reflect.ValueOf(n.value()))
		return nil
	case n.what == isBool:
		if ok = k == reflect.Bool; ok {
			v.SetBool(n.i != 0)
		}
	case k == reflect.Complex64 || k == reflect.Complex128:
		v.SetComplex(complex(n.real(), n.im))
		ok = true
	case n.what == isComplex:
	case k == reflect.Float64 || k == reflect.Float32:
		f := n.real()
		if ok = k == reflect.Float64 || math.IsInf(f, 0) || !v.OverflowFloat(f); ok {
			v.SetFloat(f)
		}
	case v.CanInt():
		if i, exact := n.integer(); exact && !v.OverflowInt(i) {
			v.SetInt(i)
			ok = true
		}
	case v.CanUint():
		if u, exact := n.natural(); exact && !v.OverflowUint(u) {
			v.SetUint(u)
			ok = true
		}
	}
	if !ok {
		return fmt.Errorf("%v does not fit into %s", n, v.Type())
	}
	return nil
}

func (n number) real() float64 {
	switch n.what {
	case isInt:
		return float64(n.i)
	case isUint:
		return float64(uint64(n.i))
	}
	return n.f
}

func (n number) integer() (int64, bool) {
	switch n.what {
	case isInt:
		return n.i, true
	case isFloat:
		// 2^63 itself is a float64 and no int64.
		return int64(n.f), n.f == math.Trunc(n.f) && n.f >= math.MinInt64 && n.f < -math.MinInt64
	}
	return 0, false
}

func (n number) natural() (uint64, bool) {
	switch n.what {
	case isInt:
		return uint64(n.i), n.i >= 0
	case isUint:
		return uint64(n.i), true
	case isFloat:
		return uint64(n.f), n.f == math.Trunc(n.f) && n.f >= 0 && n.f < 1<<64
	}
	return 0, false
}

// bigInt reads an integer of any length: two's complement, little endian.
func bigInt(b []byte) *big.Int {
	be := make([]byte, len(b))
	for i, c := range b {
		be[len(b)-1-i] = c
	}
	v := new(big.Int).SetBytes(be)
	if len(be) > 0 && be[0]&0x80 != 0 {
		v.Sub(v, new(big.Int).Lsh(big.NewInt(1), uint(8*len(be))))
	}
	return v
}

// bigBytes is the reverse.
func bigBytes(v *big.Int) []byte {
	n := v.BitLen()/8 + 1
	if v.Sign() < 0 {
		v = new(big.Int).Add(v, new(big.Int).Lsh(big.NewInt(1), uint(8*n)))
	}
	b := v.FillBytes(make([]byte, n))
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
	return b
}
