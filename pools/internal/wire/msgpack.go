package wire

import (
	"encoding/binary"
	"fmt"
)

// deepest bounds nesting; the messages need 2.
const deepest = 16

// checkMsgpack walks one msgpack map that must fill b, without decoding it: the decoder allocates what an array header
// claims before it sees the elements, so that five bytes could ask for megabytes. After this walk each claimed element is
// known to be there.
func checkMsgpack(b []byte) error {
	if len(b) == 0 {
		return fmt.Errorf("%w: empty", ErrShort)
	}
	if c := b[0]; c>>4 != 0x8 && c != 0xde && c != 0xdf {
		return fmt.Errorf("%w: it starts with %#x, not with a map", ErrControl, c)
	}
	rest, err := skipValue(b, 0)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return fmt.Errorf("%w: %d bytes behind the end", ErrControl, len(rest))
	}
	return nil
}

// skipValue returns what follows the value at the start of b.
func skipValue(b []byte, depth int) ([]byte, error) {
	if depth > deepest {
		return nil, fmt.Errorf("%w: nested more than %d deep", ErrControl, deepest)
	}
	size, items, err := measure(b)
	if err != nil {
		return nil, err
	}
	if size > uint64(len(b)) {
		return nil, fmt.Errorf("%w: a value of %d bytes, %d there", ErrShort, size, len(b))
	}
	b = b[size:]
	if items > uint64(len(b)) {
		return nil, fmt.Errorf("%w: %d items in %d bytes", ErrShort, items, len(b))
	}
	for ; items > 0; items-- {
		if b, err = skipValue(b, depth+1); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// measure returns how many bytes the value at the start of b takes without its items, and how many items follow. For
// each first byte the format gives a size, or a length field of 1, 2 or 4 bytes.
func measure(b []byte) (size, items uint64, err error) {
	if len(b) == 0 {
		return 0, 0, fmt.Errorf("%w: a value is missing", ErrShort)
	}
	c := b[0]
	switch {
	case c <= 0x7f || c >= 0xe0: // small integers
		return 1, 0, nil
	case c <= 0x8f: // map
		return 1, 2 * uint64(c&0xf), nil
	case c <= 0x9f: // array
		return 1, uint64(c & 0xf), nil
	case c <= 0xbf: // string
		return 1 + uint64(c&0x1f), 0, nil
	}
	switch c {
	case 0xc0, 0xc2, 0xc3: // nil, false, true
		return 1, 0, nil
	case 0xcc, 0xd0:
		return 2, 0, nil
	case 0xcd, 0xd1:
		return 3, 0, nil
	case 0xca, 0xce, 0xd2:
		return 5, 0, nil
	case 0xcb, 0xcf, 0xd3:
		return 9, 0, nil
	case 0xc4, 0xd9: // bytes and strings
		return sized(b, 1)
	case 0xc5, 0xda:
		return sized(b, 2)
	case 0xc6, 0xdb:
		return sized(b, 4)
	case 0xdc, 0xdd: // arrays
		size, items, err = counted(b, 2<<(c-0xdc))
		return size, items, err
	case 0xde, 0xdf: // maps
		size, items, err = counted(b, 2<<(c-0xde))
		return size, 2 * items, err
	}
	return 0, 0, fmt.Errorf("%w: msgpack type %#x has no place in one", ErrControl, c)
}

// sized measures a value whose length in bytes is in the width bytes behind the first.
func sized(b []byte, width int) (size, items uint64, err error) {
	n, err := length(b, width)
	return 1 + uint64(width) + n, 0, err
}

// counted measures a value whose number of items is there.
func counted(b []byte, width int) (size, items uint64, err error) {
	n, err := length(b, width)
	return 1 + uint64(width), n, err
}

func length(b []byte, width int) (uint64, error) {
	if len(b) < 1+width {
		return 0, fmt.Errorf("%w: a length is missing", ErrShort)
	}
	switch width {
	case 1:
		return uint64(b[1]), nil
	case 2:
		return uint64(binary.BigEndian.Uint16(b[1:])), nil
	}
	return uint64(binary.BigEndian.Uint32(b[1:])), nil
}
