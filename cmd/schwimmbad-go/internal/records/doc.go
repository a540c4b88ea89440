// Package records cuts a stream of bytes into records and writes results as records: JSON lines, plain lines, CSV, msgpack.
//
// A record is handed on as the bytes that it came as, but for CSV, whose rows become JSON objects. So nothing is lost on the way to a
// function in another language, and no time either.
package records

import (
	"fmt"
	"path/filepath"
	"strings"
)

// Format of a file of records.
type Format string

// The formats.
const (
	JSONLines Format = "jsonl"   // one JSON value per line
	Lines     Format = "lines"   // one text per line
	CSV       Format = "csv"     // a header and rows
	Msgpack   Format = "msgpack" // one value behind the other
)

// Formats lists them.
var Formats = []Format{JSONLines, Lines, CSV, Msgpack}

// Parse finds a format by its name.
func Parse(name string) (Format, error) {
	for _, format := range Formats {
		if name == string(format) {
			return format, nil
		}
	}
	return "", fmt.Errorf("there is no format %q: it may be jsonl, lines, csv or msgpack", name)
}

// OfFile guesses a format by a file's name; empty: it does not tell.
func OfFile(path string) Format {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".jsonl", ".ndjson", ".json":
		return JSONLines
	case ".txt", ".list", ".lst":
		return Lines
	case ".csv":
		return CSV
	case ".msgpack", ".mpk", ".mp":
		return Msgpack
	}
	return ""
}

// TaskEncoding is how a record's bytes are to be read: "json", "text" or "msgpack".
func (f Format) TaskEncoding() string {
	switch f {
	case Lines:
		return "text"
	case Msgpack:
		return "msgpack"
	}
	return "json"
}

// ResultEncoding is how a Writer wants results: "json", "text", "msgpack", or "row" for tables, see Row.
func (f Format) ResultEncoding() string {
	if f == CSV {
		return "row"
	}
	return f.TaskEncoding()
}
