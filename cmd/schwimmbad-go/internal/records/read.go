package records

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/vmihailenco/msgpack/v5"
)

const readBuffer = 1 << 20

// Read cuts a stream into records. An error is the last thing it yields: what comes behind it cannot be told apart. Memory is bounded by the
// longest record. The bytes of a record are the receiver's to keep.
func Read(in io.Reader, format Format) iter.Seq2[[]byte, error] {
	buffered := bufio.NewReaderSize(in, readBuffer)
	switch format {
	case CSV:
		return readCSV(buffered)
	case Msgpack:
		return readMsgpack(buffered)
	case Lines:
		return readLines(buffered, false)
	}
	return readLines(buffered, true)
}

// bom is the byte order mark that some editors put in front of a text.
var bom = []byte("\ufeff")

// readLines yields lines without their ends. Blank lines are texts, but no JSON: there they are left out.
func readLines(in *bufio.Reader, skipBlank bool) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for first := true; ; first = false {
			line, err := in.ReadBytes('\n')
			if first {
				line = bytes.TrimPrefix(line, bom)
			}
			if len(line) > 0 {
				line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
				if !(skipBlank && len(bytes.TrimSpace(line)) == 0) && !yield(line, nil) {
					return
				}
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					yield(nil, err)
				}
				return
			}
		}
	}
}

// readCSV yields rows as JSON objects whose members are the columns, in the order of the header. Values are strings: whether 007 is a number
// is for the function to know.
func readCSV(in *bufio.Reader) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		rows := csv.NewReader(in)
		rows.ReuseRecord = true
		header, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		var keys [][]byte
		if err == nil {
			keys, err = csvKeys(header)
		}
		if err != nil {
			yield(nil, err)
			return
		}
		for {
			row, err := rows.Read()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(csvObject(keys, row), nil) {
				return
			}
		}
	}
}

// csvKeys are the JSON strings of the column names, with the colon.
func csvKeys(header []string) ([][]byte, error) {
	header[0] = strings.TrimPrefix(header[0], string(bom))
	seen := make(map[string]bool)
	var keys [][]byte
	for _, name := range header {
		if seen[name] {
			return nil, fmt.Errorf("two columns of the CSV header are called %q", name)
		}
		seen[name] = true
		keys = append(keys, append(jsonString(name), ':'))
	}
	return keys, nil
}

func csvObject(keys [][]byte, row []string) []byte {
	object := []byte{'{'}
	for i, value := range row {
		if i > 0 {
			object = append(object, ',')
		}
		object = append(append(object, keys[i]...), jsonString(value)...)
	}
	return append(object, '}')
}

func jsonString(text string) []byte {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(text) // a string always can
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}

func readMsgpack(in *bufio.Reader) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		decoder := msgpack.NewDecoder(in)
		for n := 0; ; n++ {
			if _, err := in.Peek(1); err != nil {
				if !errors.Is(err, io.EOF) {
					yield(nil, err)
				}
				return
			}
			raw, err := decoder.DecodeRaw()
			if err != nil {
				if errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				yield(nil, fmt.Errorf("msgpack value %d: %w", n, err))
				return
			}
			if !yield(bytes.Clone(raw), nil) {
				return
			}
		}
	}
}
