package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"unsafe"
)

// Number is what an Array can hold.
type Number interface {
	~bool | ~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 |
		~float32 | ~float64 | ~complex64 | ~complex128
}

// Array is an n-dimensional array in C order, the last index running fastest: NumPy's ndarray on the other side.
type Array[E Number] struct {
	Shape []int // its product is len(Data)
	Data  []E
}

func (Array[E]) isArray() {}

type anyArray interface{ isArray() }

var arrayInterface = reflect.TypeFor[anyArray]()

// dtypes are NumPy's names of the element types, little endian.
var dtypes = map[reflect.Kind]string{
	reflect.Bool: "|b1", reflect.Int8: "|i1", reflect.Uint8: "|u1", reflect.Int16: "<i2", reflect.Uint16: "<u2",
	reflect.Int32: "<i4", reflect.Uint32: "<u4", reflect.Int64: "<i8", reflect.Uint64: "<u8", reflect.Int: "<i8", reflect.Uint: "<u8",
	reflect.Float32: "<f4", reflect.Float64: "<f8", reflect.Complex64: "<c8", reflect.Complex128: "<c16",
}

// elements is the reverse: which type an `any` gets.
var elements = map[string]reflect.Type{
	"|b1": reflect.TypeFor[bool](), "|i1": reflect.TypeFor[int8](), "|u1": reflect.TypeFor[uint8](), "<i2": reflect.TypeFor[int16](),
	"<u2": reflect.TypeFor[uint16](), "<i4": reflect.TypeFor[int32](), "<u4": reflect.TypeFor[uint32](), "<i8": reflect.TypeFor[int64](),
	"<u8": reflect.TypeFor[uint64](), "<f4": reflect.TypeFor[float32](), "<f8": reflect.TypeFor[float64](),
	"<c8": reflect.TypeFor[complex64](), "<c16": reflect.TypeFor[complex128](),
}

const maxDims = 32 // NumPy 1's limit

// rawArray is an array as it lies in a payload; data is a part of it.
type rawArray struct {
	dtype string
	shape []int
	data  []byte
}

// appendHead writes what stands before the elements: lengths of dtype and shape, shape, dtype, zeros up to a multiple of 8.
func appendHead(b []byte, dtype string, shape []int) []byte {
	start := len(b)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(dtype)))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(shape)))
	for _, n := range shape {
		b = binary.LittleEndian.AppendUint64(b, uint64(n))
	}
	b = append(b, dtype...)
	for (len(b)-start)%8 != 0 {
		b = append(b, 0)
	}
	return b
}

// parseHead reads that; rest is what follows.
func parseHead(b []byte) (a rawArray, rest []byte, err error) {
	if len(b) < 4 {
		return a, nil, errTruncated
	}
	d, n := int(binary.LittleEndian.Uint16(b)), int(binary.LittleEndian.Uint16(b[2:]))
	end := (4 + 8*n + d + 7) &^ 7
	if n > maxDims || end > len(b) {
		return a, nil, fmt.Errorf("array of %d dimensions in %d bytes", n, len(b))
	}
	a.shape = make([]int, n)
	for i := range a.shape {
		v := binary.LittleEndian.Uint64(b[4+8*i:])
		if v > math.MaxInt32*64 {
			return a, nil, fmt.Errorf("array with %d elements in one dimension", v)
		}
		a.shape[i] = int(v)
	}
	a.dtype = string(b[4+8*n : 4+8*n+d])
	if elements[a.dtype] == nil {
		return a, nil, fmt.Errorf("array of the unknown type %q", a.dtype)
	}
	return a, b[end:], nil
}

// count is the number of elements, -1 where the product is out of range.
func (a *rawArray) count() int {
	n := 1
	for _, s := range a.shape {
		if s != 0 && n > math.MaxInt/16/s {
			return -1
		}
		n *= s
	}
	return n
}

func (a *rawArray) size() int { return int(elements[a.dtype].Size()) }

func (a *rawArray) check() error {
	if n := a.count(); n < 0 || n*a.size() != len(a.data) {
		return fmt.Errorf("array of shape %v and type %s in %d bytes", a.shape, a.dtype, len(a.data))
	}
	return nil
}

// row is element i along the first axis.
func (a *rawArray) row(i int) rawArray {
	r := rawArray{dtype: a.dtype, shape: a.shape[1:]}
	n := r.count() * r.size()
	r.data = a.data[i*n : (i+1)*n]
	return r
}

// at is element i of the flat data.
func (a *rawArray) at(i int) number {
	b, le := a.data[i*a.size():], binary.LittleEndian
	switch a.dtype {
	case "|b1":
		return number{what: isBool, i: int64(b[0])}
	case "|i1":
		return number{what: isInt, i: int64(int8(b[0]))}
	case "|u1":
		return number{what: isInt, i: int64(b[0])}
	case "<i2":
		return number{what: isInt, i: int64(int16(le.Uint16(b)))}
	case "<u2":
		return number{what: isInt, i: int64(le.Uint16(b))}
	case "<i4":
		return number{what: isInt, i: int64(int32(le.Uint32(b)))}
	case "<u4":
		return number{what: isInt, i: int64(le.Uint32(b))}
	case "<i8":
		return number{what: isInt, i: int64(le.Uint64(b))}
	case "<u8":
		return unsigned(le.Uint64(b))
	case "<f4":
		return number{what: isFloat, f: float64(math.Float32frombits(le.Uint32(b)))}
	case "<f8":
		return number{what: isFloat, f: math.Float64frombits(le.Uint64(b))}
	case "<c8":
		return number{what: isComplex, f: float64(math.Float32frombits(le.Uint32(b))), im: float64(math.Float32frombits(le.Uint32(b[4:])))}
	}
	return number{what: isComplex, f: math.Float64frombits(le.Uint64(b)), im: math.Float64frombits(le.Uint64(b[8:]))}
}

// fill writes the elements into a slice of numbers, by one copy of memory where the types agree.
func (a *rawArray) fill(s reflect.Value) error {
	elem := s.Type().Elem()
	if dtypes[elem.Kind()] == a.dtype {
		copy(bytesOf(s), a.data)
		return nil
	}
	for i := range s.Len() {
		if err := a.at(i).assign(s.Index(i)); err != nil {
			return err
		}
	}
	return nil
}

// bytesOf is the memory of a slice of numbers.
func bytesOf(s reflect.Value) []byte {
	n := s.Len() * int(s.Type().Elem().Size())
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(s.UnsafePointer()), n)
}

func isNumeric(k reflect.Kind) bool { return dtypes[k] != "" }

var errTruncated = errors.New("the payload ends in the middle of a value")
