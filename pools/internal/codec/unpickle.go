package codec

import (
	"encoding/binary"
	"fmt"
	"sync"
)

// What Python's workers answer is a pickle, see pickle.go. Running it makes a tree of nodes that refer to its bytes, and the decoder takes
// its tokens from there as it does from msgpack: a pickle says only behind its items that they are a tuple, and how many. Nothing else
// can be made: whatever imports, calls or builds more than the two functions of python/schwimmbad_go/_msgpack.py below, whose work
// is done here, is an error.

// node is a value of a pickle, 24 bytes without a pointer.
type node struct {
	what byte   // as of a token, or a function
	kind uint8  // as of a token
	room uint32 // tokList, tokMap: places that are reserved for items
	at   uint64 // tokNumber: its bits; else where the content begins: in the pickle, or in kids
	n    uint64 // length of the content
}

// What only lies on the stack of a pickle: the functions that it may name.
const (
	nodeExtension = 100 + iota // extension(code, content): a value that msgpack has an extension for
	nodeSame                   // same(value): the value
)

// tree is what a pickle has made, and where in it the decoder is.
type tree struct {
	b      []byte // the pickle
	nodes  []node
	kids   []uint32 // items of lists and maps, by their nodes
	frames []frame  // lists and maps that the decoder is in, the innermost last
	left   int64    // how much more it may give, see maxUnpickled
}

// frame is a list or a map: the places of its items in kids that are still to come.
type frame struct{ next, end uint64 }

// maxUnpickled limits the items and bytes that come out of a pickle. An object that occurs several times counts each time, and so do its
// items: a few lists that hold each other twice would fill any memory. They count before room is made for them.
const maxUnpickled = 1 << 32

var (
	errPickle    = fmt.Errorf("the pickle is damaged")
	errUnpickled = fmt.Errorf("objects that occur several times in the pickle make more than %d bytes or values", uint64(maxUnpickled))
)

// next is the token of the next value, depth first.
func (t *tree) next() (token, error) {
	f := &t.frames[len(t.frames)-1]
	for f.next == f.end {
		if len(t.frames) == 1 {
			return token{}, errTruncated
		}
		t.frames = t.frames[:len(t.frames)-1]
		f = &t.frames[len(t.frames)-1]
	}
	o := &t.nodes[t.kids[f.next]]
	f.next++
	switch o.what {
	case tokNumber:
		return numberToken(numberKind(o.kind), o.at), nil
	case tokNil:
		return token{}, nil
	}
	if o.what >= nodeExtension {
		return token{}, errPickle // functions are no values
	}
	if t.left -= int64(o.n); t.left < 0 {
		return token{}, errUnpickled
	}
	n := int64(o.n)
	switch o.what {
	case tokMap:
		n /= 2
		fallthrough
	case tokList:
		t.frames = append(t.frames, frame{o.at, o.at + o.n})
		return token{what: o.what, n: n}, nil
	}
	return dataToken(o.what, o.kind, t.b[o.at:o.at+o.n]), nil
}

// peek is the next value, nil where there is none in this list.
func (t *tree) peek() *node {
	for i := len(t.frames) - 1; i >= 0; i-- {
		if f := t.frames[i]; f.next < f.end {
			return &t.nodes[t.kids[f.next]]
		}
	}
	return nil
}

// pass passes over the next value: its items are not entered.
func (t *tree) pass() error {
	token, err := t.next()
	if token.what == tokList || token.what == tokMap {
		t.frames = t.frames[:len(t.frames)-1]
	}
	return err
}

// unpickler runs a pickle.
type unpickler struct {
	tree
	rest  []byte
	stack []uint32 // nodes
	marks []int    // heights of the stack
	memo  []uint32
}

// used are unpicklers whose memory, some 30 bytes for an operation, serves the next chunk.
var used = sync.Pool{New: func() any { return new(unpickler) }}

const maxUsed = 1 << 16 // nodes that are kept, 1.5 MB

func (u *unpickler) reset(b []byte) {
	*u = unpickler{
		tree: tree{b: b, nodes: u.nodes[:0], kids: u.kids[:0], frames: u.frames[:0], left: maxUnpickled},
		rest: b, stack: u.stack[:0], marks: u.marks[:0], memo: u.memo[:0],
	}
}

// release ends the use of an unpickler.
func (u *unpickler) release() {
	if cap(u.nodes) <= maxUsed {
		u.reset(nil)
		used.Put(u)
	}
}

