package wire

import "errors"

// What can be wrong with received bytes. The errors returned wrap one of these and name the figures.
var (
	// ErrShort: the bytes end before the frame or message does.
	ErrShort = errors.New("wire: bytes end too soon")
	// ErrMagic: these bytes are no frame.
	ErrMagic = errors.New("wire: not a frame")
	// ErrVersion: a frame of another protocol version; one of the two sides must be updated.
	ErrVersion = errors.New("wire: other protocol version")
	// ErrTooBig: a length is beyond the limits of the reader.
	ErrTooBig = errors.New("wire: too big")
	// ErrBadField: a header field has a value that does not exist.
	ErrBadField = errors.New("wire: bad header field")
	// ErrBadTable: an entry of the buffer table, or another offset, points outside the arena.
	ErrBadTable = errors.New("wire: offset outside the arena")
	// ErrControl: a control message is not well-formed msgpack, or not of the expected shape.
	ErrControl = errors.New("wire: bad control message")
)