// unpickle runs the pickle of a list. Its tree stands before the list's first value; n is their number.
func unpickle(b []byte) (u *unpickler, n int, err error) {
	if uint64(len(b)) > maxUnpickled {
		return nil, 0, errTooLong
	}
	u = used.Get().(*unpickler)
	u.reset(b)
	for {
		if len(u.rest) == 0 {
			return nil, 0, errTruncated
		}
		op := u.rest[0]
		u.rest = u.rest[1:]
		if op == '.' {
			break
		}
		if err := u.step(op); err != nil {
			return nil, 0, err
		}
	}
	if len(u.stack) != 1 || len(u.marks) != 0 {
		return nil, 0, errPickle
	}
	top := u.nodes[u.stack[0]]
	if top.what != tokList {
		return nil, 0, fmt.Errorf("the pickle holds no list")
	}
	u.frames = append(u.frames, frame{top.at, top.at + top.n})
	return u, int(top.n), nil
}

// push makes a node.
func (u *unpickler) push(o node) error {
	u.stack = append(u.stack, uint32(len(u.nodes)))
	u.nodes = append(u.nodes, o)
	return nil
}

func (u *unpickler) integer(i int64, err error) error {
	if err != nil {
		return err
	}
	return u.push(node{what: tokNumber, at: uint64(i)})
}

// take reads n bytes of the pickle, and says where they stand.
func (u *unpickler) take(n uint64) (b []byte, at uint64, err error) {
	if n > uint64(len(u.rest)) {
		return nil, 0, errTruncated
	}
	at = uint64(len(u.b) - len(u.rest))
	b, u.rest = u.rest[:n], u.rest[n:]
	return b, at, nil
}

// uint reads an unsigned number of so many bytes.
func (u *unpickler) uint(width int) (x uint64, err error) {
	if width > len(u.rest) {
		return 0, errTruncated
	}
	for i, c := range u.rest[:width] {
		x |= uint64(c) << (8 * i)
	}
	u.rest = u.rest[width:]
	return x, nil
}

// content pushes a value of bytes that stand behind their number.
func (u *unpickler) content(what byte, width int) error {
	n, err := u.uint(width)
	if err != nil {
		return err
	}
	_, at, err := u.take(n)
	if err != nil {
		return err
	}
	return u.push(node{what: what, at: at, n: n})
}

// last takes n values off the stack, with n < 0 those above the last mark, and the mark.
func (u *unpickler) last(n int) ([]uint32, error) {
	floor := 0
	if m := len(u.marks); m > 0 {
		floor = u.marks[m-1]
	}
	switch {
	case n >= 0:
		floor = max(floor, len(u.stack)-n)
		if len(u.stack)-n < floor {
			return nil, errPickle
		}
	case len(u.marks) == 0:
		return nil, errPickle
	default:
		u.marks = u.marks[:len(u.marks)-1]
	}
	items := u.stack[floor:]
	u.stack = u.stack[:floor]
	return items, nil
}

// add puts values into the list or map below them.
func (u *unpickler) add(n int, what byte) error {
	items, err := u.last(n)
	if err != nil {
		return err
	}
	if len(u.stack) == 0 || len(u.marks) > 0 && u.marks[len(u.marks)-1] == len(u.stack) {
		return errPickle
	}
	o := &u.nodes[u.stack[len(u.stack)-1]]
	if o.what != what || what == tokMap && len(items)%2 != 0 {
		return errPickle
	}
	u.extend(o, items)
	return nil
}

// extend gives a list or a map more items. They stand side by side: one that has grown out of its place gets twice as much elsewhere.
func (u *unpickler) extend(o *node, items []uint32) {
	n := o.n + uint64(len(items))
	if n > uint64(o.room) {
		old := u.kids[o.at : o.at+o.n]
		o.at, o.room = uint64(len(u.kids)), uint32(n)
		u.kids = append(append(u.kids, old...), items...)
		if o.n > 0 {
			u.kids = append(u.kids, make([]uint32, n)...)
			o.room = uint32(2 * n)
		}
	} else {
		copy(u.kids[o.at+o.n:], items)
	}
	o.n = n
}

// tuple makes a list of values.
func (u *unpickler) tuple(n int) error {
	items, err := u.last(n)
	if err != nil {
		return err
	}
	o := node{what: tokList}
	u.extend(&o, items)
	return u.push(o)
}

// step runs one operation; the letters are those of Python's pickletools.
func (u *unpickler) step(op byte) error {
	switch op {
	case 0x94: // MEMOIZE
		if len(u.stack) == 0 {
			return errPickle
		}
		u.memo = append(u.memo, u.stack[len(u.stack)-1])
	case 'h': // BINGET
		return u.recall(1)
	case 'j': // LONG_BINGET
		return u.recall(4)
	case 0x8c: // SHORT_BINUNICODE
		return u.content(tokString, 1)
	case 'G': // BINFLOAT
		b, _, err := u.take(8)
		if err != nil {
			return err
		}
		return u.push(node{what: tokNumber, kind: uint8(isFloat), at: binary.BigEndian.Uint64(b)})
	case '(': // MARK
		u.marks = append(u.marks, len(u.stack))
	case 'N': // NONE
		return u.push(node{})
	case 0x88, 0x89: // NEWTRUE, NEWFALSE
		return u.push(node{what: tokNumber, kind: uint8(isBool), at: uint64(0x89 - op)})
	case ']', 0x8f: // EMPTY_LIST, EMPTY_SET
		return u.push(node{what: tokList})
	case '}': // EMPTY_DICT
		return u.push(node{what: tokMap})
	case 'a': // APPEND
		return u.add(1, tokList)
	case 'e', 0x90: // APPENDS, ADDITEMS
		return u.add(-1, tokList)
	case 's': // SETITEM
		return u.add(2, tokMap)
	case 'u': // SETITEMS
		return u.add(-1, tokMap)
	case ')': // EMPTY_TUPLE
		return u.tuple(0)
	case 0x85, 0x86, 0x87: // TUPLE1 to 3
		return u.tuple(int(op - 0x84))
	case 't', 0x91: // TUPLE, FROZENSET
		return u.tuple(-1)
	default:
		return u.rare(op)
	}
	return nil
}

func (u *unpickler) recall(width int) error {
	i, err := u.uint(width)
	if err != nil || i >= uint64(len(u.memo)) {
		return errPickle
	}
	u.stack = append(u.stack, u.memo[i])
	return nil
}

// rare runs the operations that are neither many nor short.
func (u *unpickler) rare(op byte) error {
	switch op {
	case 'K': // BININT1
		n, err := u.uint(1)
		return u.integer(int64(n), err)
	case 'M': // BININT2
		n, err := u.uint(2)
		return u.integer(int64(n), err)
	case 'J': // BININT
		n, err := u.uint(4)
		return u.integer(int64(int32(n)), err)
	case 0x8a: // LONG1
		return u.long(1)
	case 0x8b: // LONG4
		return u.long(4)
	case 'X': // BINUNICODE
		return u.content(tokString, 4)
	case 0x8d: // BINUNICODE8
		return u.content(tokString, 8)
	case 'C': // SHORT_BINBYTES
		return u.content(tokBytes, 1)
	case 'B': // BINBYTES
		return u.content(tokBytes, 4)
	case 0x8e, 0x96: // BINBYTES8, BYTEARRAY8
		return u.content(tokBytes, 8)
	case 0x80: // PROTO
		_, _, err := u.take(1)
		return err
	case 0x95: // FRAME
		_, _, err := u.take(8)
		return err
	case 0x93: // STACK_GLOBAL
		return u.global()
	case 'R': // REDUCE
		return u.call()
	}
	return fmt.Errorf("the pickle makes more than plain values: operation %#x", op)
}

func (u *unpickler) long(width int) error {
	n, err := u.uint(width)
	if err != nil {
		return err
	}
	b, at, err := u.take(n)
	if err != nil {
		return err
	}
	if n <= 9 {
		var word [8]byte
		negative := n > 0 && b[n-1]&0x80 != 0
		if negative {
			word = [8]byte{255, 255, 255, 255, 255, 255, 255, 255}
		}
		copy(word[:], b)
		switch x := binary.LittleEndian.Uint64(word[:]); {
		case n <= 8:
			return u.integer(int64(x), nil)
		case b[8] == 0 && !negative:
			return u.push(node{what: tokNumber, kind: uint8(unsigned(x).what), at: x})
		}
	}
	return u.push(node{what: tokExt, kind: extBig, at: at, n: n})
}

// global is one of the two functions that a pickle may name.
func (u *unpickler) global() error {
	names, err := u.last(2)
	if err != nil {
		return err
	}
	module, name := u.nodes[names[0]], u.nodes[names[1]]
	if module.what != tokString || name.what != tokString {
		return errPickle
	}
	switch text := string(u.b[module.at:module.at+module.n]) + "." + string(u.b[name.at:name.at+name.n]); text {
	case "schwimmbad_go._msgpack.extension":
		return u.push(node{what: nodeExtension})
	case "schwimmbad_go._msgpack.same":
		return u.push(node{what: nodeSame})
	default:
		return fmt.Errorf("the pickle makes more than plain values: it names %.100q", text)
	}
}

// call does what the function on the stack would do with the arguments above it.
func (u *unpickler) call() error {
	both, err := u.last(2)
	if err != nil {
		return err
	}
	function, args := u.nodes[both[0]], u.nodes[both[1]]
	if args.what != tokList {
		return errPickle
	}
	items := u.kids[args.at : args.at+args.n]
	switch {
	case function.what == nodeSame && len(items) == 1:
		u.stack = append(u.stack, items[0])
		return nil
	case function.what == nodeExtension && len(items) == 2:
		code, data := u.nodes[items[0]], u.nodes[items[1]]
		if code.what != tokNumber || numberKind(code.kind) != isInt || data.what != tokBytes {
			return errPickle
		}
		return u.push(node{what: tokExt, kind: uint8(code.at), at: data.at, n: data.n})
	}
	return errPickle
}
